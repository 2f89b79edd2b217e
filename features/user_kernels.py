"""Compiled loops over one actor's history: what it says of items, of categories and of the neighbours of
items.

Each makes a small table (open addressing, i32 keys → rows of f32 features) that
`features/assembler_kernels.py` looks candidates up in. Nothing here depends on the candidates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from features.math_kernels import F, f16
from features.realtime_hash_kernels import NEVER

DAY = 86_400_000.0
OWN, OWN_CATEGORY, I2I = 27, 6, 20
RECENT = 20
EMPTY = -1
FALL = 0.85
PURCHASE = 4


@njit(cache=True, nogil=True)
def make_table(entries: Any) -> Any:
    """An empty table i32 for up to `entries` keys: a power of two, at most half full."""
    size = 2
    while size < 2 * entries:
        size *= 2
    return np.full(size, EMPTY, np.int32)


@njit(cache=True, nogil=True)
def find(table: Any, keys: Any, key: Any) -> Any:
    """Place in `table` where `key` (an i32 ≥ 0) stands or would stand."""
    mask = table.shape[0] - 1
    at = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & mask
    while table[at] != EMPTY and keys[table[at]] != key:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def fade(t: Any, then: Any, tau: Any) -> Any:
    """exp(−age / tau); an age below 0 counts as 0."""
    return math.exp(-max(0.0, float(t - then)) / tau)


@njit(cache=True, nogil=True)
def own_table(t: Any, rows: Any, times: Any, kinds: Any) -> Any:
    """(table, rows i32[m], newest kind u8[m], features f32[m, OWN]) of the distinct items of a history,
    newest first.

    rows: catalogue rows, oldest to newest, −1 where unknown (skipped). Features: `features/layout.py`,
    own_names.
    """
    n = rows.shape[0]
    table = make_table(n)
    keys = np.empty(n, np.int32)
    kind = np.empty(n, np.uint8)
    out = np.zeros((n, OWN), np.float32)
    count = np.zeros(n, np.int64)
    buys = np.zeros(n, np.int64)
    moments = np.full(
        (n, 4), NEVER
    )  # newest, newest purchase, oldest purchase, newest interest since the purchase
    found = 0
    for i in range(n - 1, -1, -1):
        if rows[i] < 0:
            continue
        at = find(table, keys, rows[i])
        if table[at] == EMPTY:
            table[at] = found
            keys[found] = rows[i]
            kind[found] = kinds[i]
            moments[found, 0] = times[i]
            found += 1
        e, k = table[at], kinds[i]
        count[e] += 1
        if 1 <= k <= 5:
            out[e, k - 1] = 1.0
        if k == PURCHASE:
            buys[e] += 1
            moments[e, 2] = times[i]
            if moments[e, 1] == NEVER:
                moments[e, 1] = times[i]
        elif 1 <= k <= 3 and moments[e, 1] == NEVER and moments[e, 3] == NEVER:
            moments[e, 3] = times[i]
    for e in range(found):
        own_features(t, e, n, kind[e], count[e], buys[e], moments[e], out[e])
    return table, keys[:found], kind[:found], out


@njit(cache=True, nogil=True)
def own_features(t: Any, rank: Any, n: Any, kind: Any, count: Any, buys: Any, moments: Any, out: Any) -> None:
    """Features of one item of the history; flags of behaviours (0 … 4) are set already."""
    newest, bought, first_bought, opened = moments
    out[5] = 0.5 * math.log1p(float(count))
    out[6] = fade(t, newest, DAY / 144)
    out[7] = fade(t, newest, DAY / 12)
    out[8] = fade(t, newest, DAY)
    out[9] = fade(t, newest, 7 * DAY)
    out[10] = fade(t, newest, 30 * DAY)
    out[11] = fade(t, newest, 90 * DAY)
    if opened != NEVER:
        out[12] = 1.0
        out[13] = fade(t, opened, DAY / 12)
        out[14] = fade(t, opened, DAY)
        out[15] = fade(t, opened, 7 * DAY)
    if bought != NEVER:
        out[16] = fade(t, bought, DAY / 144)
        out[17] = fade(t, bought, DAY)
        out[18] = fade(t, bought, 7 * DAY)
        out[19] = fade(t, bought, 30 * DAY)
        out[20] = fade(t, bought, 90 * DAY)
        out[21] = 0.5 * math.log1p(float(buys))
        if bought > first_bought:
            age = max(0.0, float(t - bought)) + DAY / 24
            ratio = math.log(age / (float(bought - first_bought) / (buys - 1) + DAY / 24))
            out[22] = math.exp(-ratio * ratio)
    out[23] = 1.0 if rank == 0 else 0.0
    out[24] = 1.0 if rank == 0 and kind == PURCHASE else 0.0
    out[25] = 1.0 / (1.0 + rank)
    out[26] = math.exp(-rank / 20.0)
    for k in range(OWN):
        out[k] = f16(out[k])


@njit(cache=True, nogil=True)
def category_table(t: Any, rows: Any, codes: Any, times: Any, kinds: Any) -> Any:
    """(table, category numbers i32[m], features f32[m, OWN_CATEGORY]) of the distinct categories of a
    history.
    """
    n = rows.shape[0]
    table = make_table(n)
    keys = np.empty(n, np.int32)
    out = np.zeros((n, OWN_CATEGORY), np.float32)
    found = 0
    weight, total = 1.0, 0.0
    for i in range(n - 1, -1, -1):
        total += weight
        code = codes[rows[i]] if rows[i] >= 0 else -1
        if code >= 0:
            at = find(table, keys, code)
            if table[at] == EMPTY:
                table[at] = found
                keys[found] = code
                out[found, 2] = fade(t, times[i], DAY / 24)
                out[found, 3] = fade(t, times[i], DAY)
                out[found, 4] = fade(t, times[i], 7 * DAY)
                found += 1
            e = table[at]
            out[e, 0] += weight
            out[e, 1] += 1.0
            if kinds[i] == PURCHASE:
                out[e, 5] = 1.0
        weight *= 0.9
    for e in range(found):
        out[e, 0] /= total
        out[e, 1] = 0.3 * math.log1p(out[e, 1])
        for k in range(OWN_CATEGORY):
            out[e, k] = f16(out[e, k])
    return table, keys[:found], out


@njit(cache=True, nogil=True, error_model="numpy")
def i2i_table(
    recent: Any, kinds: Any, row_slots: Any, gains: Any, lists: Any, list_slots: Any, list_len: Any,
    list_w: Any, degree: Any, degree_total: Any, base: Any,
) -> Any:  # fmt: skip
    """(table, counter rows i32[m], sums f32[m, I2I]) of the neighbours of the last RECENT distinct items.

    recent: catalogue rows, newest first. base: what one fresh pair is worth in list weights; two of them are
    added to each degree, so that rare pairs do not shine. Sums, each for every tau: cosine with the last 1,
    5, 20 items, share of the source's pairs (20), lift (20); the logs of `features/layout.py`, i2i_names, are
    taken a candidate.
    """
    taus = degree.shape[1]
    n = min(RECENT, recent.shape[0])
    table = make_table(n * list_slots.shape[1])
    keys = np.empty(n * list_slots.shape[1], np.int32)
    out = np.zeros((n * list_slots.shape[1], I2I), np.float32)
    smooth = F(2.0 * base)
    root = np.empty(taus, np.float32)
    inverse = np.empty(taus, np.float32)
    found = 0
    for k in range(n):
        slot = row_slots[recent[k]]
        if slot < 0 or lists[slot] < 0:
            continue
        fall = F(FALL**k * math.sqrt(gains[kinds[k]]))
        for j in range(taus):
            inverse[j] = fall / (degree[slot, j] + smooth)
            root[j] = fall / np.sqrt(degree[slot, j] + smooth)
        source = lists[slot]
        for i in range(list_len[source]):
            at = find(table, keys, list_slots[source, i])
            if table[at] == EMPTY:
                table[at] = found
                keys[found] = list_slots[source, i]
                found += 1
            e = table[at]
            for j in range(taus):
                w = list_w[source, i, j]
                if k == 0:
                    out[e, j] += w * root[j]
                if k < 5:
                    out[e, taus + j] += w * root[j]
                out[e, 2 * taus + j] += w * root[j]
                out[e, 3 * taus + j] += w * inverse[j]
    for e in range(found):
        for j in range(taus):
            there = degree[keys[e], j] + smooth
            one = F(1.0) / np.sqrt(there)
            for block in range(3):
                out[e, block * taus + j] *= one
            out[e, 4 * taus + j] = out[e, 3 * taus + j] * (degree_total[j] + smooth) / there
    return table, keys[:found], out
