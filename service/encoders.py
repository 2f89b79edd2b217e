"""The item encoders of all bases that are loaded here: each follows every change of the catalogue. It encodes nothing.

`Catalogue.changed_rows` says a change once; `ChangedRows` passes it on to each base's rows that wait.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue
from service.row_set import RowSet

if TYPE_CHECKING:
    from service.item_encoder import ItemEncoder

Rows = npt.NDArray[np.int64]


class ChangedRows:
    """Changes of one catalogue for several sets of rows; the caller holds the engine's lock."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._sets: list[RowSet] = []

    def follow(self, rows: RowSet) -> None:
        """Tell this set, too."""
        self._sets.append(rows)

    def leave(self, rows: RowSet) -> None:
        """Tell this set no more."""
        self._sets = [one for one in self._sets if one is not rows]

    def gather(self) -> None:
        """Pass on what has changed since the last call."""
        changed = self._catalogue.changed_rows()
        for rows in self._sets:
            rows.add(changed)


class Encoders:
    """What the user-state consumer knows of encoding; `all` is replaced as a whole."""

    def __init__(self, first: ItemEncoder, lock: threading.Lock) -> None:
        self.all: tuple[ItemEncoder, ...] = (first,)
        self._lock = lock

    def add(self, encoder: ItemEncoder) -> None:
        """One more base."""
        self.all = (*self.all, encoder)

    def drop(self, encoder: ItemEncoder) -> None:
        """A base less: its thread ends, its vectors are not kept up to date any more."""
        self.all = tuple(one for one in self.all if one is not encoder)
        with self._lock:
            encoder.leave()
        encoder.stop()

    def wake(self) -> None:
        """Items may have changed."""
        for encoder in self.all:
            encoder.wake()

    @property
    def waiting(self) -> int:
        """Rows that are not encoded yet, of the base for which most wait."""
        return max(encoder.waiting for encoder in self.all)

    def collect(self) -> Rows:
        """Rows that wait for any base; the caller holds the lock."""
        found = [encoder.collect() for encoder in self.all]
        return np.unique(np.concatenate(found))

    def stop(self) -> None:
        """End all threads."""
        for encoder in self.all:
            encoder.stop()
