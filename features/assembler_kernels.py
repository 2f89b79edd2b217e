"""Compiled loops of the assembler: the real-time block of z of one request's candidates, columns on the f16 grid.

Candidates are done in blocks of BLOCK, feature by feature, so that the loops become SIMD; a candidate's
column depends on that candidate and the request only, never on the block around it
(`features/math_kernels.py`). The other blocks are made in `features/assembler_item_kernels.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from features.math_kernels import F, exp, f16, log
from features.realtime_hash_kernels import NEVER
from features.realtime_kernels import STREAMS
from features.user_kernels import EMPTY, I2I, OWN, OWN_CATEGORY, find, make_table

BLOCK = 64
W = 6  # windows of the counters
ITEM, CATEGORY = 35, 6
RT = ITEM + CATEGORY + OWN + OWN_CATEGORY + I2I + 1
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
    c[:, :m] = F(0.0)
    ages[:m] = 0.0
    known = 0
    for j in range(m):
        slot = slots[j]
        if slot >= 0 and last[slot] != NEVER:
            known += 1
            ages[j] = max(0.0, float(t - last[slot]))
            for k in range(STREAMS * W):
                c[k, j] = counts[slot, k]
    if known == 0:
        return
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
    """Counter features of m categories into CATEGORY lines of out from column `start`."""
    end = start + m
    row = 0
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
def distinct(codes: Any, places: Any) -> Any:
    """The distinct categories i32[m] among codes i32[n] (−1: none), and each one's place there (none: m)."""
    n = codes.shape[0]
    table = make_table(n)
    keys = np.empty(n, np.int32)
    found = 0
    for j in range(n):
        if codes[j] >= 0:
            at = find(table, keys, codes[j])
            if table[at] == EMPTY:
                table[at] = found
                keys[found] = codes[j]
                found += 1
            places[j] = table[at]
    for j in range(n):
        if codes[j] < 0:
            places[j] = found
    return keys[:found]


@njit(cache=True, nogil=True)
def fill_category_counters(
    t: Any, codes: Any, groups: Any, counts: Any, last: Any, windows: Any, totals: Any, c: Any, ages: Any, out: Any
) -> None:  # fmt: skip
    """Counter features of the candidates' categories into out f32[CATEGORY, n]: made once a category."""
    n = codes.shape[0]
    places = np.empty(n, np.int32)
    keys = distinct(codes, places)
    slots = np.full(keys.shape[0] + 1, -1, np.int32)  # the last one: no category
    for e in range(keys.shape[0]):
        if keys[e] < groups.shape[0]:
            slots[e] = groups[keys[e]]
    features = np.empty((CATEGORY, slots.shape[0]), np.float32)
    for start in range(0, slots.shape[0], BLOCK):
        m = min(BLOCK, slots.shape[0] - start)
        load_counts(slots[start : start + m], t, counts, last, windows, c, ages)
        category_block(c, totals, features, start, m)
    for k in range(CATEGORY):
        line, values = out[k], features[k]
        for j in range(n):
            line[j] = values[places[j]]


@njit(cache=True, nogil=True)
def i2i_rows(features: Any) -> None:
    """As `i2i_block`, for sums f32[m, I2I] that are still in their table."""
    for e in range(features.shape[0]):
        log1p_in_place(features[e, :16], F(100.0), HALF)
        log1p_in_place(features[e, 16:], ONE, THIRD)


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
    """The rt block: out f32[RT, n]. own, own_category, i2i: tables of `features/user_kernels.py`.

    The logs of i2i are taken a neighbour or a candidate, whichever are fewer.
    """
    n = rows.shape[0]
    c = np.empty((5 * W, BLOCK), np.float32)
    ages = np.empty(BLOCK, np.float64)
    slots = np.full(n, -1, np.int32)
    codes = np.full(n, -1, np.int32)
    for j in range(n):
        if rows[j] >= 0:
            slots[j] = row_slots[rows[j]]
            codes[j] = row_codes[rows[j]]
    by_neighbour = i2i[1].shape[0] < n
    if by_neighbour:
        i2i_rows(i2i[2][: i2i[1].shape[0]])
    a = ITEM + CATEGORY
    b = a + OWN
    d = b + OWN_CATEGORY
    fill_category_counters(
        t, codes, groups, category_counts, category_last, windows, totals, c, ages, out[ITEM:a]
    )
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        end = start + m
        load_counts(slots[start:end], t, counts, last, windows, c, ages)
        item_block(c, totals, out, start, m)
        copy_rows(rows[start:end], own[0], own[1], own[3], out, a, start)
        copy_rows(codes[start:end], own_category[0], own_category[1], own_category[2], out, b, start)
        copy_rows(slots[start:end], i2i[0], i2i[1], i2i[2], out, d, start)
        if not by_neighbour:
            i2i_block(out, d, start, m)
        for j in range(start, start + m):
            out[d + I2I, j] = out[22, j] if is_new else F(0.0)
