"""A set of catalogue rows that wait for something: a flag a row, taken in rounds. Not thread-safe: its owner locks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
_STRETCH = 8_192


class RowSet:
    """Adding and taking cost what is added or taken, however many rows wait."""

    def __init__(self, rows: Rows) -> None:
        self._flags = np.zeros(1_024, np.bool_)
        self._count = 0
        self._at = 0
        self.add(np.unique(rows))

    def __len__(self) -> int:
        return self._count

    def add(self, rows: npt.NDArray[np.integer]) -> None:
        """Put distinct rows ≥ 0 in; those that are there stay there once."""
        if not len(rows):
            return
        most = int(rows.max())
        if most >= len(self._flags):
            grown = np.zeros(max(most + 1, 2 * len(self._flags)), np.bool_)
            grown[: len(self._flags)] = self._flags
            self._flags = grown
        fresh = rows[~self._flags[rows]]
        self._flags[fresh] = True
        self._count += len(fresh)

    def take(self, most: int) -> Rows:
        """Take out up to `most` rows, ascending; the next ones after those of the last call, then from the start."""
        found: Rows = np.zeros(0, np.int64)
        while self._count and not len(found):
            stretch = self._flags[self._at : self._at + _STRETCH]
            found = np.flatnonzero(stretch)[:most] + self._at
            self._at = int(found[-1]) + 1 if len(found) else self._at + _STRETCH
            if self._at >= len(self._flags):
                self._at = 0
        self._flags[found] = False
        self._count -= len(found)
        return found

    def rows(self) -> Rows:
        """All of them, ascending."""
        return np.flatnonzero(self._flags)
