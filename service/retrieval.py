"""Coarse scores over the whole catalogue and the best k of them. It does not rank finely and knows no users.

One pass over int8 vectors (32 MB for a million items) collects the rows above a threshold that a sample gave; these
are scored again with the exact f32 vectors, and the best k of them are kept. Deterministic for the same vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.block_kernels import BLOCK
from service.item_vectors import ItemVectors
from service.retrieval_kernels import scan, score_rows

Rows = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
MARGIN = 1.5
FEW = 4_096
"""Rows that are scored exactly at once, without a scan."""

_SAMPLE = 16_384


def _threshold(
    vectors: ItemVectors, query: npt.NDArray[np.int8], unit: np.float32, mask: Mask, k: int
) -> float:
    """A score that about MARGIN · k rows reach, from every n-th block; -inf where all rows are wanted."""
    rows = mask.shape[0]
    step = max(1, rows // _SAMPLE)
    size = (rows // step // BLOCK + 2) * BLOCK
    found, scores = np.empty(size, np.int32), np.empty(size, np.float32)
    lowest = np.float32(-np.inf)
    parts = (vectors.blocks, query, unit, vectors.scale, vectors.bias, mask)
    count = scan(*parts, step, lowest, found, scores)
    wanted = int(MARGIN * k / step) + 8
    if wanted >= count:
        return -np.inf
    return float(np.partition(scores[:count], count - wanted)[count - wanted])


def _highest(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Places of the k highest scores, ascending; ties go to the lower place."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > least)
    return np.sort(np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]]))


def best_rows(
    vectors: ItemVectors, user: npt.NDArray[np.float32], mask: Mask, k: int
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """The k rows of highest coarse score among those where mask is True, ascending, with their exact scores.

    Args: user f32 (32,): what item vectors are multiplied with; mask bool (rows,). Ties go to the lower row.
    """
    if int(np.count_nonzero(mask)) <= max(FEW, 4 * k):
        return _exact_best(vectors, user, np.flatnonzero(mask).astype(np.int32), k)
    rows = mask.shape[0]
    largest = float(np.abs(user).max()) if rows else 0.0
    unit = np.float32(largest / 127.0)
    query = np.round(user / unit).astype(np.int8) if unit > 0 else np.zeros(user.shape[0], np.int8)
    found, rough = np.empty(rows, np.int32), np.empty(rows, np.float32)
    parts = (vectors.blocks, query, unit, vectors.scale, vectors.bias, mask)
    least = _threshold(vectors, query, unit, mask, k)
    count = scan(*parts, 1, np.float32(least), found, rough)
    if count < k and least > -np.inf:
        count = scan(*parts, 1, np.float32(-np.inf), found, rough)
    survivors = found[_highest(rough[:count], 2 * k)] if count > 4 * k else found[:count]
    return _exact_best(vectors, user, survivors, k)


def _exact_best(
    vectors: ItemVectors, user: npt.NDArray[np.float32], rows: Rows, k: int
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """The k best of some rows, ascending."""
    exact = np.empty(len(rows), np.float32)
    score_rows(vectors.coarse, vectors.bias, rows, user, exact)
    if len(rows) <= k:
        return rows, exact
    kept = _highest(exact, k)
    return rows[kept], exact[kept]
