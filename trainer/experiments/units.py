"""Sums by unit (user, else session, else request): who was in which arm, and what became of what was shown to her.

At most MAX_UNITS of them, 100 bytes each: the memory of a report. It reads no log and judges nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.keys import KeyIndex

MAX_UNITS = 1 << 22
ANSWERS, IMPRESSIONS, CLICKS, PURCHASES, REVENUE = range(5)
COLUMNS = ("answers", "impressions", "clicks", "purchases", "revenue")
_FIRST = 1_024


class Units:
    """Slots by unit key, each with an arm and the five sums. `refused`: answers of units beyond the bound."""

    def __init__(self, most: int = MAX_UNITS) -> None:
        """most: units at most."""
        self._index = KeyIndex(most)
        self._arm = np.full(_FIRST, -1, np.int16)
        self._mixed = np.zeros(_FIRST, bool)
        self._sums = np.zeros((_FIRST, len(COLUMNS)))

    def __len__(self) -> int:
        return len(self._index)

    @property
    def refused(self) -> int:
        """Answers whose unit found no place any more."""
        return self._index.refused

    def slot(self, key: int, arm: int) -> int:
        """The slot of a unit that was answered in an arm; −1 where there is no room. A second arm makes it mixed."""
        slot = self._index.intern(key)
        if slot < 0:
            return -1
        if slot >= len(self._arm):
            self._grow()
        if self._arm[slot] < 0:
            self._arm[slot] = arm
        elif self._arm[slot] != arm:
            self._mixed[slot] = True
        return slot

    def _grow(self) -> None:
        more = len(self._arm)
        self._arm = np.concatenate([self._arm, np.full(more, -1, np.int16)])
        self._mixed = np.concatenate([self._mixed, np.zeros(more, bool)])
        self._sums = np.concatenate([self._sums, np.zeros((more, len(COLUMNS)))])

    def add(self, slot: int, column: int, amount: float = 1.0) -> None:
        """Add to a sum of a unit."""
        self._sums[slot, column] += amount

    @property
    def keys(self) -> NDArray[np.uint64]:
        """u64 (n,): unit keys by slot."""
        return self._index.keys

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """bool (n,): seen in more than one arm (its salt or shares were changed); reports leave it out."""
        return self._mixed[: len(self)]

    @property
    def arms(self) -> NDArray[np.int16]:
        """i16 (n,): the arm of each unit's first answer."""
        return self._arm[: len(self)]

    @property
    def sums(self) -> NDArray[np.float64]:
        """f64 (n, 5): COLUMNS of each unit."""
        return self._sums[: len(self)]
