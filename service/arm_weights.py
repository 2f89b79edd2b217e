"""Weights of the versions that arms of experiments serve, taken from the store beside what the replica follows.

A version holds weights of its base, and of the base beside it, if one was staged then: whoever is answered by either
gets those of hers. A version that an arm names is marked as kept, so that it is not thinned out while the experiment
runs. One that is not there, without weights of a base, or damaged is asked for again every few seconds; for those whom
that base answers the experiment is off meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import StoreError, UnknownVersion
from service.snapshot import stack
from service.weight_store import Version, WeightStore, decode_weights

log = logging.getLogger(__name__)

AGAIN_MS = 3_000


class Fixed(NamedTuple):
    """Weights f64 (2, d) of one version and one base, and the event time (ms) that they are trained through."""

    weights: npt.NDArray[np.float64]
    through: int


Have = Mapping[str, Mapping[int, Fixed]]


class ArmWeights:
    """`have`, by base and version, is replaced, never changed: a request may hold on to it."""

    def __init__(self, wanted: Collection[int], clock: Callable[[], int]) -> None:
        """wanted: version numbers; clock: ms."""
        self._wanted, self._clock = sorted(wanted), clock
        self._tried = 0
        self._reasons: dict[tuple[int, str], str] = {}
        self.have: Have = {}

    def refresh(self, store: WeightStore, loaded: Mapping[str, npt.NDArray[np.float64]]) -> bool:
        """Ask for what is missing of these bases (priors (2, d) by sha256); True where something was asked for."""
        if self.have.keys() != loaded.keys():
            self.have = {base: self.have.get(base, {}) for base in loaded}
            self._tried = 0
        missing = [v for v in self._wanted if any(v not in self.have[base] for base in loaded)]
        if not missing or self._clock() - self._tried < AGAIN_MS:
            return False
        self._tried = self._clock()
        have = {base: dict(self.have[base]) for base in loaded}
        for v in missing:
            for base, one in self._ask(store, v, loaded).items():
                have[base][v] = one
        self.have = have
        return True

    def _ask(
        self, store: WeightStore, v: int, loaded: Mapping[str, npt.NDArray[np.float64]]
    ) -> dict[str, Fixed]:
        """By base, what a version holds of it."""
        found = {}
        for base, prior in loaded.items():
            try:
                store.keep(v)
                found[base] = _of(store.get(v), base, prior.shape)
            except (StoreError, UnknownVersion, ValueError) as error:
                if self._reasons.get((v, base)) != str(error):
                    log.error(
                        "an arm's version cannot be served: its experiment is off where this base answers",
                        extra={"version": v, "base": base, "reason": str(error)},
                    )
                self._reasons[v, base] = str(error)
            else:
                self._reasons.pop((v, base), None)
        self._reasons = {place: why for place, why in self._reasons.items() if place[1] in loaded}
        return found


def _of(version: Version, base: str, shape: tuple[int, ...]) -> Fixed:
    """Raises StoreError, ValueError where it holds nothing that fits."""
    data, beside = version.weights_of(base), version.beside
    if data is None:
        raise StoreError(f"version {version.v} has no weights of base {base[:12]}, only of {version.base[:12]}")
    weights = stack(decode_weights(data))
    if weights.shape != shape:
        raise StoreError(f"version {version.v} has weights {weights.shape} of base {base[:12]}, not {shape}")
    other = beside is not None and base == beside.base and base != version.base
    return Fixed(weights, beside.watermark if other and beside is not None else version.watermark)
