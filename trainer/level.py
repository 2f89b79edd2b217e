"""The level of logits: their running mean over what was shown lately, for live and frozen weights. It judges nothing.

A level that moves (a cold learner finding the shop's click rate) is no ranking. Labels come late, so that recent items
have fewer clicks so far; pooled over time, an AUC would take a rising level for a ranking turned over.
So the gate's AUC looks at logits less the level of their time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MEMORY = 512.0  # shown items


class Level:
    """Fading sums of live and frozen logits, and of their number."""

    def __init__(self) -> None:
        self._sums = np.zeros(3)

    def above(self, logits: Floats) -> Floats:
        """Logits f64 (2, n) of items shown now, finite; returns them less their level, which takes them in."""
        n = logits.shape[1]
        self._sums *= np.exp(-n / MEMORY)
        self._sums[:2] += logits.sum(axis=1)
        self._sums[2] += n
        centred: Floats = logits - (self._sums[:2] / self._sums[2])[:, None]
        return centred

    def state(self) -> bytes:
        """Little endian f64."""
        return self._sums.astype("<f8").tobytes()

    def load(self, data: bytes) -> None:
        """The inverse of `state`."""
        self._sums = np.frombuffer(data, "<f8").astype(np.float64)
