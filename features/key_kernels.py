"""Open addressing over 64-bit keys, in numba. It knows arrays only; `features/keys.py` owns and grows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]


@njit(cache=True, nogil=True)
def find(table: I32, keys: U64, key: Any) -> Any:
    """Place in `table` of `key`, or the free place where it belongs. `table` is a power of two long and holds slot + 1;
    0 is free, so that memory nobody wrote to is a free table."""
    mask = np.uint64(table.shape[0] - 1)
    at = key & mask
    while table[at] > 0 and keys[table[at] - 1] != key:
        at = (at + np.uint64(1)) & mask
    return at


@njit(cache=True, nogil=True)
def get_many(table: I32, keys: U64, wanted: U64, out: I32) -> None:
    """out[i] = slot of wanted[i], or -1."""
    for i in range(wanted.shape[0]):
        out[i] = table[find(table, keys, wanted[i])] - 1


@njit(cache=True, nogil=True)
def intern_many(table: I32, keys: U64, n: int, limit: int, wanted: U64, out: I32) -> int:
    """Slots of `wanted`, new ones numbered from n in order; -1 from `limit` on. Returns the new count."""
    for i in range(wanted.shape[0]):
        at = find(table, keys, wanted[i])
        slot = table[at] - 1
        if slot < 0 and n < limit:
            slot = n
            keys[n] = wanted[i]
            table[at] = n + 1
            n += 1
        out[i] = slot
    return n


@njit(cache=True, nogil=True)
def intern_one(table: I32, keys: U64, n: int, limit: int, wanted: Any) -> Any:
    """Slot of one key; n, taken, where it is new, and -1 where that is `limit`."""
    at = find(table, keys, wanted)
    slot = table[at] - 1
    if slot < 0 and n < limit:
        slot = np.int64(n)
        keys[n] = wanted
        table[at] = n + 1
    return slot


@njit(cache=True, nogil=True)
def rehash(table: I32, keys: U64, n: int) -> None:
    """Fill a free table with slots 0 … n-1."""
    for slot in range(n):
        table[find(table, keys, keys[slot])] = slot + 1


def warm() -> None:
    """Compile all of them, so that the first event need not wait."""
    table, keys, out = np.zeros(4, np.int32), np.zeros(2, np.uint64), np.zeros(1, np.int32)
    one = np.ones(1, np.uint64)
    n = intern_many(table, keys, 0, 2, one, out)
    get_many(table, keys, one, out)
    intern_one(table, keys, n, 2, np.uint64(1))
    rehash(np.zeros(4, np.int32), keys, n)
