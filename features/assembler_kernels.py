"""Compiled loops of the assembler: z of the candidates of one request, as columns of zT on the f16 grid.

Candidates are done in blocks of BLOCK, feature by feature, so that the loops become SIMD; a candidate's
column depends on that candidate and the request only, never on the block around it
(`features/math_kernels.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from features.math_kernels import F, exp, f16, log
from features.realtime_hash_kernels import NEVER
from features.realtime_kernels import STREAMS
from features.user_kernels import I2I, OWN, OWN_CATEGORY, find

BLOCK = 64
LINE = 16
W = 6  # windows of the counters
ITEM, CATEGORY = 35, 6
RT = ITEM + CATEGORY + OWN + OWN_CATEGORY + I2I + 1
CATEGORIES, BRANDS, BANDS = 16, 16, 8
ONE = F(1.0)
HALF = F(0.5)
THIRD = F(0.3)


@njit(cache=True, nogil=True)
def totals_at(counts: Any, last: Any, t: Any, windows: Any) -> Any:
    """Clicks, carts and purchases of all items together as of t, per window: f32[W]."""
    out = np.zeros(W, np.float32)
    if last != NEVER:
        age = max(0.0, float(t - last))
        for k in range(W):
            out[k] = (counts[W + k] + counts[2 * W + k] + counts[3 * W + k]) * math.exp(-age / windows[k])
    return out


@njit(cache=True, nogil=True)
def log1p_line(x: Any, inner: Any, outer: Any, out: Any) -> None:
    """out = outer · ln(1 + inner · x), rounded; two f32 lines."""
    for j in range(x.shape[0]):
        out[j] = f16(outer * log(ONE + inner * x[j]))


@njit(cache=True, nogil=True)
def log1p_in_place(x: Any, inner: Any, outer: Any) -> None:
    """`log1p_line` of a line onto itself."""
    for j in range(x.shape[0]):
        x[j] = f16(outer * log(ONE + inner * x[j]))


@njit(cache=True, nogil=True, error_model="numpy")
def ratio_line(x: Any, y: Any, a: Any, b: Any, outer: Any, out: Any) -> None:
    """out = outer · ln((x + a) / (y + b)), rounded; f32 lines."""
    for j in range(x.shape[0]):
        out[j] = f16(outer * log((x[j] + a) / (y[j] + b)))


@njit(cache=True, nogil=True, error_model="numpy")
def share_line(x: Any, y: Any, out: Any) -> None:
    """out = x / (y + 1), rounded; f32 lines."""
    for j in range(x.shape[0]):
        out[j] = f16(x[j] / (y[j] + ONE))


@njit(cache=True, nogil=True)
def fade_lines(ages: Any, rate: Any, a: Any, b: Any, c: Any, d: Any, total: Any) -> None:
    """Multiply four f32 lines by exp(rate · age) in place; total: the sum of the last three."""
    for j in range(ages.shape[0]):
        keep = exp(F(ages[j] * rate))
        a[j] *= keep
        b[j] *= keep
        c[j] *= keep
        d[j] *= keep
        total[j] = b[j] + c[j] + d[j]


@njit(cache=True, nogil=True)
def load_counts(slots: Any, t: Any, counts: Any, last: Any, windows: Any, c: Any, ages: Any) -> None:
    """Counters of rows (−1: none, all zero) into c f32[STREAMS × W + W, BLOCK], decayed to t.

    The last W lines are clicks, carts and purchases together.
    """
    m = slots.shape[0]
    for j in range(m):
        slot = slots[j]
        if slot >= 0 and last[slot] != NEVER:
            ages[j] = max(0.0, float(t - last[slot]))
            for k in range(STREAMS * W):
                c[k, j] = counts[slot, k]
        else:
            ages[j] = 0.0
            for k in range(STREAMS * W):
                c[k, j] = F(0.0)
    for k in range(W):
        fade_lines(
            ages[:m],
            -1.0 / windows[k],
            c[k, :m],
            c[W + k, :m],
            c[2 * W + k, :m],
            c[3 * W + k, :m],
            c[4 * W + k, :m],
        )


@njit(cache=True, nogil=True, error_model="numpy")
def item_block(c: Any, totals: Any, out: Any, start: Any, m: Any) -> None:
    """Counter features of m candidates into ITEM lines of out from column `start`: `features/layout.py`,
    item_names.
    """
    end = start + m
    row = 0
    for k in range(W, 4 * W):
        log1p_line(c[k, :m], ONE, THIRD, out[row, start:end])
        row += 1
    for k in range(W):
        log1p_line(c[4 * W + k, :m], F(1_000.0) / (totals[k] + F(10.0)), HALF, out[row, start:end])
        row += 1
    for k in range(1, W):
        ratio_line(c[W + k, :m], c[k, :m], F(2.0), F(2.0), HALF, out[row, start:end])
        row += 1
    for k in range(3, W):
        ratio_line(c[3 * W + k, :m], c[W + k, :m], ONE, F(10.0), THIRD, out[row, start:end])
        row += 1
    for k in range(2, 5):
        share_line(c[4 * W + k, :m], c[4 * W + k + 1, :m], out[row, start:end])
        row += 1


@njit(cache=True, nogil=True, error_model="numpy")
def category_block(c: Any, totals: Any, out: Any, start: Any, m: Any) -> None:
    """Counter features of the candidates' categories into CATEGORY lines of out from row ITEM."""
    end = start + m
    row = ITEM
    for k in range(2, W):
        log1p_line(c[4 * W + k, :m], F(100.0) / (totals[k] + F(10.0)), HALF, out[row, start:end])
        row += 1
    for k in range(3, 5):
        ratio_line(c[W + k, :m], c[k, :m], F(10.0), F(10.0), HALF, out[row, start:end])
        row += 1


@njit(cache=True, nogil=True)
def copy_rows(wanted: Any, table: Any, keys: Any, features: Any, out: Any, row: Any, start: Any) -> None:
    """Lines of out from `row` on, from a table: the features of each wanted key (−1 and unknown ones: 0)."""
    n, m = features.shape[1], wanted.shape[0]
    for k in range(n):
        line = out[row + k, start : start + m]
        for j in range(m):
            line[j] = F(0.0)
    if keys.shape[0] == 0:
        return
    for j in range(m):
        if wanted[j] >= 0:
            e = table[find(table, keys, wanted[j])]
            if e >= 0:
                for k in range(n):
                    out[row + k, start + j] = features[e, k]


@njit(cache=True, nogil=True)
def i2i_block(out: Any, row: Any, start: Any, m: Any) -> None:
    """Take the logs of I2I lines of sums in place, from `row` on."""
    for k in range(I2I):
        log1p_in_place(
            out[row + k, start : start + m], F(100.0) if k < 16 else ONE, HALF if k < 16 else THIRD
        )


@njit(cache=True, nogil=True)
def fill_rt(
    t: Any, rows: Any, row_slots: Any, row_codes: Any, groups: Any, counts: Any, last: Any, windows: Any,
    totals: Any, category_counts: Any, category_last: Any, own: Any, own_category: Any, i2i: Any,
    is_new: Any, out: Any,
) -> None:  # fmt: skip
    """The rt block: out f32[RT, n]. own, own_category, i2i: tables of `features/user_kernels.py`."""
    c = np.empty((5 * W, BLOCK), np.float32)
    ages = np.empty(BLOCK, np.float64)
    slots = np.empty(BLOCK, np.int32)
    codes = np.empty(BLOCK, np.int32)
    group_slots = np.empty(BLOCK, np.int32)
    a = ITEM + CATEGORY
    b = a + OWN
    d = b + OWN_CATEGORY
    for start in range(0, rows.shape[0], BLOCK):
        m = min(BLOCK, rows.shape[0] - start)
        block = rows[start : start + m]
        for j in range(m):
            row = block[j]
            slots[j] = row_slots[row] if row >= 0 else -1
            codes[j] = row_codes[row] if row >= 0 else -1
            group_slots[j] = groups[codes[j]] if 0 <= codes[j] < groups.shape[0] else -1
        load_counts(slots[:m], t, counts, last, windows, c, ages)
        item_block(c, totals, out, start, m)
        load_counts(group_slots[:m], t, category_counts, category_last, windows, c, ages)
        category_block(c, totals, out, start, m)
        copy_rows(block, own[0], own[1], own[3], out, a, start)
        copy_rows(codes[:m], own_category[0], own_category[1], own_category[2], out, b, start)
        copy_rows(slots[:m], i2i[0], i2i[1], i2i[2], out, d, start)
        i2i_block(out, d, start, m)
        for j in range(start, start + m):
            out[d + I2I, j] = out[22, j] if is_new else F(0.0)


@njit(cache=True, nogil=True)
def fill_hidden(hidden: Any, out: Any, place: Any) -> None:
    """Columns `place` … place + n − 1 of out f32[h, ·] from hidden f32[n, h], transposed and rounded.

    A square at a time, so that every line of the cache that is read or written is used whole.
    """
    n, h = hidden.shape
    square = np.empty((LINE, BLOCK), np.float32)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        for low in range(0, h, LINE):
            width = min(LINE, h - low)
            for j in range(m):
                for k in range(width):
                    square[k, j] = hidden[start + j, low + k]
            for k in range(width):
                line, values = out[low + k, place + start : place + start + m], square[k]
                for j in range(m):
                    line[j] = f16(values[j])


@njit(cache=True, nogil=True)
def fill_categories(rows: Any, categories: Any, brands: Any, prices: Any, out: Any) -> None:
    """Category and brand as one signed place among 16 each, price as one of 8 bands (0: none): out f32[40,
    n].
    """
    out[:] = F(0.0)
    bands = out[CATEGORIES + BRANDS :]
    for j in range(rows.shape[0]):
        row = rows[j]
        if row < 0:
            bands[0, j] = ONE
            continue
        key = categories[row]
        if key != 0:
            out[np.int64(key & np.uint64(15)), j] = ONE if key & np.uint64(16) else -ONE
        key = brands[row]
        if key != 0:
            out[CATEGORIES + np.int64(key & np.uint64(15)), j] = ONE if key & np.uint64(16) else -ONE
        bands[price_band(prices[row]), j] = ONE


@njit(cache=True, nogil=True)
def price_band(price: Any) -> Any:
    """0: none; else 1 … 7, each about 2.8 times the one below: 1 is under 1.8, 7 is 511 and on."""
    limit = 1.8284271247461903
    if not price >= 0.0:
        return 0
    for band in range(1, BANDS - 1):
        if price < limit:
            return band
        limit = (limit + 1.0) * 2.8284271247461903 - 1.0
    return BANDS - 1
