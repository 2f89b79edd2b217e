"""What a catalogue in shared pages says beside its rows: that one is being changed, and which were, lately.

The writer's catalogue (`features/catalogue.py`) notes; those of other processes (`catalogue_followed.py`) look.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.shared_pages import Pages, SharedHead

RING = 65_536
_SLACK = 1_024
_CHANGE = np.dtype([("row", "<i8"), ("was", "<i8", 3), ("now", "<i8", 3)])
_COUNT, _VERSION = 0, 1


class Place(NamedTuple):
    """Where the id and the fields of a row lie: place, bytes of the id, bytes of both."""

    row: int
    at: int
    id_length: int
    length: int


class Live(SharedHead):
    """The head of a shared catalogue, with the last RING changes of ids and fields."""

    def __init__(self, pages: Pages) -> None:
        super().__init__(pages, 2)
        self._ring = pages.zeros(RING, _CHANGE)

    @property
    def version(self) -> int:
        """The writer's `Catalogue.version`."""
        return int(self.numbers[_VERSION])

    @version.setter
    def version(self, value: int) -> None:
        self.numbers[_VERSION] = value

    @property
    def count(self) -> int:
        """Changes noted so far."""
        return int(self.numbers[_COUNT])

    def note(self, was: Place, now: Place) -> None:
        """A row's id and fields lie elsewhere now; the old bytes stay as they are."""
        self._ring[self.count % RING] = (now.row, was[1:], now[1:])
        self.numbers[_COUNT] += 1

    def since(self, seen: int) -> list[tuple[Place, Place]] | None:
        """Changes from number `seen` on, in order; None where the oldest of them are no longer there."""
        entries = self._ring[np.arange(seen, self.count) % RING].copy()
        if self.count - seen > RING - _SLACK:
            return None
        return [(Place(row, *was), Place(row, *now)) for row, was, now in entries.tolist()]
