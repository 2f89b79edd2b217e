"""64-bit keys of IDs, and the index from keys to dense slots. It stores no ID text.

A key is xxh3-64 of a role, a zero byte and the ID's UTF-8: the same on every platform and in every run. 0 means
"none" everywhere, so a hash of 0 (one in 2^64) becomes 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from features.key_kernels import get_many, intern_many, intern_one, rehash
from features.shared_pages import Pages

U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
_FIRST = 1_024


def text_key(role: str, value: str) -> int:
    """Key of `value` (an ID, a word, a category) in `role`: equal texts in two roles have two keys."""
    return xxh3_64_intdigest(f"{role}\0{value}".encode("utf-8", "surrogatepass")) or 1


def item_key(item: str) -> int:
    """Key of an item's ID."""
    return xxh3_64_intdigest(f"item\0{item}".encode("utf-8", "surrogatepass")) or 1


def actor_key(user: str | None, session: str | None) -> int:
    """Key of whose history it is: the user, else the session; 0 where there is neither."""
    if user is not None:
        return text_key("user", user)
    return text_key("session", session) if session is not None else 0


class KeyIndex:
    """u64 keys → i32 slots 0, 1, 2 … in order of first interning; at most `capacity`, grown by doubling.

    `refused` counts the look-ups that would have needed a slot beyond the capacity. ≤ 20 bytes a key. In shared pages
    it has room for all from the start, and who reads it there knows as many keys as at the last `follow`.
    """

    def __init__(self, capacity: int, pages: Pages | None = None) -> None:
        self.capacity = capacity
        self.refused = 0
        self._n = 0
        self._follows = False
        self._keys: U64
        self._table: I32
        if pages is None or not pages.shared:
            self._keys = np.zeros(min(_FIRST, capacity), np.uint64)
            self._table = np.zeros(2 * _FIRST, np.int32)
        else:
            self._share(pages)

    def _share(self, pages: Pages) -> None:
        self._keys = pages.zeros(self.capacity, np.uint64)
        self._table = pages.zeros(1 << (2 * self.capacity - 1).bit_length(), np.int32)
        self._published = pages.zeros(1, np.int64)
        self._follows = not pages.fresh
        if self._follows:
            self.follow()

    def publish(self) -> None:
        """In shared pages: let others see the keys there are now."""
        self._published[0] = self._n

    @property
    def published(self) -> int:
        """In shared pages: how many keys others see."""
        return int(self._published[0])

    def follow(self, most: int | None = None) -> None:
        """In another process's pages: see what it has published, up to `most` keys."""
        published = int(self._published[0])
        self._n = published if most is None else min(published, most)

    def __len__(self) -> int:
        return self._n

    @property
    def keys(self) -> U64:
        """The keys by slot: a view, u64[len], valid until the next interning."""
        return self._keys[: self._n]

    def get_many(self, keys: U64) -> I32:
        """i32[n]: slot of each key, -1 where it was never interned."""
        out = np.empty(len(keys), np.int32)
        get_many(self._table, self._keys, np.ascontiguousarray(keys, np.uint64), out)
        if self._follows:
            out[out >= self._n] = -1
        return out

    def intern_many(self, keys: U64) -> I32:
        """i32[n]: slot of each key, a new one where it has none; -1 (counted) once the index is full."""
        keys = np.ascontiguousarray(keys, np.uint64)
        out = np.empty(len(keys), np.int32)
        for start in range(0, len(keys), 1 << 20):
            part = slice(start, start + (1 << 20))
            self._reserve(self._n + len(keys[part]))
            self._n = int(intern_many(self._table, self._keys, self._n, self.capacity, keys[part], out[part]))
        self.refused += int(np.count_nonzero(out < 0))
        return out

    def intern(self, key: int) -> int:
        """As `intern_many` of one key, at a fifth of its cost."""
        self._reserve(self._n + 1)
        slot = int(intern_one(self._table, self._keys, self._n, self.capacity, np.uint64(key)))
        self._n += slot == self._n
        self.refused += slot < 0
        return slot

    def _reserve(self, n: int) -> None:
        n = min(n, self.capacity)
        if n > len(self._keys):
            grown = np.zeros(min(max(2 * len(self._keys), n), self.capacity), np.uint64)
            grown[: self._n] = self._keys[: self._n]
            self._keys = grown
        if 2 * n > len(self._table):
            size = 1 << (2 * n - 1).bit_length()
            self._table = np.zeros(size, np.int32)
            rehash(self._table, self._keys, self._n)
