"""Compiled loops that move the counters and co-visitation lists of `features/realtime.py`; no state of their
own.

All sums run in f64 and are stored as f32, in the order of the ops: equal ops give equal bits. The content
hash is a sum modulo 2^64 of one hash a stored unit (counter row, neighbour entry), so that it follows every
change in constant time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

STREAMS = 4  # expected clicks, clicks, carts and favourites, purchases
EXPOSURE, CLICK, CART, PURCHASE = 0, 1, 2, 3
POSITION_BUCKETS = 9

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
def bump(counts: Any, last: Any, row: Any, t: Any, windows: Any, stream: Any, amount: Any) -> None:
    """Add to one decayed counter of a row; a late amount is decayed to the row's time instead."""
    w = windows.shape[0]
    dt = t - last[row]
    if last[row] == NEVER:
        last[row] = t
        dt = 0
    if dt >= 0:
        for j in range(w):
            keep = math.exp(-dt / windows[j])
            for s in range(STREAMS):
                counts[row, s * w + j] = counts[row, s * w + j] * keep
        last[row] = t
    for j in range(w):
        add = amount if dt >= 0 else amount * math.exp(dt / windows[j])
        counts[row, stream * w + j] = max(0.0, counts[row, stream * w + j] + add)


@njit(cache=True, nogil=True)
def bump_hashed(
    seed: Any, keys: Any, counts: Any, last: Any, row: Any, t: Any, windows: Any, stream: Any, amount: Any,
    scalars: Any,
) -> None:  # fmt: skip
    """`bump`, with the content hash kept."""
    before = np.uint64(0)
    if last[row] != NEVER:
        before = row_hash(seed, row, keys[row], counts[row], last[row])
    bump(counts, last, row, t, windows, stream, amount)
    after = row_hash(seed, row, keys[row], counts[row], last[row])
    scalars[HASH] = np.int64(np.uint64(scalars[HASH]) + after - before)


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
        add_pair(
            other,
            item,
            ahead,
            lists,
            list_slots,
            list_len,
            list_w,
            list_dirty,
            lists_a_chunk,
            scalars,
            owner_of,
        )
        add_pair(
            item,
            other,
            behind,
            lists,
            list_slots,
            list_len,
            list_w,
            list_dirty,
            lists_a_chunk,
            scalars,
            owner_of,
        )
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


@njit(cache=True, nogil=True)
def position_bucket(position: Any) -> Any:
    """0: position 1 or not known; 1 … 8: 2, 3, 4–5, 6–8, 9–12, 13–20, 21–30, 31 and on."""
    if position <= 1:
        return 0
    if position <= 3:
        return position - 1
    if position <= 5:
        return 3
    if position <= 8:
        return 4
    if position <= 12:
        return 5
    if position <= 20:
        return 6
    return 7 if position <= 30 else 8


@njit(cache=True, nogil=True)
def apply_ops(
    t: Any, kind: Any, item: Any, category: Any, position: Any, surface: Any, start: Any, r_slots: Any,
    r_times: Any, r_kinds: Any, item_keys: Any, counts: Any, last: Any, degree: Any, degree_total: Any,
    lists: Any, item_dirty: Any, items_a_chunk: Any, cat_keys: Any, cat_counts: Any, cat_last: Any,
    cat_dirty: Any, totals: Any, totals_last: Any, shown: Any, clicked: Any, list_slots: Any, list_len: Any,
    list_w: Any, owner_of: Any, list_dirty: Any, lists_a_chunk: Any, windows: Any, taus: Any, gains: Any,
    backward: Any, half_life: Any, scalars: Any, begin: Any,
) -> Any:  # fmt: skip
    """Apply ops `begin` … in order; returns where it stopped: before an op that needs `deflate`, else the
    count.
    """
    for i in range(begin, t.shape[0]):
        if (t[i] - scalars[BASE_TIME]) / half_life >= 48.0:
            return i
        k = kind[i]
        scalars[LATEST] = max(scalars[LATEST], t[i])
        stream, amount = CLICK, 1.0
        place = position_bucket(position[i])
        side = min(surface[i], 1)
        if k == 0:
            stream = EXPOSURE
            amount = (clicked[side, place] + 1.0) / (shown[side, place] + 20.0)
            shown[side, place] += 1.0
        elif k == 1 and position[i] > 0:
            clicked[side, place] += 1.0
        elif k == 2 or k == 3:
            stream = CART
        elif k == 4:
            stream = PURCHASE
        elif k == 5:
            stream, amount = PURCHASE, -1.0
        bump(totals, totals_last, 0, t[i], windows, stream, amount)
        slot = item[i]
        if slot >= 0:
            bump_hashed(1, item_keys, counts, last, slot, t[i], windows, stream, amount, scalars)
            item_dirty[slot // items_a_chunk] = 1
        if category[i] >= 0:
            bump_hashed(
                2, cat_keys, cat_counts, cat_last, category[i], t[i], windows, stream, amount, scalars
            )
            cat_dirty[category[i] // items_a_chunk] = 1
        if slot >= 0 and 0 < k < 5:
            a, b = start[i], start[i + 1]
            learn_pairs(
                slot, t[i], k, r_slots[a:b], r_times[a:b], r_kinds[a:b], taus, gains, backward, half_life, lists,
                degree, degree_total, list_slots, list_len, list_w, list_dirty, lists_a_chunk, owner_of, item_dirty,
                items_a_chunk, scalars,
            )  # fmt: skip
    return t.shape[0]
