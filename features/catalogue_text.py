"""Words of titles → rows: the index that `/v1/retrieve` finds items of a query with. It ranks nothing."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from features.words import words


class Postings:
    """Rows by title word. A word that left a title is remembered as gone, so that lists are only appended
    to.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._rows: dict[str, array[int]] = {}
        self._gone: set[tuple[str, int]] = set()

    def update(self, row: int, old: str, new: str) -> None:
        """The title of a row changed from `old` to `new` (empty: none)."""
        before = set(words(old, self._language)) if old else set()
        after = words(new, self._language) if new else []
        for word in before.difference(after):
            self._gone.add((word, row))
        for word in after:
            if word in before:
                continue
            if (word, row) in self._gone:
                self._gone.discard((word, row))
            else:
                self._rows.setdefault(word, array("i")).append(row)

    def rows(self, word: str) -> npt.NDArray[np.int32]:
        """Rows i32 with a word in their title, in order of first sight."""
        found = np.array(self._rows.get(word, ()), np.int32)
        if not self._gone:
            return found
        return found[[(word, int(row)) not in self._gone for row in found]] if len(found) else found
