"""Compiled update of the bounded co-occurrence lists behind the attached table. No keys, no files."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def add_pairs(neighbours, weights, left, right, weight):  # type: ignore[no-untyped-def]
    """Add weight[p] to the pair left[p] → right[p]; a full list gives up its lightest entry.

    neighbours i32[n, slots] (-1: free), weights f32[n, slots]. The new entry starts from its own weight:
    with more pairs than slots an inherited one (space-saving) would make chance pairs as heavy as real ones.
    """
    slots = neighbours.shape[1]
    for p in range(len(left)):
        a = left[p]
        place = 0
        for s in range(slots):
            if neighbours[a, s] == right[p] or neighbours[a, s] < 0:
                place = s
                break
            if weights[a, s] < weights[a, place]:
                place = s
        if neighbours[a, place] != right[p]:
            neighbours[a, place] = right[p]
            weights[a, place] = np.float32(0)
        weights[a, place] += np.float32(weight[p])
