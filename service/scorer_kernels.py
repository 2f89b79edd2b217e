"""Compiled loop of the coarse score: a row's result does not depend on the rows around it."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def dot_rows(items, query, bias, out):  # type: ignore[no-untyped-def]
    """out[i] = items[i] · query + bias[i]; f32, eight running sums a row (the width is a multiple of 8)."""
    n, dim = items.shape
    for i in range(n):
        a = np.float32(0)
        b = np.float32(0)
        c = np.float32(0)
        d = np.float32(0)
        e = np.float32(0)
        f = np.float32(0)
        g = np.float32(0)
        h = np.float32(0)
        for j in range(0, dim, 8):
            a += items[i, j] * query[j]
            b += items[i, j + 1] * query[j + 1]
            c += items[i, j + 2] * query[j + 2]
            d += items[i, j + 3] * query[j + 3]
            e += items[i, j + 4] * query[j + 4]
            f += items[i, j + 5] * query[j + 5]
            g += items[i, j + 6] * query[j + 6]
            h += items[i, j + 7] * query[j + 7]
        out[i] = ((a + b) + (c + d)) + ((e + f) + (g + h)) + bias[i]
