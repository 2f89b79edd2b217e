"""Compiled loops that move the co-visitation lists of `features/realtime.py`; no state of their own, no counters.

Weights grow with the time of the op instead of decaying; `deflate` shrinks all of them by an exact power of two
before they grow too large. The content hash is kept along (`features/realtime_hash_kernels.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from features.realtime_hash_kernels import BASE_TIME, HASH, N_LISTS, REFUSED_LISTS, entry_hash


@njit(cache=True, nogil=True)
def add_pair(
    owner: Any, other: Any, gain: Any, lists: Any, list_slots: Any, list_len: Any, list_w: Any,
    list_dirty: Any, lists_a_chunk: Any, scalars: Any, owner_of: Any,
) -> None:  # fmt: skip
    """Add weights to the entry owner → other; a full list gives up its entry of lowest longest-lag weight."""
    at = lists[owner]
    if at < 0:
        if scalars[N_LISTS] >= list_len.shape[0]:
            scalars[REFUSED_LISTS] += 1
            return
        at = scalars[N_LISTS]
        scalars[N_LISTS] += 1
        lists[owner] = at
        owner_of[at] = owner
    taus = gain.shape[0]
    length = list_len[at]
    place = -1
    lowest = 0
    for i in range(length):
        if list_slots[at, i] == other:
            place = i
            break
        if list_w[at, i, taus - 1] < list_w[at, lowest, taus - 1]:
            lowest = i
    change = np.uint64(0)
    if place >= 0:
        change -= entry_hash(owner, other, list_w[at, place])
        for j in range(taus):
            list_w[at, place, j] += gain[j]
    else:
        if length < list_slots.shape[1]:
            place = length
            list_len[at] = length + 1
        else:
            place = lowest
            change -= entry_hash(owner, list_slots[at, place], list_w[at, place])
        list_slots[at, place] = other
        for j in range(taus):
            list_w[at, place, j] = gain[j]
    change += entry_hash(owner, other, list_w[at, place])
    scalars[HASH] = np.int64(np.uint64(scalars[HASH]) + change)
    list_dirty[at // lists_a_chunk] = 1


@njit(cache=True, nogil=True)
def add_degree(slot: Any, gain: Any, degree: Any, scalars: Any) -> None:
    """Add weights to the sum of all pairs that an item took part in, with the content hash kept."""
    marker = np.int64(0xFFFFFFFF)
    change = np.uint64(0) - entry_hash(slot, marker, degree[slot])
    for j in range(gain.shape[0]):
        degree[slot, j] += gain[j]
    change += entry_hash(slot, marker, degree[slot])
    scalars[HASH] = np.int64(np.uint64(scalars[HASH]) + change)


@njit(cache=True, nogil=True)
def learn_pairs(
    item: Any, t: Any, kind: Any, slots: Any, times: Any, kinds: Any, taus: Any, gains: Any, backward: Any,
    half_life: Any, lists: Any, degree: Any, degree_total: Any, list_slots: Any, list_len: Any, list_w: Any,
    list_dirty: Any, lists_a_chunk: Any, owner_of: Any, item_dirty: Any, items_a_chunk: Any, scalars: Any,
) -> None:  # fmt: skip
    """Pair a new interaction with the actor's earlier ones, newest first, until the same item comes up."""
    ahead = np.zeros(taus.shape[0], np.float64)
    behind = np.zeros(taus.shape[0], np.float64)
    scale = 2.0 ** ((t - scalars[BASE_TIME]) / half_life)
    n = slots.shape[0]
    for i in range(n - 1, -1, -1):
        other = slots[i]
        if other == item:
            return
        known = other < 0 or gains[kinds[i]] <= 0.0
        for k in range(i + 1, n):
            known = known or slots[k] == other
        if known:
            continue
        lag = max(0.0, float(t - times[i]))
        if lag > 8.0 * taus[taus.shape[0] - 1]:
            return
        gain = math.sqrt(gains[kind] * gains[kinds[i]]) * scale
        for j in range(taus.shape[0]):
            ahead[j] = gain * math.exp(-lag / taus[j])
            behind[j] = ahead[j] * backward
        if lag == 0.0:
            behind[:] = ahead
        add_pair(other, item, ahead, lists, list_slots, list_len, list_w, list_dirty, lists_a_chunk, scalars,
                 owner_of)  # fmt: skip
        add_pair(item, other, behind, lists, list_slots, list_len, list_w, list_dirty, lists_a_chunk, scalars,
                 owner_of)  # fmt: skip
        add_degree(other, ahead, degree, scalars)
        add_degree(item, behind, degree, scalars)
        degree_total += ahead
        degree_total += behind
        item_dirty[other // items_a_chunk] = 1


@njit(cache=True, nogil=True)
def deflate(
    n_items: Any, degree: Any, degree_total: Any, list_w: Any, list_len: Any, scalars: Any, half_life: Any,
    t: Any
) -> Any:  # fmt: skip
    """Move the base time when weights have grown by 2^48: all shrink by an exact power of two. True if it
    did.
    """
    exponent = (t - scalars[BASE_TIME]) / half_life
    if exponent < 48.0:
        return False
    steps = math.floor(exponent / 32.0)
    factor = 2.0 ** (-32.0 * min(steps, 8.0))
    scalars[BASE_TIME] += np.int64(steps * 32.0 * half_life)
    degree_total *= factor
    for slot in range(n_items):
        for j in range(degree.shape[1]):
            degree[slot, j] *= factor
    for at in range(scalars[N_LISTS]):
        for i in range(list_len[at]):
            for j in range(degree.shape[1]):
                list_w[at, i, j] *= factor
    return True
