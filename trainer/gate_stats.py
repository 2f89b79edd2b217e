"""Decayed statistics of scored examples, by event time, at three time constants. They judge nothing.

Flows (clicks against predicted clicks) count an event when it comes; losses and the histograms behind the AUC
are corrected when a click follows a negative, as if the label had been right at first. All are sums that fade
by e^(−age/τ): the sum of squared weights is half the sum of weights, which the tests of `gate.py` use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.last_layer import log_sigmoid, sigmoid
from trainer.learner import Scored

Floats = NDArray[np.float64]

TAUS_MS = (10_000.0, 60_000.0, 900_000.0)
FAST, SHORT, LONG = range(3)
LIVE, FROZEN = range(2)
BINS = 64
BUCKETS = 256
_RANGE = 10.0  # logits beyond ±10 share the last bins

# columns of `sums`
COLUMNS = 11
N, CLICKS, P_LIVE, P_FROZEN, LOSS_LIVE, LOSS_FROZEN = range(6)
DIFF, DIFF2, CONTROL_N, CONTROL_DIFF, CONTROL_DIFF2 = range(6, COLUMNS)


def _bins(logits: Floats) -> NDArray[np.int64]:
    return np.clip((logits + _RANGE) * (BINS / (2 * _RANGE)), 0, BINS - 1).astype(np.int64)


def auc(histogram: Floats) -> tuple[float, float, float]:
    """AUC of a histogram f64[2 labels, bins] (ties count half), and its sums of positives and negatives.

    The AUC is nan where a label is missing."""
    positives, negatives = np.maximum(histogram[1], 0.0), np.maximum(histogram[0], 0.0)
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    area = float((positives * (below + negatives / 2)).sum() / pairs) if pairs > 0 else float("nan")
    return area, float(positives.sum()), float(negatives.sum())


class GateStats:
    """What the gate looks at: `sums` f64[τ, column], `flow` f64[τ, observed|expected, bucket + all],
    `histogram` f64[τ, live|frozen, label, bin]."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.sums = np.zeros((3, COLUMNS))
        self.flow = np.zeros((3, 2, BUCKETS + 1))
        self.histogram = np.zeros((3, 2, 2, BINS))

    def _parts(self) -> tuple[Floats, Floats, Floats]:
        return self.sums, self.flow, self.histogram

    def decay(self, t: int, *, frozen_long: bool) -> None:
        """Let everything fade to time t (ms); frozen_long: the longest window stands still."""
        passed = 0 if self.at is None else max(0, t - self.at)
        self.at = t if self.at is None else max(self.at, t)
        if passed == 0:
            return
        factors = np.exp(-passed / np.array(TAUS_MS))
        factors[LONG] = 1.0 if frozen_long else factors[LONG]
        self.sums *= factors[:, None]
        self.flow *= factors[:, None, None]
        self.histogram *= factors[:, None, None, None]

    def add(self, scored: Scored, *, frozen_long: bool) -> None:
        """Take a scored batch."""
        rows = scored.rows
        self.decay(int(rows["t"][-1]), frozen_long=frozen_long)
        windows = slice(0, LONG if frozen_long else LONG + 1)
        first = np.isnan(rows["scored"])
        age = np.maximum(rows["t"] - rows["since"], 0.0)
        weight = np.where(first, 1.0, np.exp(-age / np.array(TAUS_MS)[windows, None]))  # (τ, n)
        self._flows(scored, first, windows)
        self._losses(scored, first, weight, windows)
        self._histograms(scored, first, weight, windows)

    def _flows(self, scored: Scored, first: NDArray[np.bool_], windows: slice) -> None:
        rows, expected = scored.rows, np.where(first, sigmoid(scored.frozen), 0.0)
        bucket = (rows["category"] % np.uint64(BUCKETS)).astype(np.int64)
        for kind, amount in enumerate((rows["label"], expected)):
            by_bucket = np.bincount(bucket, amount, BUCKETS)
            self.flow[windows, kind, :BUCKETS] += by_bucket
            self.flow[windows, kind, BUCKETS] += amount.sum()

    def _losses(self, scored: Scored, first: NDArray[np.bool_], weight: Floats, windows: slice) -> None:
        rows, live, frozen = scored.rows, scored.live, scored.frozen
        # at a correction the live weights that scored first count, not those of now
        then = np.clip(rows["scored"], 1e-12, 1 - 1e-12)
        live = np.where(first, live, np.log(then / (1 - then)))
        columns = np.zeros((COLUMNS, len(rows)))
        signs = np.where(rows["label"] > 0, 1.0, -1.0)
        after = (-log_sigmoid(signs * live), -log_sigmoid(signs * frozen))
        before = (-log_sigmoid(-live), -log_sigmoid(-frozen))
        gap, gap_before = after[0] - after[1], before[0] - before[1]
        columns[N] = first
        columns[CLICKS] = rows["label"]
        columns[P_LIVE] = np.where(first, sigmoid(live), 0.0)
        columns[P_FROZEN] = np.where(first, sigmoid(frozen), 0.0)
        columns[LOSS_LIVE] = after[0] - np.where(first, 0.0, before[0])
        columns[LOSS_FROZEN] = after[1] - np.where(first, 0.0, before[1])
        columns[DIFF] = gap - np.where(first, 0.0, gap_before)
        columns[DIFF2] = gap**2 - np.where(first, 0.0, gap_before**2)
        columns[CONTROL_N] = columns[N] * rows["control"]
        columns[CONTROL_DIFF] = columns[DIFF] * rows["control"]
        columns[CONTROL_DIFF2] = columns[DIFF2] * rows["control"]
        flows = [CLICKS, P_LIVE, P_FROZEN]
        faded = weight @ columns.T  # (τ, columns)
        faded[:, flows] = columns[flows].sum(axis=1)
        self.sums[windows] += faded

    def _histograms(self, scored: Scored, first: NDArray[np.bool_], weight: Floats, windows: slice) -> None:
        label = (scored.rows["label"] > 0).astype(np.int64)
        then = np.clip(scored.rows["scored"], 1e-12, 1 - 1e-12)
        live = np.where(first, scored.live, np.log(then / (1 - then)))
        for model, logits in ((LIVE, live), (FROZEN, scored.frozen)):
            bins = _bins(np.nan_to_num(logits))
            place = label * BINS + bins
            for tau in range(weight.shape[0]):
                counts = np.bincount(place, weight[tau], 2 * BINS)
                counts[:BINS] -= np.bincount(bins, np.where(first, 0.0, weight[tau]), BINS)
                self.histogram[tau, model] += counts.reshape(2, BINS)

    def forget_live(self) -> None:
        """The live weights were put back: what compares them with the frozen ones starts anew."""
        self.sums[:] = 0.0
        self.histogram[:, LIVE] = self.histogram[:, FROZEN]

    def accept(self) -> None:
        """What came lately is the new normal: the longest window becomes the one below it."""
        scale = TAUS_MS[LONG] / TAUS_MS[SHORT]
        for part in self._parts():
            part[LONG] = part[SHORT] * scale

    def state(self) -> bytes:
        """All sums and the time, little endian f64."""
        at = np.array([np.nan if self.at is None else float(self.at)])
        return np.concatenate([at, *(part.ravel() for part in self._parts())]).astype("<f8").tobytes()

    def load(self, data: bytes) -> None:
        """The inverse of `state`."""
        values = np.frombuffer(data, "<f8")
        self.at = None if np.isnan(values[0]) else int(values[0])
        start = 1
        for part in self._parts():
            part[:] = values[start : start + part.size].reshape(part.shape)
            start += part.size
