"""A seeded shop whose taste drifts: rankings, clicks with log-normal delays, and faults in what is reported.

It exists to try the learner and its gate on a truth that is known. It is no model of any real shop, and no
figure from it says anything about ranking quality.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.join import Shown

Floats = NDArray[np.float64]

DELAY_MEDIAN_S = 15.0
DELAY_SIGMA = float(np.log(240.0 / 15.0) / 1.6448536269514722)  # p95 at 4 minutes


@dataclass(frozen=True)
class Fault:
    """What goes wrong from `start` to `end` (seconds): `lost`, `flood` (of the categories), `shuffled`, `nan`."""

    kind: str
    start: float
    end: float
    categories: tuple[int, ...] = ()

    def at(self, second: float) -> bool:
        """Is the fault on at this time?"""
        return self.start <= second < self.end


@dataclass(frozen=True)
class Act:
    """A reported click (behaviour 1) or purchase (4), at time t (ms)."""

    t: int
    ranking: int
    item: int
    behaviour: int = 1


@dataclass
class DriftShop:
    """d inputs: intercept, `categories` indicators, normal features. Its prior is the truth at the start."""

    seed: int = 5
    d: int = 24
    categories: int = 10
    items: int = 10  # shown a ranking
    rankings_a_second: int = 20
    click_logit: float = -2.5
    drift: float = 0.0  # random walk of each feature weight a root second
    signal: float = 0.6
    prior_error: float = 0.0  # of each prior weight against the truth at the start
    fault: Fault | None = None
    start: int = 1_700_000_000_000
    truth: Floats = field(init=False)
    prior: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self.truth = self._random.normal(0, self.signal, self.d)
        self.truth[1 : 1 + self.categories] *= 0.5
        self.truth[0] = self.click_logit
        self.prior = self.truth + self._random.normal(0, 1, self.d) * self.prior_error
        self._queue: list[tuple[int, int, Act]] = []
        self._made = 0

    def covariance(self, scale: float = 0.05) -> Floats:
        """A prior covariance f64[d, d]."""
        return np.eye(self.d) * scale

    def _inputs(self) -> tuple[Floats, NDArray[np.int64]]:
        n = self.items
        category = self._random.integers(0, self.categories, n)
        z = self._random.normal(0, 1, (n, self.d))
        z[:, 0] = 1.0
        z[:, 1 : 1 + self.categories] = category[:, None] == np.arange(self.categories)
        return z.astype(np.float16).astype(np.float64), category

    def _report(self, t: int, ranking: int, keys: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        for place in places:
            delay = DELAY_MEDIAN_S * float(np.exp(DELAY_SIGMA * self._random.normal()))
            act = Act(t + int(delay * 1000), ranking, int(keys[place]))
            heapq.heappush(self._queue, (act.t, len(self._queue) + self._made * 1_000, act))

    def _fault_labels(self, clicked: NDArray[np.bool_], category: NDArray[np.int64]) -> NDArray[np.bool_]:
        fault = self.fault
        if fault is not None and fault.kind == "flood":
            return clicked | np.isin(category, fault.categories)
        if fault is not None and fault.kind == "shuffled":
            return self._random.random(len(clicked)) < clicked.mean() if clicked.any() else clicked
        return clicked

    def second(self, s: int) -> tuple[list[Shown], list[Act], list[tuple[Floats, Floats]]]:
        """What happens in second s: rankings, acts reported, and (z, true click probability) of each ranking."""
        self.truth[1:] += self._random.normal(0, 1, self.d - 1) * self.drift
        on = self.fault is not None and self.fault.at(s)
        shown, truths = [], []
        for k in range(self.rankings_a_second):
            t = self.start + s * 1_000 + k * 1_000 // self.rankings_a_second
            z, category = self._inputs()
            p = 1.0 / (1.0 + np.exp(-z @ self.truth))
            clicked = self._random.random(self.items) < p
            self._made += 1
            keys = np.arange(self.items, dtype=np.uint64) + np.uint64(self._made * 1_000)
            self._report(
                t, self._made, keys, np.flatnonzero(self._fault_labels(clicked, category) if on else clicked)
            )
            rows = z.astype(np.float16)
            if on and self.fault is not None and self.fault.kind == "nan":
                rows[:: max(1, self.items // 3), -1] = np.nan
            positions = np.arange(1, self.items + 1, dtype=np.int16)
            shown.append(
                Shown(self._made, t, self._made, 0, keys, category.astype(np.uint64) + np.uint64(1),
                      positions, rows, control=self._made % 50 == 0)
            )  # fmt: skip
            truths.append((z, p))
        return shown, list(self._due(s, on)), truths

    def _due(self, s: int, on: bool) -> Iterator[Act]:
        end = self.start + (s + 1) * 1_000
        while self._queue and self._queue[0][0] < end:
            act = heapq.heappop(self._queue)[2]
            if not (on and self.fault is not None and self.fault.kind == "lost"):
                yield act
