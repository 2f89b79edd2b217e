"""Compiled loops of the assembler for what does not move with the log: the network's output, category, brand, price.

`features/assembler_kernels.py` has the real-time block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from features.math_kernels import F, f16

BLOCK, LINE = 64, 16
CATEGORIES, BRANDS, BANDS = 16, 16, 8
ONE = F(1.0)


@njit(cache=True, nogil=True)
def fill_hidden(hidden: Any, out: Any, place: Any) -> None:
    """Columns `place` … place + n − 1 of out f32[h, ·] from hidden f32[n, h], transposed and rounded.

    A square at a time, so that every line of the cache that is read or written is used whole.
    """
    n, h = hidden.shape
    square = np.empty((LINE, BLOCK), np.float32)
    whole = h - h % LINE
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        first, end = place + start, place + start + m
        for low in range(0, whole, LINE):
            for j in range(m):
                for k in range(LINE):  # a constant: the loop is unrolled
                    square[k, j] = hidden[start + j, low + k]
            for k in range(LINE):
                line, values = out[low + k, first:end], square[k]
                for j in range(m):
                    line[j] = f16(values[j])
        for k in range(whole, h):
            for j in range(m):
                out[k, first + j] = f16(hidden[start + j, k])


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
