"""The content hash of the real-time state (`features/realtime.py`), and the places of its scalars. It moves nothing.

The hash is a sum modulo 2^64 of one hash a stored unit (counter row, neighbour entry), so that it follows every
change in constant time: whoever changes a unit adds the new hash and takes the old one away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# places in the i64 vector of scalars
N_ITEMS_HASHED, N_CATEGORIES_HASHED, N_LISTS, BASE_TIME, LATEST, REFUSED_LISTS, HASH = range(7)
SCALARS = 8
NEVER = np.int64(-(1 << 62))


@njit(cache=True, nogil=True)
def mix(h: Any, x: Any) -> Any:
    """One round of a 64-bit mixer (splitmix64's) over an accumulator and a word."""
    z = (h ^ np.uint64(x)) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(32))


@njit(cache=True, nogil=True)
def row_hash(seed: Any, row: Any, key: Any, counts: Any, last: Any) -> Any:
    """Hash of one counter row: its place, key, f32 bits and time."""
    h = mix(mix(np.uint64(seed), key), np.uint64(row) ^ np.uint64(last))
    bits = counts.view(np.uint32)
    for i in range(0, bits.shape[0], 2):
        h = mix(h, (np.uint64(bits[i]) << np.uint64(32)) | np.uint64(bits[i + 1]))
    return h


@njit(cache=True, nogil=True)
def entry_hash(owner: Any, other: Any, weights: Any) -> Any:
    """Hash of one neighbour entry: owner slot, neighbour slot, f32 bits of its weights."""
    h = mix(np.uint64(0x2545F4914F6CDD1D), (np.uint64(owner) << np.uint64(32)) | np.uint64(other))
    bits = weights.view(np.uint32)
    for i in range(bits.shape[0]):
        h = mix(h, bits[i])
    return h


@njit(cache=True, nogil=True)
def content_hash(
    n_items: Any, item_keys: Any, counts: Any, last: Any, degree: Any, owner_of: Any, list_slots: Any,
    list_len: Any, list_w: Any, n_lists: Any, n_categories: Any, cat_keys: Any, cat_counts: Any,
    cat_last: Any,
) -> Any:  # fmt: skip
    """The content hash from scratch (the oracle of the one that is carried along)."""
    marker = np.int64(0xFFFFFFFF)
    h = np.uint64(0)
    for slot in range(n_items):
        h += mix(np.uint64(slot), item_keys[slot])
        h += entry_hash(slot, marker, degree[slot])
        if last[slot] != NEVER:
            h += row_hash(1, slot, item_keys[slot], counts[slot], last[slot])
    for slot in range(n_categories):
        h += mix(np.uint64(slot) | np.uint64(1 << 40), cat_keys[slot])
        if cat_last[slot] != NEVER:
            h += row_hash(2, slot, cat_keys[slot], cat_counts[slot], cat_last[slot])
    for at in range(n_lists):
        for i in range(list_len[at]):
            h += entry_hash(owner_of[at], list_slots[at, i], list_w[at, i])
    return h


@njit(cache=True, nogil=True)
def count_new(start: Any, end: Any, keys: Any, offset: Any, degree: Any, is_item: Any, scalars: Any) -> None:
    """Take rows start … end − 1, just interned, into the content hash."""
    marker = np.int64(0xFFFFFFFF)
    h = np.uint64(scalars[HASH])
    for slot in range(start, end):
        h += mix(np.uint64(slot) | np.uint64(offset), keys[slot])
        if is_item:
            h += entry_hash(slot, marker, degree[slot])
    scalars[HASH] = np.int64(h)
