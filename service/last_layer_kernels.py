"""The loops of the last layer: sums of terms over dimension-major inputs. No names, no requests here.

No fastmath and no parallel loops: the order of the additions is part of the contract (docs/formats.md §4),
so that a logit is the same to the bit whatever the batch, and is the sum of the terms that `explain` prints.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

BLOCK = 256
"""Items at a time: their inputs stay in the cache from head to head."""


@njit(cache=True, nogil=True)
def add_rows(
    z: npt.NDArray[np.float32],
    start: int,
    weights: npt.NDArray[np.float64],
    low: int,
    high: int,
    total: npt.NDArray[np.float64],
) -> None:
    """total[j] += weights[i] · z[i, start + j] for i from low to high − 1, one after the other; four a pass."""
    i, stop = low, start + total.shape[0]
    while i + 4 <= high:
        a, b, c, d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        z_a, z_b = z[i, start:stop], z[i + 1, start:stop]
        z_c, z_d = z[i + 2, start:stop], z[i + 3, start:stop]
        for j in range(total.shape[0]):
            t = total[j] + a * np.float64(z_a[j])
            t = t + b * np.float64(z_b[j])
            t = t + c * np.float64(z_c[j])
            total[j] = t + d * np.float64(z_d[j])
        i += 4
    while i < high:
        a, z_a = weights[i], z[i, start:stop]
        for j in range(total.shape[0]):
            total[j] += a * np.float64(z_a[j])
        i += 1


@njit(cache=True, nogil=True)
def sum_terms(
    z: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    bounds: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
) -> None:
    """out[h, j] = Σ_k Σ_{i in bounds[k]} weights[h, i] · z[i, j], both sums one after the other in f64."""
    block = np.empty(BLOCK, np.float64)
    for start in range(0, z.shape[1], BLOCK):
        part = block[: min(BLOCK, z.shape[1] - start)]
        stop = start + part.shape[0]
        for head in range(weights.shape[0]):
            total = out[head, start:stop]
            total[:] = 0.0
            k = 0
            while k < bounds.shape[0]:
                low, high = bounds[k]
                k += 1
                if high == low + 1:  # a run of single dimensions is one sum
                    while k < bounds.shape[0] and bounds[k, 0] == high and bounds[k, 1] == high + 1:
                        high += 1
                        k += 1
                    add_rows(z, start, weights[head], low, high, total)
                    continue
                part[:] = 0.0
                add_rows(z, start, weights[head], low, high, part)
                for j in range(part.shape[0]):
                    total[j] += part[j]


@njit(cache=True, nogil=True)
def term_sums(
    z: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    bounds: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
) -> None:
    """out[k] = Σ_{i in bounds[k]} weights[i] · z[i] for one item: the terms that `sum_terms` adds up."""
    for k in range(bounds.shape[0]):
        part = 0.0
        for i in range(bounds[k, 0], bounds[k, 1]):
            part += weights[i] * np.float64(z[i])
        out[k] = part
