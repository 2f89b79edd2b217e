"""Ratios over users with the user as the unit: delta method, differences of two arms, chi-square. It reads no log.

A metric is Σ y / Σ x over the users of an arm (x = 1: a mean a user). One user's impressions are not independent, so
the variance is that of users (Deng, Knoblich, Lu 2018, "Applying the delta method in metric analytics", eq. 4):
var(R) = (var y − 2 R cov(x, y) + R² var x) / (n · mean(x)²).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054


class Ratio(NamedTuple):
    """A ratio over n users, and the variance of its estimate; nan where it is not defined."""

    value: float
    variance: float
    n: int

    def interval(self) -> tuple[float, float]:
        """95 % confidence interval."""
        half = Z95 * math.sqrt(self.variance)
        return self.value - half, self.value + half


class Difference(NamedTuple):
    """An arm less the reference arm: 95 % interval, two-sided p, and both relative to the reference."""

    value: float
    low: float
    high: float
    p: float
    relative: float
    relative_low: float
    relative_high: float


def moments(y: Floats, x: Floats) -> Floats:
    """f64 (n, 6): 1, y, x, y², x·y, x² of each user; their sum over an arm is all that `ratio` needs.

    Both are scaled by the caller where they are large: these are plain sums.
    """
    return np.stack([np.ones(len(y)), y, x, y * y, x * y, x * x], axis=1)


def ratio(sums: Sequence[float] | Floats) -> Ratio:
    """The ratio of an arm from the summed `moments` of its users."""
    n, y, x, yy, xy, xx = (float(part) for part in sums)
    if n < 2 or x <= 0:
        return Ratio(math.nan, math.nan, int(n))
    value, mean = y / x, x / n
    spread = (yy - y * y / n) - 2 * value * (xy - x * y / n) + value * value * (xx - x * x / n)
    return Ratio(value, max(spread, 0.0) / (n - 1) / n / mean**2, int(n))


def difference(arm: Ratio, reference: Ratio) -> Difference:
    """Two arms are independent: their variances add. The relative interval is by the delta method as well."""
    value = arm.value - reference.value
    error = math.sqrt(arm.variance + reference.variance)
    p = 0.0 if error == 0 and value != 0 else math.nan  # nan: nothing was bought at all, or it is not defined
    if error > 0:
        p = math.erfc(abs(value) / error / math.sqrt(2))
    base = reference.value
    if not base:
        return Difference(value, value - Z95 * error, value + Z95 * error, p, math.nan, math.nan, math.nan)
    share = arm.value / base
    wide = Z95 * math.sqrt(arm.variance + share**2 * reference.variance) / abs(base)
    relative = share - 1
    return Difference(
        value, value - Z95 * error, value + Z95 * error, p, relative, relative - wide, relative + wide
    )


def chi_square_tail(x: float, df: int) -> float:
    """P(chi-square of df ≥ x), by its finite sums (Abramowitz and Stegun 26.4.4, 26.4.5)."""
    if df < 1 or math.isnan(x):
        return math.nan
    if x <= 0:
        return 1.0
    if df % 2 == 0:
        term = total = math.exp(-x / 2)
        for k in range(1, df // 2):
            term *= x / 2 / k
            total += term
        return min(1.0, total)
    total = math.erfc(math.sqrt(x / 2))
    term = math.sqrt(2 * x / math.pi) * math.exp(-x / 2)
    for k in range(1, (df + 1) // 2):
        total += term
        term *= x / (2 * k + 1)
    return min(1.0, total)


def mismatch(observed: Sequence[int], shares: Sequence[float]) -> tuple[float, float]:
    """Chi-square and p of the users seen in each arm against the shares: a small p says that some went missing."""
    total, whole = sum(observed), sum(shares)
    expected = [total * share / whole for share in shares]
    if not total:
        return math.nan, math.nan
    x = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(observed, expected, strict=True))
    return x, chi_square_tail(x, len(shares) - 1)
