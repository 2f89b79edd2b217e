"""Gathering rows of item vectors, with a row of its own for unknown items. It scores nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit


@njit(cache=True, nogil=True)
def gather(
    table: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int32],
    unknown: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> None:
    """out[k] = table[rows[k]]; `unknown` where the row is negative or past the table."""
    width = table.shape[1]
    for k in range(rows.shape[0]):
        row = rows[k]
        if 0 <= row < table.shape[0]:
            for j in range(width):
                out[k, j] = table[row, j]
        else:
            for j in range(width):
                out[k, j] = unknown[j]


@njit(cache=True, nogil=True)
def write_columns(
    z: npt.NDArray[np.float32], columns: npt.NDArray[np.int64], out: npt.NDArray[np.float32]
) -> None:
    """out[k] = z[:, columns[k]]: the inputs of some items, one item a row."""
    for k in range(columns.shape[0]):
        for i in range(z.shape[0]):
            out[k, i] = z[i, columns[k]]
