"""Catalogue rows of IDs that are asked for again and again: a dictionary look-up instead of a hash.

A row never moves and is never given to another item, so that an entry holds for as long as its catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue

CAPACITY = 100_000
_UNSEEN = -2


class RowCache:
    """At most CAPACITY IDs: when it is full it starts anew. Not thread-safe: its owner locks."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._rows: dict[str, int] = {}

    def rows(self, ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """As `Catalogue.rows`: i32 (n,), −1 where unknown."""
        get = self._rows.get
        found = np.array([get(name, _UNSEEN) for name in ids], np.int32)
        unseen = np.flatnonzero(found == _UNSEEN)
        if len(unseen):
            names = [ids[k] for k in unseen.tolist()]
            rows = self._catalogue.rows(names)
            found[unseen] = rows
            if len(self._rows) + len(names) > CAPACITY:
                self._rows.clear()
            self._rows.update((n, row) for n, row in zip(names, rows.tolist(), strict=True) if row >= 0)
        return found
