"""What the trainer says of itself: rates, lag, joins, learning curve, gate. It decides nothing and is not replayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.core import Core
from trainer.gate_stats import (
    CLICKS,
    FROZEN,
    LIVE,
    LONG,
    LOSS_FROZEN,
    LOSS_LIVE,
    P_FROZEN,
    P_LIVE,
    SHORT,
    N,
    auc,
)

RATE_MS = 10_000
CURVE_POINTS = 240


class Report:
    """Rates over the last ten seconds of the wall clock, and the rest from the core as it is."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._events: deque[tuple[int, int]] = deque()

    def add(self, events: int) -> None:
        """A cut was learned that covered so many events."""
        self._events.append((self._clock(), events))

    def _rate(self, now: int) -> float:
        while self._events and self._events[0][0] < now - RATE_MS:
            self._events.popleft()
        return sum(n for _, n in self._events) * 1_000.0 / RATE_MS

    def status(self, core: Core, now: int, differing: Sequence[int]) -> dict[str, Any]:
        """The status row: plain JSON values."""
        learning = core.learning
        heads = learning.learner.heads.values()
        counts = dict(learning.join.counts)
        counts["poisoned"] = sum(head.poisoned for head in heads)
        counts["covariance_resets"] = sum(head.kalman.resets for head in heads)
        return {
            "version": core.v,
            "weights_version": core.weights_version,
            "watermark": core.watermark,
            "lag_ms": max(0, now - core.watermark),
            "events_per_second": self._rate(now),
            "totals": dict(core.totals),
            "counts": counts,
            "negatives_kept": learning.join.kept,
            "waiting": {
                "hold": len(learning.hold),
                "shown": learning.join.shown.next - learning.join.shown.oldest,
                "clicks": learning.join.clicks.next - learning.join.clicks.oldest,
            },
            "gate": {
                "held": learning.gate.held,
                "trips": dict(learning.gate.state.trips),
                "skipped": [list(part) for part in learning.skipped],
            },
            "calibration": _calibration(core),
            "progressive": {"10m": _figures(core, LONG), "1m": _figures(core, SHORT)},
            "curve": learning.gate.state.curve[-CURVE_POINTS:],
            "curve_columns": ["t", "examples", "loss_live", "loss_frozen", "auc_live", "auc_frozen"],
            "differing": list(differing),
            "bases": core.rollout.status(),
        }


def _calibration(core: Core) -> dict[str, float | None]:
    """Observed / predicted clicks of live and frozen weights over the longest window (it fades: 15 minutes).

    None before a click's worth was predicted."""
    clicks, live, frozen = core.learning.gate.stats.sums[LONG, [CLICKS, P_LIVE, P_FROZEN]].tolist()
    return {
        "clicks": clicks,
        "live": clicks / live if live >= 1 else None,
        "frozen": clicks / frozen if frozen >= 1 else None,
    }


def _figures(core: Core, tau: int) -> dict[str, float | None]:
    """Progressive log loss and AUC of live and frozen weights over one window."""
    stats = core.learning.gate.stats
    n = float(stats.sums[tau, N])
    areas = {name: auc(stats.histogram[tau, model])[0] for name, model in (("live", LIVE), ("frozen", FROZEN))}
    return {
        "examples": n,
        "loss_live": float(stats.sums[tau, LOSS_LIVE] / n) if n >= 1 else None,
        "loss_frozen": float(stats.sums[tau, LOSS_FROZEN] / n) if n >= 1 else None,
        **{f"auc_{name}": None if np.isnan(area) else area for name, area in areas.items()},
    }
