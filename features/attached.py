"""Attached coding: items taken together share part of their keys, so that an item with few events starts
near others.

Holds the finished item-to-item table (up to WIDTH neighbours an item, strengths in (0, 1]) and looks it up.
It is counted from the log at training (trainer/examples.py) and stored in the artifact; it does not change
while serving.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from features.coding import F32, U64
from features.errors import ArtifactError

WIDTH = 4


class Attached:
    """items u64[n] ascending, neighbours u64[n, WIDTH] (0: none), strengths f16[n, WIDTH]."""

    def __init__(self, items: U64, neighbours: U64, strengths: npt.NDArray[np.float16]) -> None:
        if not (len(items) == len(neighbours) == len(strengths)) or (items[1:] <= items[:-1]).any():
            raise ArtifactError("the attached table is not sorted by item or its columns differ in length")
        self.items = items
        self.neighbours = neighbours
        self.strengths = strengths

    @classmethod
    def empty(cls) -> Attached:
        return cls(np.empty(0, np.uint64), np.empty((0, WIDTH), np.uint64), np.empty((0, WIDTH), np.float16))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Attached:
        """From the arrays of `to_arrays`; raises ArtifactError when they do not fit together."""
        return cls(
            arrays["items"].astype(np.uint64, copy=False),
            arrays["neighbours"].astype(np.uint64, copy=False),
            arrays["strengths"].astype(np.float16, copy=False),
        )

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {"items": self.items, "neighbours": self.neighbours, "strengths": self.strengths}

    def look_up(self, ids: U64) -> tuple[U64, F32]:
        """Neighbours u64[n, WIDTH] and strengths f32[n, WIDTH] of n item keys; zeros for an unknown item."""
        neighbours = np.zeros((len(ids), WIDTH), np.uint64)
        strengths = np.zeros((len(ids), WIDTH), np.float32)
        if len(self.items):
            at = np.minimum(np.searchsorted(self.items, ids), len(self.items) - 1)
            known = self.items[at] == ids
            neighbours[known] = self.neighbours[at[known]]
            strengths[known] = self.strengths[at[known]]
        return neighbours, strengths
