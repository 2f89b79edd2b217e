"""The gate before another base is promoted: both pairs' progressive log loss on the same shown items. It promotes none.

Each item is judged once, when the time for a click is over: by P(click) of both pairs' weights at the moment when it
was shown, and by one label for both. Sums fade with an hour of event time, and so do the histograms of both pairs'
logits, behind the AUC that people are shown; the gate does not look at it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer.gate_stats import auc
from trainer.join import Join
from trainer.join_rows import ACCEPTED

WORSE = 0.02
"""Log loss above the answering pair's, as a share of it, that is let through."""

LEAST_SHOWN, LEAST_CLICKS = 500.0, 10.0
"""Items and clicks that both have judged before anything is promoted."""

TAU_MS = 3_600_000.0
WAITING = 50_000  # rankings that wait for their time, at most: the oldest are forgotten
_EDGE = 1e-7
BINS, _LEAST, _MOST = 256, -12.0, 4.0
"""Of logits, from least to most: what lies outside shares the last bins."""

_SHAPE = (2, 2, BINS)  # live | beside, label, bin


class Judged(msgspec.Struct):
    """What a checkpoint keeps: rankings (due, hash) that wait, and fading sums."""

    waiting: list[tuple[int, int]] = []
    at: int = 0
    shown: float = 0.0
    clicks: float = 0.0
    live: float = 0.0
    beside: float = 0.0
    histogram: bytes = b""  # f64 of _SHAPE; a checkpoint of before has none


class BaseGate:
    """Compares the answering pair with the one beside it."""

    def __init__(self, judged: Judged | None = None) -> None:
        judged = judged or Judged()
        self._waiting: deque[tuple[int, int]] = deque(judged.waiting, WAITING)
        self._sums = judged
        stored = np.frombuffer(judged.histogram, "<f8")
        self._histogram = stored.reshape(_SHAPE).copy() if len(stored) else np.zeros(_SHAPE)

    def show(self, ranking: int, due: int) -> None:
        """A ranking (by hash) was shown to both; its labels are judged at `due` (ms)."""
        self._waiting.append((due, ranking))

    def judge(self, through: int, live: Join, beside: Join) -> None:
        """Judge what is due."""
        while self._waiting and self._waiting[0][0] <= through:
            due, ranking = self._waiting.popleft()
            mine, theirs = live.foretold(ranking), beside.foretold(ranking)
            if mine is None or theirs is None or len(mine[0]) != len(theirs[0]):
                continue
            both = np.isfinite(mine[0]) & np.isfinite(theirs[0])
            self._fade(due)
            clicked = mine[1][both] == ACCEPTED
            self._sums.shown += float(both.sum())
            self._sums.clicks += float(clicked.sum())
            self._sums.live += _loss(mine[0][both], clicked)
            self._sums.beside += _loss(theirs[0][both], clicked)
            for pair, p in enumerate((mine[0][both], theirs[0][both])):
                np.add.at(self._histogram[pair], (clicked.astype(np.int64), _bins(p)), 1.0)

    def _fade(self, t: int) -> None:
        sums = self._sums
        factor = math.exp(-max(0, t - sums.at) / TAU_MS) if sums.at else 1.0
        sums.at = max(sums.at, t)
        sums.shown, sums.clicks = sums.shown * factor, sums.clicks * factor
        sums.live, sums.beside = sums.live * factor, sums.beside * factor
        self._histogram *= factor

    def swap(self) -> None:
        """The pairs have changed places."""
        self._sums.live, self._sums.beside = self._sums.beside, self._sums.live
        self._histogram = self._histogram[::-1].copy()

    def figures(self) -> dict[str, Any]:
        """Items and clicks judged; both pairs' mean log loss and AUC, the losses' ratio (None before there is one)."""
        sums = self._sums
        n = sums.shown
        return {
            "shown": round(n, 1),
            "clicks": round(sums.clicks, 1),
            "loss_live": sums.live / n if n >= 1 else None,
            "loss_beside": sums.beside / n if n >= 1 else None,
            "auc_live": _known(auc(self._histogram[0])[0]),
            "auc_beside": _known(auc(self._histogram[1])[0]),
            "ratio": sums.beside / sums.live if n >= 1 and sums.live > 0 else None,
        }

    def refusal(self) -> str | None:
        """Why the pair beside may not answer; None where it may."""
        sums = self._sums
        if sums.shown < LEAST_SHOWN or sums.clicks < LEAST_CLICKS:
            return (
                f"only {sums.shown:.0f} shown items with {sums.clicks:.0f} clicks were judged by both pairs, "
                f"{LEAST_SHOWN:.0f} and {LEAST_CLICKS:.0f} are the least: wait"
            )
        if not sums.beside <= (1.0 + WORSE) * sums.live:
            mine, theirs = sums.live / sums.shown, sums.beside / sums.shown
            return (
                f"log loss {theirs:.5f} on {sums.shown:.0f} shown items, {mine:.5f} of the answering pair: "
                f"{theirs / mine - 1:+.1%}, at most {WORSE:+.0%} is let through"
            )
        return None

    def state(self) -> Judged:
        """For a checkpoint."""
        histogram = self._histogram.astype("<f8").tobytes()
        return msgspec.structs.replace(self._sums, waiting=list(self._waiting), histogram=histogram)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bins(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where the logit of each probability lies among BINS."""
    p = np.clip(p, _EDGE, 1.0 - _EDGE)
    place = (np.log(p / (1.0 - p)) - _LEAST) / (_MOST - _LEAST) * BINS
    return np.clip(place, 0, BINS - 1).astype(np.int64)


def _loss(p: NDArray[np.float64], clicked: NDArray[np.bool_]) -> float:
    """Summed log loss."""
    right = np.clip(np.where(clicked, p, 1.0 - p), _EDGE, 1.0)
    return float(-np.log(right).sum())
