"""Compiled loops that apply ops to the counters of `features/realtime.py`; no state of their own.

All sums run in f64 and are stored as f32, in the order of the ops: equal ops give equal bits. Pairs of items are
`features/covisitation_kernels.py`'s, the content hash `features/realtime_hash_kernels.py`'s.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from features.covisitation_kernels import learn_pairs
from features.realtime_hash_kernels import BASE_TIME, HASH, LATEST, NEVER, row_hash

STREAMS = 4  # expected clicks, clicks, carts and favourites, purchases
EXPOSURE, CLICK, CART, PURCHASE = 0, 1, 2, 3
POSITION_BUCKETS = 9


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
