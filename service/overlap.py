"""How much of the fine ranking's top the coarse one had in its own top: overlap@k, sampled. It ranks nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.objectives import order

F32 = npt.NDArray[np.float32]
EVERY = 16
"""One of so many answers of /v1/retrieve is measured."""
DEPTHS = (10, 100)


class Overlap(NamedTuple):
    """|top k of both| / k."""

    k: int
    share: float


def overlaps(coarse: F32, fine: F32) -> list[Overlap]:
    """For each depth that is at most half the items: scores f32 (n,) of the same items by both stages."""
    depths = [k for k in DEPTHS if 2 * k <= len(fine)]
    if not depths:
        return []
    first, second = order(coarse), order(fine)
    return [Overlap(k, len(np.intersect1d(first[:k], second[:k], assume_unique=True)) / k) for k in depths]
