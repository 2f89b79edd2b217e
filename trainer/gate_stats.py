"""Decayed statistics of scored examples, by event time, at three time constants. They judge nothing.

Lists are taken whole, as the live weights scored them when they were shown: an early click counts when the negatives
of its list come, beside them. Losses and the histograms behind the AUC (logits less their level, `level.py`) are
corrected when a click follows a negative, as if the label had been right at first.
Flows leave later clicks out: both sides speak of the same lists, so that traffic may come and go (a shop that
wakes up is no flood, late clicks of a quiet hour neither). All
are sums that fade
by e^(−age/τ): the sum of squared weights is half the sum of weights, which the tests of `gate.py` use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.gate_kernels import add_rows
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
        category = (rows["category"] % np.uint64(BUCKETS)).astype(np.int64)
        age = np.maximum(rows["t"] - rows["since"], 0).astype(np.float64)
        p, live, frozen = (np.ascontiguousarray(rows["seen"][name]) for name in ("p", "live", "frozen"))
        add_rows(
            rows["label"] > 0, np.ascontiguousarray(rows["phase"]), np.isnan(rows["scored"]), p, live, frozen, age,
            1.0 + rows["more"],
            np.ascontiguousarray(rows["control"]), category, np.ascontiguousarray(scored.frozen), np.array(TAUS_MS),
            LONG if frozen_long else LONG + 1, _RANGE, self.sums, self.flow, self.histogram,
        )  # fmt: skip

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
