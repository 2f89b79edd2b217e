"""The gate on a shop whose truth is known: faults are held off, rolled back, and ended; sound drift is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.weight_version import decode_weights
from trainer.blas import single_thread
from trainer.drift_generator import Act, DriftShop, Fault
from trainer.gate import PRIOR, Gate
from trainer.gate_stats import FROZEN, LONG, GateStats, auc
from trainer.hold import EVENT
from trainer.join import JoinRules
from trainer.learner import EXAMPLE, Scored
from trainer.publish import Learning

Floats = NDArray[np.float64]
START, END = 400, 580
FAULTS = {
    "lost": Fault("lost", START, END),
    "flood": Fault("flood", START, END, (1, 2, 3)),
    "shuffled": Fault("shuffled", START, START + 400),
    "nan": Fault("nan", START, END),
}


@dataclass
class Run:
    """What a shop's learner served, second by second: losses by the truth, of served and frozen weights."""

    learning: Learning
    seconds: list[int] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    frozen: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    held: list[str | None] = field(default_factory=list)
    rollbacks: list[tuple[int, int, str]] = field(default_factory=list)

    def ratio(self, start: int, end: int) -> float:
        """Served log loss over frozen log loss, from second start to end."""
        return sum(self.served[start:end]) / sum(self.frozen[start:end])

    def calibration(self, start: int, end: int) -> float:
        """Sum predicted over sum observed (its expectation)."""
        return sum(self.predicted[start:end]) / sum(self.expected[start:end])


def loss(z: Floats, p: Floats, w: Floats) -> float:
    x = z @ w
    return float(np.sum(p * np.logaddexp(0, -x) + (1 - p) * np.logaddexp(0, x)))


def live(shop: DriftShop, seconds: int, sabotage: Mapping[int, Any] | None = None, kept: float = 1.0) -> Run:
    """A second is a cut, which keeps this share of its negatives. sabotage: second → function of the Learning, called
    before that second."""
    single_thread()
    prior = {head: (shop.prior, shop.covariance()) for head in ("click", "purchase")}
    made = Learning(prior, np.array([[0, shop.d]], np.int64), JoinRules(), noise=1e-7, rate=0.3)
    run, served = Run(made), shop.prior.copy()
    versions: dict[int, bytes] = {}
    wanted: dict[str, Any] | None = None
    offset = 0
    for second in range(seconds):
        v, end = second + 1, shop.start + (second + 1) * 1_000
        if sabotage and second in sabotage:
            sabotage[second](made)
        if wanted is not None:
            to = wanted["to"]
            means = decode_weights(versions[to]) if to else None
            made.roll_back(to, means, end - 1_000, [(wanted["from"].get("event/0", 0), offset)])
            run.rollbacks.append((second, to, wanted["reason"]))
        shown, acts, truths = shop.second(second)
        made.join.begin(v, kept)
        for one in shown:
            made.join.show(one)
        for act in acts:
            made.hold.push(act.t, EVENT, act)
        made.release(end - 5_000, lambda t, act: act_on(made, act))
        offset = shown[-1].offset + 1 if shown else offset
        push = made.push(v, end, {"event/0": offset})
        wanted = made.gate.state.wanted
        versions[v] = push.weights
        run.seconds.append(second)
        run.held.append(push.held)
        run.served.append(sum(loss(z, p, served) for z, p in truths))
        run.frozen.append(sum(loss(z, p, shop.prior) for z, p in truths))
        run.predicted.append(float(sum((1 / (1 + np.exp(-z @ served))).sum() for z, _ in truths)))
        run.expected.append(float(sum(p.sum() for _, p in truths)))
        served = decode_weights(push.weights)["click"]
    return run


def act_on(made: Learning, act: Act) -> None:
    made.join.act(act.t, act.ranking, act.item, act.behaviour)


@pytest.mark.parametrize("prior_error", [0.0, 0.2])
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_does_not_reach_what_is_served(name: str, prior_error: float) -> None:
    run = live(DriftShop(prior_error=prior_error, fault=FAULTS[name], rankings_a_second=12), 900)
    assert run.ratio(START, 900) <= 1.05
    assert run.ratio(0, 900) <= 1.05
    worst = max(run.ratio(start, start + 30) for start in range(0, 900, 30))
    assert worst <= 1.10, "no half minute was much worse than the prior"
    if name == "nan":
        assert run.learning.learner.heads["click"].poisoned > 0
        assert not run.rollbacks
    else:
        assert any(START <= second < START + 120 for second, _, _ in run.rollbacks)
        assert run.held[START + 150] is not None


def test_shuffled_labels_are_rolled_back_and_not_learned_again() -> None:
    run = live(DriftShop(prior_error=0.2, fault=FAULTS["shuffled"]), 1_100)
    second, to, reason = run.rollbacks[0]
    assert START < second < START + 120
    assert reason.startswith("auc")
    assert to != PRIOR
    assert to <= second - 60, "the rollback goes back before the trouble"
    assert run.learning.skipped, "what was shown meanwhile teaches nothing"
    assert run.held[-1] is None, "the hold ends after the fault"
    assert run.ratio(1_000, 1_100) < 0.97, "what was learned before the fault is still there"


def test_a_prior_that_is_off_is_corrected() -> None:
    run = live(DriftShop(prior_error=0.3, rankings_a_second=12), 600)
    assert run.ratio(300, 600) < 0.9
    assert not run.rollbacks


class Sleepy(DriftShop):
    """Nobody is there for two minutes; then three times as many come."""

    def second(self, s: int) -> Any:
        usual = self.rankings_a_second
        self.rankings_a_second = usual if s < 300 else 0 if s < 420 else 3 * usual
        try:
            return super().second(s)
        finally:
            self.rankings_a_second = usual


def test_a_shop_that_sleeps_and_wakes_up_is_no_fault() -> None:
    """Late clicks come while nothing is shown; clicks of the morning come before the negatives of their lists."""
    run = live(Sleepy(prior_error=0.1, rankings_a_second=8), 560)
    assert not run.rollbacks
    assert run.ratio(420, 560) < 1.0


def test_drift_is_followed() -> None:
    run = live(DriftShop(drift=0.01, prior_error=0.1, rankings_a_second=12), 900)
    assert run.ratio(600, 900) < 0.95
    assert not run.rollbacks


@pytest.mark.parametrize("seed", [5, 6])
def test_calibration_with_log_normal_delays(seed: int) -> None:
    """Median 15 s, p95 4 minutes: a third of the clicks come after their negative was learned."""
    run = live(DriftShop(seed=seed, prior_error=0.2, rankings_a_second=6), 2_400)
    counts = run.learning.join.counts
    assert counts["corrected"] > 0.25 * counts["clicks"]
    assert 0.95 <= run.calibration(600, 2_400) <= 1.05
    assert 0.95 <= run.calibration(1_800, 2_400) <= 1.05
    assert not run.rollbacks


def test_weights_that_are_not_numbers_are_never_pushed() -> None:
    def poison(made: Learning) -> None:
        made.learner.heads["click"].kalman.mean[3] = np.nan

    run = live(DriftShop(), 400, {300: poison})
    assert any("not finite" in (reason or "") for reason in run.held)
    assert all(np.isfinite(run.served))
    assert run.held[-1] is None
    assert np.isfinite(run.learning.learner.heads["click"].kalman.mean).all()


def test_a_jump_of_the_norm_is_held() -> None:
    def jump(made: Learning) -> None:
        made.learner.heads["click"].kalman.mean *= 4

    run = live(DriftShop(prior_error=0.1), 400, {300: jump})
    assert any("norm jump" in (reason or "") for reason in run.held)
    assert max(run.served[300:]) < 2 * max(run.served[:300])


def test_repeated_degradation_ends_at_the_prior() -> None:
    def worse(made: Learning) -> None:
        mean = made.learner.heads["click"].kalman.mean
        mean[1:] += np.where(np.arange(mean.size - 1) % 2, 0.25, -0.25)

    run = live(DriftShop(), 700, dict.fromkeys((300, 420, 540), worse))
    targets = [to for _, to, _ in run.rollbacks]
    assert len(targets) >= 3
    assert PRIOR not in targets[:2]
    assert targets[2] == PRIOR
    assert any("log loss" in reason for _, _, reason in run.rollbacks)


def test_a_rollback_goes_behind_a_fault_that_shows_late() -> None:
    """Lists are judged 35 s after they were shown, and weights that are a little worse show a minute later."""

    def worse(made: Learning) -> None:
        mean = made.learner.heads["click"].kalman.mean
        mean[1:] += np.where(np.arange(mean.size - 1) % 2, 0.3, -0.3)

    run = live(DriftShop(prior_error=0.1, rankings_a_second=12), 440, {300: worse})
    assert [to < 300 < second for second, to, _ in run.rollbacks] == [True]
    assert run.rollbacks[0][0] > 360, "a version of a minute before has the fault in it"
    assert run.ratio(400, 440) < 1.0


def test_state_of_the_gate_comes_back_to_the_bit() -> None:
    run = live(DriftShop(fault=FAULTS["flood"]), 470)
    copy = Gate()
    copy.restore(run.learning.gate.chunks())
    assert copy.chunks() == run.learning.gate.chunks()
    assert copy.held == run.learning.gate.held


def scored(n: int, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, EXAMPLE)
    rows["t"], rows["scored"], rows["teach"] = 1_000_000, np.nan, True
    rows["label"] = rng.random(n) < 0.3
    live_logits = rng.normal(0, 1, n) + rows["label"]
    frozen_logits = rng.normal(0, 1, n)
    rows["seen"]["p"] = 1 / (1 + np.exp(-live_logits))
    rows["seen"]["live"], rows["seen"]["frozen"] = live_logits, frozen_logits
    return Scored("click", rows, live_logits, frozen_logits)


def test_auc_of_the_histogram_is_near_the_exact_one() -> None:
    from sklearn.metrics import roc_auc_score

    batch = scored(4_000, 1)
    stats = GateStats()
    stats.add(batch, frozen_long=False)
    exact = roc_auc_score(batch.rows["label"], batch.live)
    assert auc(stats.histogram[LONG, 0])[0] == pytest.approx(exact, abs=0.01)
    assert auc(stats.histogram[LONG, FROZEN])[0] == pytest.approx(
        roc_auc_score(batch.rows["label"], batch.frozen), abs=0.01
    )


def test_a_correction_counts_as_if_the_label_had_been_right_at_first() -> None:
    first, right = scored(64, 2), scored(64, 2)
    rows = first.rows.copy()
    rows["label"] = 0.0
    late = Scored("click", rows, first.live, first.frozen)
    corrections = right.rows[right.rows["label"] > 0].copy()
    corrections["scored"] = 1 / (1 + np.exp(-first.live[right.rows["label"] > 0]))
    corrections["since"] = corrections["t"]
    stats, truth = GateStats(), GateStats()
    truth.add(right, frozen_long=False)
    stats.add(late, frozen_long=False)
    chosen = right.rows["label"] > 0
    moved = first.live[chosen] + 1.0  # the live weights have moved since
    stats.add(Scored("click", corrections, moved, first.frozen[chosen]), frozen_long=False)
    np.testing.assert_allclose(stats.sums, truth.sums, rtol=1e-9)
    np.testing.assert_allclose(stats.histogram, truth.histogram, atol=1e-9)
    assert stats.flow[:, 0].sum() == 0.0, "flows compare the clicks and impressions of the same lists"
