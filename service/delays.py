"""How long an event takes until a ranker serves it, for each of the three states. It reads neither log nor store.

Where another process keeps user states (`states_beside.py`), an event is served once their store says so. Of the
interactions that the consumer of user states reads, some are followed: from the time at which the log took one
to the time at which user state has it, at which the served counters go past it, and at which weights that learned it
are served (counters and labels leave the hold together). Those read before the consumer had caught up for the first
time are not followed: they tell how long the ranker was down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Histogram

from features.records import Record, offset_key

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.2, 5.5, 6.0, 8.0, 15.0, 30.0, 60.0, 300.0, 1_800.0)
FOLLOWED = 32
"""Events of one batch that are followed, evenly spread: all of them where it is small."""
WAITING = 4_096
"""Events that wait for counters or weights, at most; while it is full no further one is followed."""


class Followed(NamedTuple):
    """Times of an event in ms: when the log took it, and by which counters and weights count it."""

    taken: int
    effective: int


class Delays:
    """The histogram `repl_event_to_served_seconds`. One thread calls `applied` or `read`, another one `served`;
    `stored` is called by one at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        found = Histogram(
            "repl_event_to_served_seconds",
            "from the log's acceptance of an event until this ranker serves it, by state",
            ["state"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._user, self._counters, self._weights = (found.labels(name) for name in ("user", "counters", "weights"))
        self._for_counters: deque[Followed] = deque()
        self._for_weights: deque[Followed] = deque()
        self._for_user: dict[str, deque[tuple[int, int]]] = {}
        """By partition: the offset after an event, and when the log took it."""

    def applied(self, records: Sequence[Record], now: int) -> None:
        """A batch is in user states since `now` (ms)."""
        for record in self._followed(records):
            self._user.observe(max(0, now - record.append_time) / 1_000)

    def read(self, records: Sequence[Record]) -> None:
        """A batch is on the log; `stored` says when it is in user states."""
        for record in self._followed(records):
            waiting = self._for_user.setdefault(offset_key(record.stream, record.partition), deque(maxlen=WAITING))
            waiting.append((record.offset + 1, record.append_time))

    def _followed(self, records: Sequence[Record]) -> list[Record]:
        """Those of a batch that are followed; from now on they wait for counters and weights."""
        live = [record for record in records if record.kind == "interaction" and not record.imported]
        some = live[:: -(-len(live) // FOLLOWED) or 1]
        for waiting in (self._for_counters, self._for_weights):
            room = max(0, WAITING - len(waiting))
            waiting.extend(Followed(record.append_time, record.effective_time) for record in some[:room])
        return some

    @property
    def waits_for_users(self) -> bool:
        """Whether events wait for `stored`."""
        return any(self._for_user.copy().values())

    def stored(self, positions: Mapping[str, int], now: int) -> None:
        """User states hold all that lies before these offsets at `now` (ms)."""
        for name, waiting in self._for_user.copy().items():
            through = positions.get(name, 0)
            while waiting and waiting[0][0] <= through:
                self._user.observe(max(0, now - waiting.popleft()[1]) / 1_000)

    def served(self, counters: int | None, weights: int | None, now: int) -> None:
        """Event times (ms) through which counters and weights are served at `now`; None where nothing is known."""
        for waiting, through, histogram in (
            (self._for_counters, counters, self._counters),
            (self._for_weights, weights, self._weights),
        ):
            while through is not None and waiting and waiting[0].effective <= through:
                histogram.observe(max(0, now - waiting.popleft().taken) / 1_000)
