"""Compiled inner loop of the sparse first layer: weighted sums of f16 rows, in f32. Knows nothing of keys or
codes.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def sum_rows(table, rows, values, starts, out):  # type: ignore[no-untyped-def]
    """out[j] = Σ values[e] · table[rows[e]] over entries e of bag j, added in order.

    `table` is the u16 view of an f16 array. A half's bits, moved into a float's places, are the number times
    2^-112 (subnormals too), so the factor 2^112 moves into the value: exact, and the loop has no look-up.
    """
    dim = table.shape[1]
    bits = np.empty(dim, np.uint32)
    halves = bits.view(np.float32)
    for j in range(len(starts) - 1):
        total = out[j]
        total[:] = np.float32(0)
        for e in range(starts[j], starts[j + 1]):
            row = table[rows[e]]
            for d in range(dim):
                half = np.uint32(row[d])
                bits[d] = ((half & np.uint32(0x8000)) << np.uint32(16)) | (
                    (half & np.uint32(0x7FFF)) << np.uint32(13)
                )
            value = values[e] * np.float32(2.0**112)
            for d in range(dim):
                total[d] += value * halves[d]


@njit(cache=True, nogil=True)
def code_keys(keys, flips, k, rows, weights, out_rows, out_values):  # type: ignore[no-untyped-def]
    """Codes of all keys, k each: out_rows i64[n·k], out_values f32[n·k]; `flips` u64[k / 2] are the seeded
    secrets.
    """
    unit = np.float32(1.0 / np.sqrt(k))
    prime = np.uint64(0x9FB21C651E98DF25)
    size = np.uint64(rows)
    for i in range(len(keys)):
        key = keys[i]
        swapped = (key >> np.uint64(32)) | (key << np.uint64(32))
        for draw in range(k // 2):
            h = swapped ^ flips[draw]
            h ^= ((h << np.uint64(49)) | (h >> np.uint64(15))) ^ ((h << np.uint64(24)) | (h >> np.uint64(40)))
            h *= prime
            h ^= (h >> np.uint64(35)) + np.uint64(8)
            h *= prime
            h ^= h >> np.uint64(28)
            for part in range(2):
                half = (h >> np.uint64(32)) if part else (h & np.uint64(0xFFFFFFFF))
                at = i * k + 2 * draw + part
                out_rows[at] = np.int64(((half >> np.uint64(1)) * size) >> np.uint64(31))
                sign = unit if half & np.uint64(1) else -unit
                out_values[at] = sign * weights[i]
