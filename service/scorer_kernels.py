"""Compiled loop of the coarse score: a row's result does not depend on the rows around it."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def dot_rows(items, query, bias, out):  # type: ignore[no-untyped-def]
    """out[i] = items[i] · query + bias[i]; f32, eight running sums a row (the width is a multiple of 8)."""
    n, dim = items.shape
    s = np.empty(8, np.float32)
    for i in range(n):
        row = items[i]
        for k in range(8):
            s[k] = np.float32(0)
        for j in range(0, dim, 8):
            for k in range(8):  # a constant: one vector operation
                s[k] += row[j + k] * query[j + k]
        out[i] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])) + bias[i]
