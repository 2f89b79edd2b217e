"""Thinning: of shown items without a click only a share teaches, with the inverse weight. Positives are never thinned.

Whether an item is kept follows from the ranking, the item and the rate alone, and the rate is a part of the cut's
record: a replay keeps the same ones. What a lower rate keeps, a higher one keeps, too. How the rate moves is `Pace`'s;
it looks at how far the trainer is behind its log, and moves nothing but through the next cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def draws(ranking: int, items: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each item key u64[n] of a ranking (its hash): splitmix64 of both (Steele et al. 2014)."""
    mixed = items * _MIX[0] ^ np.uint64(ranking)
    mixed = (mixed ^ mixed >> np.uint64(30)) * _MIX[1]
    mixed = (mixed ^ mixed >> np.uint64(27)) * _MIX[2]
    mixed = (mixed ^ mixed >> np.uint64(31)) >> np.uint64(11)
    return mixed.astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Pace:
    """The share of negatives to keep: `share` always; down to `least`, by halves, while the trainer is more than
    `after` ms behind its log, and back by doubling once it is less than half of that."""

    share: float = 1.0
    least: float = 1.0
    after: int = 30_000

    def next(self, before: float, behind: int | None) -> float:
        """For the next cut. before: of the last one; behind: ms, None where it reaches the end of the log."""
        if behind is None or self.least >= self.share:
            return self.share
        if behind > self.after:
            return max(self.least, min(before, self.share) / 2)
        return min(self.share, before if behind > self.after / 2 else 2 * before)
