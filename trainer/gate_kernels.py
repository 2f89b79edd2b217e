"""The loop of the gate's statistics over a scored batch. It decays nothing and judges nothing (`gate_stats.py`)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True)
def _log_loss(logit: float, positive: bool) -> float:
    """−log of the probability that a logit gives to the label."""
    x = logit if positive else -logit
    return math.log1p(math.exp(-abs(x))) - min(x, 0.0)


@njit(cache=True, nogil=True)
def _sigmoid(x: float) -> float:
    e = math.exp(-abs(x))
    return (1.0 if x >= 0 else e) / (1.0 + e)


@njit(cache=True, nogil=True)
def _bin(logit: float, reach: float, bins: int) -> int:
    if not abs(logit) <= reach:
        return 0 if logit < 0 else bins - 1
    return min(bins - 1, int((logit + reach) * (bins / (2.0 * reach))))


@njit(cache=True, nogil=True)
def add_rows(
    positive: NDArray[np.bool_],
    phase: NDArray[np.uint8],
    first_label: NDArray[np.bool_],
    seen: Floats,
    above_live: Floats,
    above_frozen: Floats,
    age: Floats,
    weights: Floats,
    control: NDArray[np.bool_],
    bucket: NDArray[np.int64],
    frozen: Floats,
    taus: Floats,
    windows: int,
    reach: float,
    sums: Floats,
    flow: Floats,
    histogram: Floats,
) -> None:
    """Add n rows to the first `windows` windows of sums, flow and histogram (see GateStats for their columns).

    phase: of `trainer/learner.py`: rows of phase 1 come again, with phase 2; first_label: False for a correction; seen:
    live p when shown, nan: as the frozen weights; above_live, above_frozen: logits when shown, less their level; age:
    ms since the first label; weights: of a first label, or of what a correction takes back; bucket: of
    the category; frozen: logits."""
    bins, last = histogram.shape[3], flow.shape[2] - 1
    for k in range(len(frozen)):
        if phase[k] == 1:
            continue
        first, then, rank = first_label[k], frozen[k], above_frozen[k]
        if not math.isnan(seen[k]):
            rank = above_live[k]
            p = min(max(seen[k], 1e-12), 1.0 - 1e-12)
            then = math.log(p / (1.0 - p))
        yes = positive[k]
        a, b = _log_loss(then, yes), _log_loss(frozen[k], yes)
        a0 = b0 = 0.0
        new, old = weights[k], 0.0  # weight of this label, and of the one that it takes back
        if not first:
            a0, b0 = _log_loss(then, False), _log_loss(frozen[k], False)
            new, old = 1.0, weights[k]
        gap, gap0 = a - b, a0 - b0
        expected = new * _sigmoid(frozen[k]) if first else 0.0
        guessed = new * _sigmoid(then) if first else 0.0
        place_live, place_frozen = _bin(rank, reach, bins), _bin(above_frozen[k], reach, bins)
        for tau in range(windows):
            weight = 1.0 if first else math.exp(-age[k] / taus[tau])
            row = sums[tau]
            row[0] += weight * new if first else 0.0
            row[1] += 1.0 if yes else 0.0
            row[2] += guessed
            row[3] += expected
            row[4] += weight * (new * a - old * a0)
            row[5] += weight * (new * b - old * b0)
            row[6] += weight * (new * gap - old * gap0)
            row[7] += weight * (new * new * (gap * gap) - old * old * (gap0 * gap0))
            if control[k]:
                row[8] += weight * new if first else 0.0
                row[9] += weight * (new * gap - old * gap0)
                row[10] += weight * (new * new * (gap * gap) - old * old * (gap0 * gap0))
            if yes and first:
                flow[tau, 0, bucket[k]] += 1.0
                flow[tau, 0, last] += 1.0
            flow[tau, 1, bucket[k]] += expected
            flow[tau, 1, last] += expected
            label = 1 if yes else 0
            histogram[tau, 0, label, place_live] += weight * new
            histogram[tau, 1, label, place_frozen] += weight * new
            if not first:
                histogram[tau, 0, 0, place_live] -= weight * old
                histogram[tau, 1, 0, place_frozen] -= weight * old
