"""The loops of the last layer: sums of terms over dimension-major inputs. No names, no requests here.

No fastmath and no parallel loops: the order of the additions is part of the contract (docs/formats.md §4),
so that a logit is the same to the bit whatever the batch, and is the sum of the terms that `explain` prints.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

BLOCK = 512


@njit(cache=True, nogil=True)
def sum_terms(
    z: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    bounds: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
) -> None:
    """out[h, j] = Σ_k Σ_{i in bounds[k]} weights[h, i] · z[i, j], both sums one after the other in f64."""
    n = z.shape[1]
    block = np.empty(BLOCK, np.float64)
    for head in range(weights.shape[0]):
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            total = out[head, start : start + size]
            total[:] = 0.0
            for k in range(bounds.shape[0]):
                low, high = bounds[k, 0], bounds[k, 1]
                if high == low + 1:
                    row = z[low, start : start + size]
                    weight = weights[head, low]
                    for j in range(size):
                        total[j] += weight * np.float64(row[j])
                    continue
                part = block[:size]
                part[:] = 0.0
                for i in range(low, high):
                    row = z[i, start : start + size]
                    weight = weights[head, i]
                    for j in range(size):
                        part[j] += weight * np.float64(row[j])
                for j in range(size):
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
