"""Counts which items are taken together and makes the attached table (features/attached.py) of it.

A basket's items count with each other, and with the actor's last interactions by falling weight. One bounded
list an item, so that memory grows with items, not with the log. Sees each basket once, in the order of the
log.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.attached import WIDTH, Attached
from features.coding import U64
from trainer import attached_kernels as kernels

SLOTS = 48
REACH = 20
"""Basket items and earlier interactions that an item counts with, at most, each."""

FADE = 0.9
MIN_WEIGHT = 2.0
"""Pairs seen less often than about this are chance."""


class AttachedCounter:
    def __init__(self) -> None:
        self._neighbours = np.full((1_024, SLOTS), -1, np.int32)
        self._weights = np.zeros((1_024, SLOTS), np.float32)
        self._counts = np.zeros(1_024, np.float64)

    def _grow(self, size: int) -> None:
        old = len(self._counts)
        if size > old:
            new = max(size, 2 * old)
            self._neighbours = np.concatenate([self._neighbours, np.full((new - old, SLOTS), -1, np.int32)])
            self._weights = np.concatenate([self._weights, np.zeros((new - old, SLOTS), np.float32)])
            self._counts = np.concatenate([self._counts, np.zeros(new - old)])

    def add(self, basket: Sequence[int], history: Sequence[int]) -> None:
        """Count one basket (dense item numbers) against itself and the actor's history (oldest first)."""
        self._grow(max([*basket, *history]) + 1)
        left, right, weight = [], [], []
        earlier = [(item, FADE**age) for age, item in enumerate(reversed(history[-REACH:]), start=1)]
        for at, item in enumerate(basket):
            self._counts[item] += 1
            others = [(other, 1.0) for other in basket[max(0, at - REACH) : at]]
            for other, w in others + earlier:
                if other != item:
                    left += [item, other]
                    right += [other, item]
                    weight += [w, w]
        kernels.add_pairs(
            self._neighbours,
            self._weights,
            np.array(left, np.int64),
            np.array(right, np.int64),
            np.array(weight, np.float64),
        )

    def table(self, keys: U64) -> Attached:
        """The WIDTH strongest neighbours of every item that has any; `keys` are the items' keys by dense
        number.

        Strength = weight / sqrt(count · count), at most 1.
        """
        n = min(len(keys), len(self._counts))
        neighbours, weights, counts = self._neighbours[:n], self._weights[:n], np.maximum(self._counts[:n], 1)
        strength = weights / np.sqrt(counts[:, None] * counts[np.maximum(neighbours, 0)])
        strength = np.where((neighbours >= 0) & (weights >= MIN_WEIGHT), np.minimum(strength, 1), 0)
        best = np.argsort(-strength, axis=1, kind="stable")[:, :WIDTH]
        strength = np.take_along_axis(strength, best, axis=1).astype(np.float16)
        chosen = np.where(strength > 0, keys[np.maximum(np.take_along_axis(neighbours, best, axis=1), 0)], 0)
        some = np.flatnonzero(strength[:, 0] > 0)
        order = some[np.argsort(keys[some], kind="stable")]
        return Attached(keys[order], chosen[order].astype(np.uint64), strength[order])
