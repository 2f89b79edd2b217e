"""Weights of the versions that arms of experiments serve, taken from the store beside what the replica follows.

A version that an arm names is marked as kept, so that it is not thinned out while the experiment runs. One that is not
there, of another base, or damaged is asked for again every few seconds; the experiment is off meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import StoreError, UnknownVersion
from service.weight_store import HEADS, WeightStore

log = logging.getLogger(__name__)

AGAIN_MS = 3_000


class Fixed(NamedTuple):
    """Weights f64 (2, d) of one version, the event time (ms) that they are trained through, and their base."""

    weights: npt.NDArray[np.float64]
    through: int
    base: str


class ArmWeights:
    """`have` is replaced, never changed: a request may hold on to it."""

    def __init__(self, wanted: Collection[int], clock: Callable[[], int]) -> None:
        """wanted: version numbers; clock: ms."""
        self._wanted, self._clock = sorted(wanted), clock
        self._base = ""
        self._tried = 0
        self._reasons: dict[int, str] = {}
        self.have: dict[int, Fixed] = {}

    def refresh(self, store: WeightStore, base: str, shape: tuple[int, ...]) -> bool:
        """Ask for what is missing, for this base (another one than before: for all); True where something changed."""
        if base != self._base:
            self._base, self._tried, self.have = base, 0, {}
        missing = [v for v in self._wanted if v not in self.have]
        if not missing or self._clock() - self._tried < AGAIN_MS:
            return False
        self._tried = self._clock()
        found = {v: self._ask(store, v, shape) for v in missing}
        self.have = self.have | {v: one for v, one in found.items() if one is not None}
        return True

    def _ask(self, store: WeightStore, v: int, shape: tuple[int, ...]) -> Fixed | None:
        try:
            store.keep(v)
            version = store.get(v)
            heads = version.vectors()
            weights = np.ascontiguousarray(np.stack([heads[head] for head in HEADS]), np.float64)
            if version.base != self._base or weights.shape != shape:
                raise StoreError(f"version {v} is of base {version.base[:12]}, not of {self._base[:12]}")
        except (StoreError, UnknownVersion, ValueError) as error:
            if self._reasons.get(v) != str(error):
                log.error("an arm's version cannot be served: its experiment is off",
                          extra={"version": v, "reason": str(error)})  # fmt: skip
            self._reasons[v] = str(error)
            return None
        self._reasons.pop(v, None)
        return Fixed(weights, version.watermark, version.base)
