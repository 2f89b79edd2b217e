"""Compiled loop of `service/filters.py`: which candidates are there to be ranked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit


@njit(cache=True, nogil=True)
def mark_available(
    rows: npt.NDArray[np.int32],
    available: npt.NDArray[np.bool_],
    deleted: npt.NDArray[np.bool_],
    out: npt.NDArray[np.bool_],
) -> None:
    """out[k]: row k is unknown (−1), or available and not deleted."""
    for k in range(rows.shape[0]):
        row = rows[k]
        out[k] = row < 0 or (available[row] and not deleted[row])
