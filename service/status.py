"""How old what is served is, and whether to call it stale. It only reads what consumer and replica say."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from service.metrics import Metrics
from service.ranked import Question
from service.replica import Replica
from service.snapshot import Snapshot

STATE_FAILED_MS = 5_000


class Fresh(NamedTuple):
    """Of one answer: ages in ms (None before there is such a state), the weights' event time, stale or not."""

    ages_ms: dict[str, int | None]
    trained_through: int | None
    stale: bool


class Freshness:
    """The three ages, as of the time of a question."""

    def __init__(
        self,
        user_through: Callable[[], int],
        failing: Callable[[], str | None],
        replica: Replica,
        base_through: int | None,
        metrics: Metrics,
    ) -> None:
        """failing: names the part that does not answer (log, state), None if all is well."""
        self._user_through, self._failing, self._replica = user_through, failing, replica
        self._base_through, self._metrics = base_through, metrics
        self._state_failed_at = -STATE_FAILED_MS

    def state_failed(self, t: int) -> None:
        """A user's state could not be read."""
        self._state_failed_at = t

    def user_through(self) -> int | None:
        """The time (ms) through which user states hold what the log held; None before that is known."""
        return self._user_through() or None

    def reason(self, question: Question) -> str | None:
        """Why an answer is stale: token, log, state, store or trainer; None when it is not."""
        if question.missed_token:
            return "token"
        if 0 <= question.t - self._state_failed_at < STATE_FAILED_MS:
            return "state"
        if self._replica.failing or self._replica.copied:
            return "store"
        return self._failing() or ("trainer" if self._replica.trainer_silent else None)

    def of(self, question: Question, snapshot: Snapshot, *, count: bool = True) -> Fresh:
        """Ages and staleness of an answer that was made with `snapshot`; counted unless told otherwise."""
        counters, weights = self._replica.through()
        t, user = question.t, self.user_through()
        ages = {
            "user": None if user is None else max(0, t - user),
            "counters": None if counters is None else max(0, t - counters),
            "weights": None if weights is None else max(0, t - weights),
        }
        reason = self.reason(question)
        if reason is not None and count:
            self._metrics.stale.labels(reason).inc()
        through = weights if weights is not None else self._base_through
        return Fresh(ages, through, reason is not None)
