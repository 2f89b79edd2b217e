"""The loops of the coarse scan over the whole catalogue: int8 products in blocks of 64 items. No exact scores here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from service.block_kernels import BLOCK, block_hits, first_bit


@njit(cache=True, nogil=True)
def scan(
    blocks: npt.NDArray[np.int8],
    query: npt.NDArray[np.int8],
    query_scale: np.float32,
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    step: int,
    least: np.float32,
    out_rows: npt.NDArray[np.int32],
    out_scores: npt.NDArray[np.float32],
) -> int:
    """Collect rows whose quantised score is ≥ least, in row order; returns how many (≤ len(out_rows)).

    blocks int8 (blocks, DIM, 64): item vectors within ± 127, 64 items side by side; a row's score is
    Σ query·item · query_scale · scale[row] + bias[row]. Only every `step`-th block is looked at; rows whose mask
    is False and rows past len(mask) are left out.
    """
    count = 0
    rows = mask.shape[0]
    scores = np.empty(BLOCK, np.float32)
    for b in range(0, blocks.shape[0], step):
        first = b * BLOCK
        if first >= rows:
            break
        hits = block_hits(blocks, b, query, query_scale, scale, bias, least, scores)
        if rows - first < BLOCK:
            hits &= (np.uint64(1) << np.uint64(rows - first)) - np.uint64(1)
        while hits:
            i = first_bit(hits)
            hits &= hits - np.uint64(1)
            if mask[first + i]:
                if count == out_rows.shape[0]:
                    return count
                out_rows[count] = first + i
                out_scores[count] = scores[i]
                count += 1
    return count


@njit(cache=True, nogil=True)
def score_rows(
    vectors: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int32],
    user: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> None:
    """out[k] = vectors[rows[k]] · user + bias[rows[k]], added in order."""
    for k in range(rows.shape[0]):
        row = rows[k]
        total = np.float32(0.0)
        for j in range(user.shape[0]):
            total += vectors[row, j] * user[j]
        out[k] = total + bias[row]


@njit(cache=True, nogil=True)
def write_blocks(
    blocks: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float32],
) -> None:
    """Quantise vectors f32 (n, dim) to int8 with one scale a row, into the places of `rows`."""
    for k in range(rows.shape[0]):
        row = rows[k]
        largest = np.float32(0.0)
        for j in range(vectors.shape[1]):
            largest = max(largest, abs(vectors[k, j]))
        step = largest / np.float32(127.0)
        scale[row] = step
        for j in range(vectors.shape[1]):
            value = np.round(vectors[k, j] / step) if step > 0 else np.float32(0.0)
            blocks[row // BLOCK, j, row % BLOCK] = np.int8(value)
