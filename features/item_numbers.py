"""Numbers for item keys, in the order in which a store first saw them: 2 to 3 bytes where a key takes 8.

The store keeps the list of keys (the number is the place in it); this is its copy in memory. At most `limit` items have
a number; the others keep their keys. It knows no store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from features.keys import KeyIndex

U64 = npt.NDArray[np.uint64]
WIDTH = 8


class Unknown(Exception):
    """A number that this copy does not hold (yet)."""


class ItemNumbers:
    """A growing list of distinct keys. Safe from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._index = KeyIndex(limit)

    def __len__(self) -> int:
        return len(self._index)

    def follow(self, read: Callable[[int], bytes]) -> None:
        """Take what the store's list holds beyond this copy; read(n): its bytes from n on.

        Where the list's last known key is another one now, the store has gone back: the copy begins anew.
        """
        with self._lock:
            known = len(self._index)
            tail = np.frombuffer(_whole(read(WIDTH * max(0, known - 1))), "<u8")
            if known and (not len(tail) or tail[0] != self._index.keys[-1]):
                self._index = KeyIndex(self.limit)
                known, tail = 0, np.frombuffer(_whole(read(0)), "<u8")
            self._index.intern_many(tail[min(1, known) :])

    def forget(self) -> None:
        """Begin anew: the next `follow` reads the whole list."""
        with self._lock:
            self._index = KeyIndex(self.limit)

    def numbers(self, histories: Sequence[U64]) -> tuple[list[U64 | None], U64]:
        """(numbers of each history's items, keys to append to the list so that they are true).

        None for a history with an item that finds no number: the list is full.
        """
        with self._lock:
            known, index = len(self._index), self._index
            every = np.concatenate([*histories, np.zeros(0, np.uint64)])
            once, first = np.unique(every, return_index=True)
            slots = index.get_many(once).astype(np.int64)
            new = np.flatnonzero(slots < 0)
            new = new[np.argsort(first[new])][: self.limit - known]
            slots[new] = known + np.arange(len(new))
        found: list[U64 | None] = []
        for items in histories:
            places = slots[np.searchsorted(once, items)]
            found.append(None if (places < 0).any() else places.astype(np.uint64))
        return found, once[new]

    def took(self, keys: U64) -> None:
        """`keys` now stand at the end of the store's list."""
        with self._lock:
            self._index.intern_many(keys)

    def keys_of(self, numbers: U64) -> U64:
        """The item keys of numbers. Raises Unknown where one is beyond the list."""
        keys = self._index.keys
        if len(numbers) and int(numbers.max()) >= len(keys):
            raise Unknown(int(numbers.max()))
        return keys[numbers.astype(np.int64)]


def _whole(data: bytes) -> bytes:
    return data[: len(data) // WIDTH * WIDTH]
