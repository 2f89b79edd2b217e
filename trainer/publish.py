"""What goes out at the end of a cut: the weights that are served, held or not. It writes nothing.

Learner, gate and join meet here, away from log and store, so that tests drive them by plain calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.weight_version import encode_weights
from trainer.gate import PRIOR, Gate
from trainer.hold import EVENT, INFER, NEGATIVE, PURCHASE, RETRY, SERVED, Hold
from trainer.join import Join, JoinRules
from trainer.learner import Learner, Prior

Floats = NDArray[np.float64]
TIMERS = frozenset((NEGATIVE, RETRY, PURCHASE, INFER, SERVED))


@dataclass(frozen=True)
class Push:
    """The weights to serve from now on, and why they are not the learner's own (held)."""

    weights: bytes
    changed: bool  # against the push before
    held: str | None


class Learning:
    """Hold, join, learner and gate of one base; `skipped`: ranges of event places that teach nothing."""

    def __init__(
        self, prior: Prior, bounds: NDArray[np.int64], rules: JoinRules, *, noise: float, rate: float
    ) -> None:
        """bounds: the terms of the last layer; see `Settings` for noise and rate."""
        self.learner = Learner(prior, bounds, noise=noise, rate=rate, waits=_waits(rules))
        self.gate = Gate()
        self.gate.follow(rules.negative_after + rules.hold)
        self.hold = Hold()
        self.skipped: list[tuple[int, int]] = []
        self.join = Join(int(bounds.max()), rules, self.learner, self.gate, self.hold, self.teaches)
        self.served = self.learner.priors()
        self.last = self._encode()

    def _encode(self) -> bytes:
        return encode_weights(self.served["click"], self.served["purchase"])

    def teaches(self, at: int) -> bool:
        """May what the event at this place showed move the weights?"""
        return not any(start <= at < end for start, end in self.skipped)

    def release(self, through: int, take: Callable[[int, Any], None]) -> None:
        """Let out what is due: timers to the join, held events to `take(t, payload)`."""
        for due, kind, _, payload in self.hold.release(through):
            if kind == EVENT:
                take(due, payload)
            else:
                self.join.fire(due, kind, payload)

    def push(self, v: int, watermark: int, offsets: dict[str, int]) -> Push:
        """End of cut v: nothing waits in a batch, the gate judges, and the weights to serve are chosen."""
        self.learner.flush(self.join.observe)
        means = self.learner.means()
        held = self.gate.check(means, self.served, watermark)
        wanted = self.gate.state.wanted
        if held is None:
            self.gate.pushed(v, watermark, offsets, means)
            self.served = means
        elif wanted is not None:
            self.served = self.gate.snapshot(wanted["to"]) or self.learner.priors()
        weights, before = self._encode(), self.last
        self.last = weights
        return Push(weights, weights != before, held)

    def roll_back(
        self, to: int, means: Mapping[str, Floats] | None, t: int, skip: list[tuple[int, int]]
    ) -> None:
        """Put the weights back to those of version `to` (PRIOR, or means None: the base's prior).

        skip: ranges of event places whose rankings teach nothing from now on."""
        back = self.learner.priors() if to == PRIOR or means is None else dict(means)
        self.learner.set_means(back)
        self.served = {head: mean.copy() for head, mean in back.items()}
        self.join.undo_after(to)
        self.gate.rolled_back(to, t)
        self.skip(skip)

    def skip(self, skipped: list[tuple[int, int]]) -> None:
        """Rankings of these event places [start, end) teach nothing from now on."""
        self.skipped = merge([*self.skipped, *(one for one in skipped if one[1] > one[0])])

    def follow(self, rules: JoinRules, *, noise: float, rate: float, resized: bool) -> None:
        """Go on by other rules; with another capacity what waits in the join is forgotten, counted."""
        self.join.rules = rules
        self.learner.follow(noise=noise, rate=rate, waits=_waits(rules))
        self.gate.follow(rules.negative_after + rules.hold)
        if resized:
            self.join.count("dropped_by_settings", self.join.shown.next - self.join.shown.oldest)
            self.hold.drop(TIMERS)
            self.join.clear()
            self.learner.forget()

    def take_over(self, old: Learning) -> None:
        """After a change of base: held events, counts and skipped ranges go on; labels that wait do not."""
        self.hold = self.join.hold = old.hold
        self.skipped = old.skipped
        self.join.counts = old.join.counts
        self.join.cut = old.join.cut
        self.join.count("dropped_by_base", old.join.shown.next - old.join.shown.oldest)


def _waits(rules: JoinRules) -> tuple[int, int]:
    """ms from shown to negative, and from click to no purchase."""
    return rules.negative_after, rules.purchase_wait


def merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places as few ascending ranges [start, end)."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
