"""Rows of numbers by 64-bit key, the least recently used forgotten first: a table, not an object a row.

Not thread-safe: its owner locks.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from features.pages import zeros

F32 = npt.NDArray[np.float32]


class LruRows:
    """At most `capacity` rows f32 (width,); memory: the rows in use, and about 200 bytes each to find them."""

    def __init__(self, capacity: int, width: int) -> None:
        self._rows: F32 = zeros((capacity, width), np.float32)
        self._stamps: npt.NDArray[np.int64] = zeros(capacity, np.int64)
        self._place: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._place)

    def get(self, key: int, stamp: int = 0) -> F32 | None:
        """A copy of the row, which is now the newest, or None; None too where it was put with another stamp."""
        place = self._place.get(key)
        if place is None or self._stamps[place] != stamp:
            return None
        self._place.move_to_end(key)
        found: F32 = self._rows[place].copy()
        return found

    def put(self, key: int, row: F32, stamp: int = 0) -> None:
        """Keep a row in place of the key's last one; the oldest goes when there is no room."""
        place = self._place.get(key)
        if place is None:
            full = len(self._place) == len(self._rows)
            place = self._place.popitem(last=False)[1] if full else len(self._place)
        self._place[key] = place
        self._place.move_to_end(key)
        self._rows[place] = row
        self._stamps[place] = stamp
