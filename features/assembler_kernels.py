"""Compiled loops of the assembler: features of the candidates of one request, written as columns of zT on the
f16 grid.

Every candidate's column depends on that candidate and the request only, never on the batch around it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from features.realtime_kernels import NEVER

DAY = 86_400_000.0
OWN, OWN_CATEGORY, I2I, ITEM, CATEGORY = 27, 6, 16, 35, 6
RECENT = 20
EMPTY = -1


@njit(cache=True, nogil=True)
def find(table: Any, keys: Any, key: Any) -> Any:
    """Place in an open-addressing table (a power of two long) where `key` stands or would stand."""
    mask = table.shape[0] - 1
    at = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & mask
    while table[at] != EMPTY and keys[table[at]] != key:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def own_entries(t: Any, items: Any, times: Any, kinds: Any, table: Any, keys: Any, out: Any) -> Any:
    """Features of the actor's own history with each distinct item of it; returns how many there are.

    items … kinds: oldest to newest. table i32 and keys u64 index the rows of out f32[m, OWN].
    """
    n = items.shape[0]
    found = 0
    count = np.zeros(n, np.int64)
    buys = np.zeros(n, np.int64)
    newest = np.full(n, NEVER)
    bought = np.full(n, NEVER)
    first_bought = np.full(n, NEVER)
    opened = np.full(n, NEVER)
    for i in range(n - 1, -1, -1):
        at = find(table, keys, items[i])
        if table[at] == EMPTY:
            table[at] = found
            keys[found] = items[i]
            newest[found] = times[i]
            rank = float(found)
            out[found, 23] = 1.0 if i == n - 1 else 0.0
            out[found, 24] = 1.0 if (i == n - 1 and kinds[i] == 4) else 0.0
            out[found, 25] = 1.0 / (1.0 + rank)
            out[found, 26] = math.exp(-rank / 20.0)
            found += 1
        e = table[at]
        k = kinds[i]
        count[e] += 1
        if 1 <= k <= 5:
            out[e, k - 1] = 1.0
        if k == 4:
            buys[e] += 1
            first_bought[e] = times[i]
            if bought[e] == NEVER:
                bought[e] = times[i]
        elif 1 <= k <= 3 and bought[e] == NEVER and opened[e] == NEVER:
            opened[e] = times[i]
    for e in range(found):
        out[e, 5] = 0.5 * math.log1p(float(count[e]))
        age = max(0.0, float(t - newest[e]))
        out[e, 6] = math.exp(-age / (DAY / 144))
        out[e, 7] = math.exp(-age / (DAY / 12))
        out[e, 8] = math.exp(-age / DAY)
        out[e, 9] = math.exp(-age / (7 * DAY))
        out[e, 10] = math.exp(-age / (30 * DAY))
        out[e, 11] = math.exp(-age / (90 * DAY))
        if opened[e] != NEVER:
            age = max(0.0, float(t - opened[e]))
            out[e, 12] = 1.0
            out[e, 13] = math.exp(-age / (DAY / 12))
            out[e, 14] = math.exp(-age / DAY)
            out[e, 15] = math.exp(-age / (7 * DAY))
        if bought[e] != NEVER:
            age = max(0.0, float(t - bought[e]))
            out[e, 16] = math.exp(-age / (DAY / 144))
            out[e, 17] = math.exp(-age / DAY)
            out[e, 18] = math.exp(-age / (7 * DAY))
            out[e, 19] = math.exp(-age / (30 * DAY))
            out[e, 20] = math.exp(-age / (90 * DAY))
            out[e, 21] = 0.5 * math.log1p(float(buys[e]))
            span = float(bought[e] - first_bought[e])
            if span > 0.0:
                ratio = math.log((age + DAY / 24) / (span / (buys[e] - 1) + DAY / 24))
                out[e, 22] = math.exp(-ratio * ratio)
    return found


@njit(cache=True, nogil=True)
def category_entries(t: Any, cats: Any, times: Any, kinds: Any, table: Any, keys: Any, out: Any) -> Any:
    """The actor's history with each distinct category of it (0: none, skipped); returns how many there
    are.
    """
    n = cats.shape[0]
    found = 0
    weight = 0.0
    total = 0.0
    for i in range(n - 1, -1, -1):
        weight = 0.9 ** (n - 1 - i)
        total += weight
        if cats[i] == 0:
            continue
        at = find(table, keys, cats[i])
        if table[at] == EMPTY:
            table[at] = found
            keys[found] = cats[i]
            age = max(0.0, float(t - times[i]))
            out[found, 2] = math.exp(-age / (DAY / 24))
            out[found, 3] = math.exp(-age / DAY)
            out[found, 4] = math.exp(-age / (7 * DAY))
            found += 1
        e = table[at]
        out[e, 0] += weight
        out[e, 1] += 1.0
        if kinds[i] == 4:
            out[e, 5] = 1.0
    for e in range(found):
        out[e, 0] = out[e, 0] / total
        out[e, 1] = 0.3 * math.log1p(out[e, 1])
    return found


@njit(cache=True, nogil=True)
def i2i_entries(
    slots: Any, kinds: Any, gains: Any, lists: Any, list_slots: Any, list_len: Any, list_w: Any, degree: Any,
    base: Any, table: Any, keys: Any, out: Any,
) -> Any:  # fmt: skip
    """Co-visitation of every neighbour of the actor's last RECENT distinct items; returns how many there are.

    slots: counter rows of those items (−1 none), newest first. base: worth of one fresh pair in list weights.
    """
    taus = degree.shape[1]
    found = 0
    for k in range(slots.shape[0]):
        slot = slots[k]
        if slot < 0 or lists[slot] < 0:
            continue
        at = lists[slot]
        fall = 0.85**k * math.sqrt(gains[kinds[k]])
        for i in range(list_len[at]):
            other = list_slots[at, i]
            place = find(table, keys, other)
            if table[place] == EMPTY:
                table[place] = found
                keys[found] = other
                found += 1
            e = table[place]
            for j in range(taus):
                w = list_w[at, i, j]
                here = degree[slot, j] + 2.0 * base
                cosine = fall * w / math.sqrt(here * (degree[other, j] + 2.0 * base))
                if k == 0:
                    out[e, j] += cosine
                if k < 5:
                    out[e, taus + j] += cosine
                out[e, 2 * taus + j] += cosine
                out[e, 3 * taus + j] += fall * w / here
    for e in range(found):
        for j in range(4 * taus):
            out[e, j] = 0.5 * math.log1p(100.0 * out[e, j])
    return found


@njit(cache=True, nogil=True)
def decayed(counts: Any, last: Any, t: Any, windows: Any, out: Any) -> None:
    """Counters of one row as of t (a t before the last change: as they stand)."""
    w = windows.shape[0]
    if last == NEVER:
        out[:] = 0.0
        return
    dt = max(0.0, float(t - last))
    for j in range(w):
        keep = math.exp(-dt / windows[j])
        for s in range(4):
            out[s * w + j] = counts[s * w + j] * keep


@njit(cache=True, nogil=True)
def item_features(c: Any, totals: Any, out: Any, j: Any, at: Any) -> None:
    """Counter features of one candidate (ITEM of them) into column j from row `at`."""
    w = 6
    for s in range(3):
        for k in range(w):
            out[at + s * w + k, j] = 0.3 * math.log1p(c[(s + 1) * w + k])
    at += 18
    for k in range(w):
        out[at + k, j] = 0.5 * math.log1p(
            1_000.0 * (c[w + k] + c[2 * w + k] + c[3 * w + k]) / (totals[k] + 10.0)
        )
    at += 6
    for k in range(1, w):
        out[at + k - 1, j] = 0.5 * math.log((c[w + k] + 2.0) / (c[k] + 2.0))
    at += 5
    for k in range(3, w):
        out[at + k - 3, j] = 0.3 * math.log((c[3 * w + k] + 1.0) / (c[w + k] + 10.0))
    at += 3
    for k in range(2, 5):
        short = c[w + k] + c[2 * w + k] + c[3 * w + k]
        long = c[w + k + 1] + c[2 * w + k + 1] + c[3 * w + k + 1]
        out[at + k - 2, j] = short / (long + 1.0)


@njit(cache=True, nogil=True)
def category_features(c: Any, totals: Any, out: Any, row: Any) -> None:
    """Counter features of one category (CATEGORY of them) into a row."""
    w = 6
    for k in range(2, w):
        out[row, k - 2] = 0.5 * math.log1p(
            100.0 * (c[w + k] + c[2 * w + k] + c[3 * w + k]) / (totals[k] + 10.0)
        )
    for k in range(3, 5):
        out[row, k + 1] = 0.5 * math.log((c[w + k] + 10.0) / (c[k] + 10.0))


@njit(cache=True, nogil=True)
def round_f16(x: Any, bits: Any) -> None:
    """Round f32 values in place to the f16 grid, clipped to ±1000; bits: the same memory as u32.

    Equal to numpy's astype(float16) of the clipped value: nearest, ties to even, subnormals kept (by adding
    0.5, whose spacing is f16's smallest step), nan stays nan.
    """
    for i in range(x.shape[0]):
        v = min(max(x[i], np.float32(-1000.0)), np.float32(1000.0)) if x[i] == x[i] else x[i]
        x[i] = v
    for i in range(x.shape[0]):
        b = bits[i]
        sign = b & np.uint32(0x80000000)
        magnitude = b & np.uint32(0x7FFFFFFF)
        if magnitude < np.uint32(0x38800000):
            v = abs(x[i])
            x[i] = (v + np.float32(0.5)) - np.float32(0.5)
            bits[i] = bits[i] | sign
        elif magnitude <= np.uint32(0x7F800000):
            b = b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))
            bits[i] = b & np.uint32(0xFFFFE000)


@njit(cache=True, nogil=True)
def fill_rt(
    t: Any, rows: Any, row_slots: Any, row_codes: Any, groups: Any, row_keys: Any, row_categories: Any, counts: Any,
    last: Any, windows: Any, totals: Any, category_counts: Any, category_last: Any, own_table: Any, own_keys: Any,
    own: Any, cat_table: Any, cat_keys: Any, cat: Any, i2i_table: Any, i2i_keys: Any, i2i: Any, is_new: Any,
    out: Any,
) -> None:  # fmt: skip
    """The rt block of every candidate into out f32[rt, n]."""
    c = np.zeros(counts.shape[1], np.float64)
    category = np.zeros((1, CATEGORY), np.float32)
    for j in range(rows.shape[0]):
        row = rows[j]
        slot = row_slots[row] if row >= 0 else -1
        if slot >= 0:
            decayed(counts[slot], last[slot], t, windows, c)
        else:
            c[:] = 0.0
        item_features(c, totals, out, j, 0)
        at = ITEM
        group = groups[row_codes[row]] if row >= 0 and row_codes[row] >= 0 else -1
        if group >= 0:
            decayed(category_counts[group], category_last[group], t, windows, c)
        else:
            c[:] = 0.0
        category_features(c, totals, category, 0)
        for k in range(CATEGORY):
            out[at + k, j] = category[0, k]
        at += CATEGORY
        e = own_table[find(own_table, own_keys, row_keys[row])] if row >= 0 else -1
        for k in range(OWN):
            out[at + k, j] = own[e, k] if e >= 0 else 0.0
        at += OWN
        e = -1
        if row >= 0 and row_categories[row] != 0:
            e = cat_table[find(cat_table, cat_keys, row_categories[row])]
        for k in range(OWN_CATEGORY):
            out[at + k, j] = cat[e, k] if e >= 0 else 0.0
        at += OWN_CATEGORY
        e = i2i_table[find(i2i_table, i2i_keys, slot)] if slot >= 0 else -1
        for k in range(I2I):
            out[at + k, j] = i2i[e, k] if e >= 0 else 0.0
        at += I2I
        out[at, j] = out[22, j] if is_new else 0.0


@njit(cache=True, nogil=True)
def fill_category_block(rows: Any, categories: Any, brands: Any, prices: Any, out: Any) -> None:
    """Category and brand as one signed place among 16 each, price as one of 8 bands (0: none): out f32[40,
    n], zero.
    """
    for j in range(rows.shape[0]):
        row = rows[j]
        if row < 0:
            out[32, j] = 1.0
            continue
        for block, key in ((0, categories[row]), (16, brands[row])):
            if key != 0:
                sign = 1.0 if (key >> np.uint64(4)) & np.uint64(1) else -1.0
                out[block + np.int64(key & np.uint64(15)), j] = sign
        price = prices[row]
        band = 0
        if price == price and price >= 0.0:
            band = min(7, 1 + int(math.log2(1.0 + price) / 1.5))
        out[32 + band, j] = 1.0
