"""A/A: the same log split by many random salts. Nothing differs, so p < .05 must come out in about 5 % of the splits.

A variance that is too small (impressions taken as independent) shows here as more. It is not a test of the shop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.experiments import arms_of, salted
from trainer.experiments.report import METRICS, metric_moments, sorted_counts
from trainer.experiments.statistics import difference, mismatch, ratio
from trainer.experiments.tally import Tally

LEVEL, TOLERANCE = 0.05, 0.02
HALVES = (0.5, 1.0)


def split(
    sums: NDArray[np.float64],
    keys: NDArray[np.uint64],
    times: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, NDArray[np.float64]]:
    """p values by metric, f64 (times,), and those of the sample-ratio check, of so many splits in halves.

    sums f64 (n, 5), keys u64 (n,): of the same units."""
    parts = metric_moments(sums)
    wholes = {name: each.sum(axis=0) for name, each in parts.items()}
    found = {name: np.full(times, np.nan) for name in (*METRICS, "sample_ratio")}
    for k in range(times):
        progress(k, times)
        first = arms_of(salted(f"aa-{seed}-{k}"), HALVES, keys) == 0
        for name, each in parts.items():
            mine = first.astype(np.float64) @ each
            found[name][k] = difference(ratio(mine), ratio(wholes[name] - mine)).p
        count = int(np.count_nonzero(first))
        found["sample_ratio"][k] = mismatch([count, len(keys) - count], [0.5, 0.5])[1]
    return found


def figures(
    tally: Tally, times: int, seed: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """The share of p < .05 by metric, with the standard error that chance alone gives it."""
    whole = ~tally.units.mixed
    sums = tally.units.sums[whole]
    p_values = split(sums, tally.units.keys[whole], times, seed, progress)
    shares = {name: _share(values) for name, values in p_values.items()}
    judged = [share for share in shares.values() if share is not None]
    error = math.sqrt(LEVEL * (1 - LEVEL) / times)
    most = max(TOLERANCE, 3 * error)
    return {
        "users": len(sums),
        "impressions": int(sums[:, 1].sum()),
        "times": times,
        "below_05": shares,
        "standard_error": round(error, 4),
        "within": all(abs(share - LEVEL) < most + 1e-9 for share in judged),
        "left_out": sorted_counts(tally),
    }


def _share(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(np.mean(known < LEVEL)), 4) if len(known) else None
