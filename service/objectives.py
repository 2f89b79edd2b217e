"""Named objectives: the sort key as a weighted sum of log click, log purchase and log price.

No head is run here: it takes the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InvalidRequest, SettingsError
from service.last_layer import log_sigmoid

PARTS = ("click", "purchase", "price")
LEAST_PRICE = 0.01


class Objective(NamedTuple):
    """Weights of log P(click), log P(purchase | click) and log max(price, .01)."""

    name: str
    click: float
    purchase: float
    price: float


class Objectives:
    """The objectives of the settings, by name."""

    def __init__(self, settings: Mapping[str, Mapping[str, float]], default: str) -> None:
        self._named: dict[str, Objective] = {}
        for name, weights in settings.items():
            unknown = set(weights) - set(PARTS)
            if unknown:
                raise SettingsError(
                    f"objective {name!r} weighs an unknown part",
                    field=f"objectives.{name}",
                    value=sorted(unknown)[0],
                    hint=f"parts are {', '.join(PARTS)}",
                )
            self._named[name] = Objective(name, *(float(weights.get(part, 0.0)) for part in PARTS))
        self._default = self._named[default]

    @property
    def names(self) -> list[str]:
        """The names in the order of the settings."""
        return list(self._named)

    def get(self, name: str | None) -> Objective:
        """The objective of that name (None: the default); InvalidRequest if there is none."""
        if name is None:
            return self._default
        found = self._named.get(name)
        if found is None:
            known = ", ".join(self._named)
            raise InvalidRequest("no such objective", field="objective", value=name, hint=f"known: {known}")
        return found


def scores(
    objective: Objective, logits: npt.NDArray[np.float64], price: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Sort keys of n items from logits f64 (2, n): click, purchase; and prices f32 (n,), NaN where unknown.

    Σ w · log p + w_price · log max(price, .01), in f64, rounded once to f32: what is sorted is what is
    answered. An unknown price counts as the least price.
    """
    total = np.zeros(logits.shape[1], np.float64)
    if objective.click:
        total += objective.click * log_sigmoid(logits[0])
    if objective.purchase:
        total += objective.purchase * log_sigmoid(logits[1])
    if objective.price:
        total += objective.price * np.log(np.fmax(price.astype(np.float64), LEAST_PRICE))
    return total.astype(np.float32)


def order(keys: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Places best first; ties stand in the order they came in, NaN last.

    An f32 whose bits are flipped where it is negative sorts as an integer; with its place in the lower half of 64
    bits a plain sort is stable, and five times as fast as a stable argsort.
    """
    down = 0.0 - keys  # never −0.0
    down[np.isnan(down)] = np.inf
    bits = down.view(np.int32).astype(np.int64)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    bits <<= 32
    bits |= np.arange(len(keys))
    bits.sort()
    return bits & 0xFFFFFFFF
