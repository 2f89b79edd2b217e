"""The gate before every push of weights: may these weights be served, and may the learner learn on?

It compares the live weights with the frozen prior on the same shown items (on all of them, and on the control
arm), and the labels with what they were before: a stream of labels that is lost, flooded or shuffled shows in
the prior's own figures. A trip holds the pushes, stops learning, and asks for a rollback to weights from
before the trouble; it ends when the figures are sound again. It moves no weights itself (`online.py` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer.gate_stats import (
    BUCKETS,
    CLICKS,
    CONTROL_DIFF,
    CONTROL_DIFF2,
    CONTROL_N,
    DIFF,
    DIFF2,
    FAST,
    FROZEN,
    LIVE,
    LONG,
    LOSS_FROZEN,
    LOSS_LIVE,
    P_FROZEN,
    P_LIVE,
    SHORT,
    GateStats,
    N,
    auc,
)
from trainer.learner import Scored

Floats = NDArray[np.float64]

WARM_MS = 180_000
WARM_SHOWN, WARM_CLICKS = 1_000.0, 30.0  # of the longest window, before labels are judged
SIGMAS = 5.0
LOW, HIGH = 0.5, 2.0  # observed / expected clicks, of all
BUCKET_LOW, BUCKET_HIGH = 0.25, 3.0  # of a category bucket
AUC_DROP = 0.06
WORSE = 0.02  # log loss above the frozen prior's, as a share of it
NORM_JUMP = 0.5  # of the norm of the weights pushed last
LOSS_JUMP = 2.0
CALIBRATION = 1.25
GUARD_MS = 60_000  # a rollback goes back at least this far behind what was judged
SNAPSHOT_MS, SNAPSHOTS = 10_000, 30
CLEAR_MS = 10_000  # sound for this long: the hold ends
HOLD_MS = 600_000  # after this long what comes is the new normal
STRIKES, STRIKES_MS = 3, 1_800_000
CURVE_MS, CURVE = 60_000, 240
PRIOR = 0  # the "version" that stands for the base's own prior


class Snapshot(msgspec.Struct):
    """Weights that were pushed: what a trip may go back to. The means are f64 bytes."""

    v: int
    t: int
    offsets: dict[str, int]
    means: dict[str, bytes]


class GateState(msgspec.Struct):
    """What the gate remembers beside its statistics."""

    first: int | None = None  # time of the first example
    held: str | None = None
    since: int = 0
    sound_since: int | None = None
    resumed: int = -(1 << 62)  # end of the last hold: what was shown before is not learned
    strikes: list[int] = []
    wanted: dict[str, Any] | None = None  # the rollback that waits for its control record
    trips: dict[str, int] = {}
    snapshots: list[Snapshot] = []
    curve: list[list[float]] = []  # [t, examples, loss live, loss frozen, auc live, auc frozen]


def _excess(observed: Floats, expected: Floats) -> Floats:
    """Standard deviations by which decayed Poisson counts leave what was expected."""
    return (observed - expected) / np.sqrt(np.maximum(expected, 2.0) / 2.0)


def _auc_error(area: float, positives: float, negatives: float) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982), of decayed counts."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    n, m = max(2 * positives, 1.0), max(2 * negatives, 1.0)
    spread = area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)
    return float(np.sqrt(max(spread, 0.0) / (n * m)))


class Gate:
    """See the module. All times are event time, ms; every decision follows from the examples alone."""

    def __init__(self) -> None:
        self.guard = GUARD_MS
        self.stats = GateStats()
        self.purchase = GateStats()
        self.state = GateState()

    def follow(self, wait: int) -> None:
        """What is judged was shown so many ms ago, by weights of then; what is remembered reaches no further back
        than its oldest part."""
        self.guard = min(GUARD_MS + wait, (SNAPSHOTS - 1) * SNAPSHOT_MS)

    @property
    def held(self) -> str | None:
        """Why pushes are held; None where they are not."""
        return self.state.held

    def observe(self, scored: Scored) -> None:
        """Take a batch as it was scored."""
        stats = self.stats if scored.head == "click" else self.purchase
        stats.add(scored, frozen_long=self.held is not None)
        if self.state.first is None:
            self.state.first = int(scored.rows["t"][0])

    # the checks: each says what is wrong, or None

    def _numbers(self, means: Mapping[str, Floats], pushed: Mapping[str, Floats]) -> str | None:
        for head, mean in means.items():
            if not np.isfinite(mean).all():
                return f"not finite: weights of {head}"
            step, norm = float(np.linalg.norm(mean - pushed[head])), float(np.linalg.norm(pushed[head]))
            if step > max(1.0, NORM_JUMP * norm):
                return f"norm jump: weights of {head} moved by {step:.2f} at a norm of {norm:.2f}"
        return None

    def _labels(self) -> str | None:
        """Clicks against what the frozen prior expects, corrected by how far off it is in the long run."""
        flow = self.stats.flow
        rate = flow[LONG, 0, BUCKETS] / max(flow[LONG, 1, BUCKETS], 1e-9)
        for tau in (FAST, SHORT):
            observed, expected = flow[tau, 0, BUCKETS], rate * flow[tau, 1, BUCKETS]
            ratio, sigmas = observed / max(expected, 1e-9), float(_excess(observed, expected))
            if (ratio < LOW and sigmas < -SIGMAS) or (ratio > HIGH and sigmas > SIGMAS):
                return f"clicks: {ratio:.2f} of what is usual"
            reason = self._categories(tau, rate)
            if reason:
                return reason
        return None

    def _categories(self, tau: int, rate: float) -> str | None:
        flow = self.stats.flow
        usual = (flow[LONG, 0, :BUCKETS] + 5.0 * rate) / (flow[LONG, 1, :BUCKETS] + 5.0)
        observed, expected = flow[tau, 0, :BUCKETS], usual * flow[tau, 1, :BUCKETS]
        ratio, sigmas = observed / np.maximum(expected, 1e-9), _excess(observed, expected)
        bad = ((ratio < BUCKET_LOW) & (sigmas < -SIGMAS)) | ((ratio > BUCKET_HIGH) & (sigmas > SIGMAS))
        if not bad.any():
            return None
        worst = int(np.argmax(np.where(bad, np.abs(sigmas), 0.0)))
        return f"clicks by category: {int(bad.sum())} off, worst {ratio[worst]:.2f} of what is usual"

    def _signal(self) -> str | None:
        """Labels that no longer follow the scores at all (shuffled, or of other items)."""
        for model, name in ((FROZEN, "frozen"), (LIVE, "live")):
            usual, _, _ = auc(self.stats.histogram[LONG, model])
            found, positives, negatives = auc(self.stats.histogram[SHORT, model])
            if positives < 10.0 or np.isnan(found):
                continue
            if found < usual - max(AUC_DROP, 4.0 * _auc_error(found, positives, negatives)):
                return f"auc: {found:.3f} of the {name} weights, usually {usual:.3f}"
        return None

    def _worse(self) -> str | None:
        """Live against frozen, on the same examples."""
        for stats, head in ((self.stats, "click"), (self.purchase, "purchase")):
            for tau in (SHORT, LONG):
                sums = stats.sums[tau]
                margin = WORSE * sums[LOSS_FROZEN]
                if sums[N] >= 200 and sums[DIFF] > margin + 3.0 * np.sqrt(max(sums[DIFF2], 0.0) / 2.0):
                    share = sums[LOSS_LIVE] / sums[LOSS_FROZEN]
                    return f"log loss: {head} at {share:.3f} of the frozen prior's"
                control = WORSE * sums[LOSS_FROZEN] * sums[CONTROL_N] / max(sums[N], 1e-9)
                spread = np.sqrt(max(sums[CONTROL_DIFF2], 0.0) / 2.0)
                if sums[CONTROL_N] >= 200 and sums[CONTROL_DIFF] > control + 3.0 * spread:
                    return f"log loss: {head} worse than the frozen prior on the control arm"
        return self._jump()

    def _worse_auc(self) -> str | None:
        live, positives, negatives = auc(self.stats.histogram[LONG, LIVE])
        frozen, _, _ = auc(self.stats.histogram[LONG, FROZEN])
        if positives >= 50 and live < frozen - max(0.03, 3.0 * _auc_error(live, positives, negatives)):
            return f"auc: live {live:.3f}, frozen {frozen:.3f}"
        return None

    def _jump(self) -> str | None:
        short, usual = self.stats.sums[SHORT], self.stats.sums[LONG]
        if short[N] < 200 or usual[N] < WARM_SHOWN:
            return None
        loss, before = short[LOSS_LIVE] / short[N], usual[LOSS_LIVE] / usual[N]
        frozen = short[LOSS_FROZEN] / short[N]
        jumped = loss > LOSS_JUMP * before and loss > (1 + WORSE) * frozen
        return f"loss jump: {loss:.4f} after {before:.4f}" if jumped else None

    def _calibration(self) -> str | None:
        clicks, live, frozen = self.stats.sums[LONG, [CLICKS, P_LIVE, P_FROZEN]]
        if clicks < 100 or abs(float(_excess(clicks, live))) < SIGMAS:
            return None
        off = abs(np.log(clicks / max(live, 1e-9)))
        worse = off > abs(np.log(clicks / max(frozen, 1e-9))) + np.log(CALIBRATION)
        return f"calibration: observed / predicted {clicks / live:.2f}" if worse else None

    def _warm(self) -> bool:
        if self.stats.at is None or self.state.first is None or self.stats.at - self.state.first < WARM_MS:
            return False
        shown = self.stats.histogram[LONG, FROZEN].sum()
        return bool(shown >= WARM_SHOWN and self.stats.flow[LONG, 0, BUCKETS] >= WARM_CLICKS)

    def check(self, means: Mapping[str, Floats], pushed: Mapping[str, Floats], t: int) -> str | None:
        """End of a cut: is anything wrong? Returns the reason of the hold that now stands, or None.

        means: the learner's weights; pushed: the weights pushed last; t: watermark."""
        self.stats.decay(t, frozen_long=self.held is not None)
        self._sketch(t)
        reason = self._numbers(means, pushed)
        if reason is None and self._warm():
            reason = self._labels() or self._signal() or self._worse_auc() or self._calibration()
        reason = reason or self._worse()
        if self.state.held is None:
            if reason is not None:
                self._trip(reason, t)
        elif reason is not None:
            self.state.sound_since = None
            if t - self.state.since > HOLD_MS:
                self._release(t, accept=True)
        elif self.state.sound_since is None:
            self.state.sound_since = t
        elif t - self.state.sound_since >= CLEAR_MS and self.state.wanted is None:
            self._release(t, accept=False)
        return self.state.held

    def _sketch(self, t: int) -> None:
        """A point of the learning curve a minute: what the shortest but one window says."""
        curve, sums = self.state.curve, self.stats.sums[SHORT]
        if sums[N] < 1 or (curve and t - curve[-1][0] < CURVE_MS):
            return
        areas = [auc(self.stats.histogram[SHORT, model])[0] for model in (LIVE, FROZEN)]
        losses = [float(sums[LOSS_LIVE] / sums[N]), float(sums[LOSS_FROZEN] / sums[N])]
        curve.append([float(t), float(sums[N]), *losses, *(-1.0 if np.isnan(a) else a for a in areas)])
        del curve[:-CURVE]

    def teaches(self, shown: int) -> bool:
        """May an item shown at time `shown` (ms) move the weights?"""
        return self.state.held is None and shown >= self.state.resumed

    def _trip(self, reason: str, t: int) -> None:
        state = self.state
        state.held, state.since, state.sound_since = reason, t, None
        name = reason.split(":")[0]
        state.trips[name] = state.trips.get(name, 0) + 1
        state.strikes = [strike for strike in state.strikes if t - strike < STRIKES_MS] + [t]
        old = [one for one in state.snapshots if t - one.t >= self.guard]
        state.snapshots = old
        if not old or len(state.strikes) >= STRIKES:
            state.snapshots, state.strikes = [], []
            state.wanted = {"to": PRIOR, "from": {}, "reason": reason}
        else:
            state.wanted = {"to": old[-1].v, "from": old[-1].offsets, "reason": reason}

    def _release(self, t: int, *, accept: bool) -> None:
        self.state.held, self.state.sound_since, self.state.resumed = None, None, t
        if accept:
            self.stats.accept()

    def pushed(self, v: int, t: int, offsets: dict[str, int], means: Mapping[str, Floats]) -> None:
        """Version v went out with these weights; now and then one is remembered to go back to."""
        kept = self.state.snapshots
        if not kept or t - kept[-1].t >= SNAPSHOT_MS:
            copies = {head: mean.astype("<f8").tobytes() for head, mean in means.items()}
            kept.append(Snapshot(v, t, dict(offsets), copies))
            del kept[:-SNAPSHOTS]

    def snapshot(self, v: int) -> dict[str, Floats] | None:
        """The remembered weights of version v, if it is one of those remembered."""
        for one in self.state.snapshots:
            if one.v == v:
                return {head: np.frombuffer(data, "<f8").astype(float) for head, data in one.means.items()}
        return None

    def rolled_back(self, to: int, t: int) -> None:
        """The learner's weights were put back to those of version `to` (by this gate's wish or another's)."""
        self.state.wanted = None
        self.state.snapshots = [one for one in self.state.snapshots if one.v <= to]
        self.state.since = t
        self.stats.forget_live()
        self.purchase.forget_live()

    def chunks(self) -> dict[str, bytes]:
        """State by name."""
        return {
            "stats": self.stats.state(),
            "purchase": self.purchase.state(),
            "state": msgspec.msgpack.encode(self.state),
        }

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """The inverse of `chunks`."""
        self.stats.load(chunks["stats"])
        self.purchase.load(chunks["purchase"])
        self.state = msgspec.msgpack.decode(chunks["state"], type=GateState)
