"""Open addressing from keys to sequence numbers of a ring, on arrays that `features/hash_window.py` owns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@njit(cache=True, nogil=True)
def find(table: I64, keys: U64, capacity: int, key: Any) -> int:
    """Sequence number of `key`, or -1."""
    mask = np.uint64(table.shape[0] - 1)
    at = key & mask
    while table[at] >= 0:
        if keys[table[at] % capacity] == key:
            return int(table[at])
        at = (at + np.uint64(1)) & mask
    return -1


@njit(cache=True, nogil=True)
def insert(table: I64, keys: U64, capacity: int, sequence: int, key: Any) -> None:
    """Enter a key that is not there."""
    mask = np.uint64(table.shape[0] - 1)
    at = key & mask
    while table[at] >= 0:
        at = (at + np.uint64(1)) & mask
    table[at] = sequence


@njit(cache=True, nogil=True)
def insert_all(table: I64, keys: U64, capacity: int, first: int, after: int) -> None:
    """Enter the keys of sequence numbers first … after-1 into an empty (-1) table; they are distinct."""
    mask = np.uint64(table.shape[0] - 1)
    for sequence in range(first, after):
        at = keys[sequence % capacity] & mask
        while table[at] >= 0:
            at = (at + np.uint64(1)) & mask
        table[at] = sequence


@njit(cache=True, nogil=True)
def remove_first(table: I64, keys: U64, capacity: int, sequence: int) -> None:
    """Take out the entry of `sequence`, moving later ones of its run back (no tombstones)."""
    mask = np.uint64(table.shape[0] - 1)
    at = keys[sequence % capacity] & mask
    while table[at] != sequence:
        at = (at + np.uint64(1)) & mask
    hole = at
    at = (at + np.uint64(1)) & mask
    while table[at] >= 0:
        home = keys[table[at] % capacity] & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            table[hole] = table[at]
            hole = at
        at = (at + np.uint64(1)) & mask
    table[hole] = -1


@njit(cache=True, nogil=True)
def offer(
    table: I64, keys: U64, values: I64, times: I64, first: int, after: int, most: int, oldest: int,
    key: Any, value: int, now: int,
) -> tuple[int, int]:  # fmt: skip
    """Drop what is older than `oldest`, then enter key → value at time `now`, the oldest going beyond `most`
    entries; (first, 1), or (first, 0) where the key is there already, (first, -1) where the ring must grow before.
    """
    capacity = keys.shape[0]
    while first < after and times[first % capacity] < oldest:
        remove_first(table, keys, capacity, first)
        first += 1
    if find(table, keys, capacity, key) >= 0:
        return first, 0
    if after - first == most:
        remove_first(table, keys, capacity, first)
        first += 1
    elif after - first == capacity:
        return first, -1
    at = after % capacity
    keys[at], values[at], times[at] = key, value, now
    insert(table, keys, capacity, after, key)
    return first, 1


@njit(cache=True, nogil=True)
def offer_all(
    table: I64, keys: U64, values: I64, times: I64, first: int, after: int, most: int, age: int, offered: U64,
    places: I64, now: I64, new: Any, done: int,
) -> tuple[int, int, int]:  # fmt: skip
    """`offer` for each of `offered` from number `done` on, by its own time `now`; new[i]: it was not there.

    (first, after, done): done is short of all where the ring must grow before the next one."""
    while done < offered.shape[0]:
        first, entered = offer(
            table, keys, values, times, first, after, most, now[done] - age, offered[done], places[done], now[done]
        )
        if entered < 0:
            break
        new[done] = entered == 1
        after += entered
        done += 1
    return first, after, done


def warm() -> None:
    """Compile all of them for the arrays of a HashWindow, so that the first event need not wait."""
    from features.hash_window import HashWindow

    window = HashWindow(1, 1)
    window.add(1, 0, 0)
    window.add(2, 0, 9)
    window.add_all([3], [0], [9])
    window.restore(window.changed_chunks())
