"""Early positives: no level is lifted before their negatives come, and in the end nothing but the order changed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.trainer.test_gate import live
from trainer.drift_generator import DriftShop
from trainer.lead import Lead

T, WAIT_MS = 1_700_000_000_000, 30_000


def at(n: int, t: int = T) -> NDArray[np.int64]:
    return np.full(n, t, np.int64)


def seen(d: int = 4) -> Lead:
    lead = Lead(d, WAIT_MS)
    random = np.random.default_rng(1)
    lead.see(T, random.normal(0, 1, (200, d)), random.random(200))
    return lead


def test_what_is_borrowed_is_paid_back() -> None:
    lead = seen()
    z = np.random.default_rng(2).normal(0, 1, (3, 4))
    taken = lead.borrow(z, at(3), np.array([0.9, 0.8, 0.5]), np.array([1.0, 0.5, 0.1]))
    paid = sum(lead.settle(1) for _ in range(3))
    np.testing.assert_allclose(paid, taken, rtol=1e-12)
    assert lead.open == 0
    np.testing.assert_allclose(lead.settle(5), 0.0, atol=1e-12)


def test_an_undamped_click_of_the_mean_item_moves_nothing() -> None:
    lead = Lead(3, WAIT_MS)
    z = np.tile([1.0, 2.0, 3.0], (2_000, 1))
    for part in np.split(z, 200):
        lead.see(T, part, np.full(len(part), 0.1))
    taken = lead.borrow(z[:1], at(1), np.array([0.9]), np.ones(1))
    np.testing.assert_allclose(0.9 * z[0] - taken, 0.0, atol=0.02)


def test_the_first_click_of_a_list_of_one_moves_something() -> None:
    lead = Lead(3, WAIT_MS)
    z = np.ones((1, 3))
    lead.see(T, z, np.array([0.1]))
    taken = lead.borrow(z, at(1), np.array([0.9]), np.ones(1))
    assert (0.9 * z[0] - taken > 0.2).all()


def test_a_click_is_level_with_what_was_shown_when_it_was() -> None:
    """Inputs that grow with time (counters) would else look as if clicked items had less of them."""
    lead = Lead(2, WAIT_MS)
    for second in range(60):
        lead.see(T + second * 1_000, np.tile([1.0, float(second)], (100, 1)), np.full(100, 0.05))
    shown = T + 40_000
    taken = lead.borrow(np.array([[1.0, 40.0]]), at(1, shown), np.array([0.9]), np.ones(1))
    left = 0.9 * np.array([1.0, 40.0]) - taken
    assert abs(left[1]) < 0.9 * 6, "the mean of a few seconds before, not that of twenty seconds later"
    late = Lead(2, WAIT_MS)
    late.see(T, np.array([[1.0, 3.0]]), np.array([0.5]))
    np.testing.assert_allclose(
        late.borrow(np.ones((1, 2)), at(1, T - 500_000), np.array([1.0]), np.ones(1)), [0.5, 1.5]
    )


def test_levels_are_kept_for_another_wait_as_well() -> None:
    """Numbers of longer parts are smaller: those of the shorter ones, left standing, would keep them out for ever."""
    lead = Lead(2, WAIT_MS)
    for second in range(120):
        if second == 60:
            lead.follow(2 * WAIT_MS)
        lead.see(T + second * 1_000, np.tile([1.0, float(second)], (100, 1)), np.full(100, 0.05))
    taken = lead.borrow(np.array([[1.0, 90.0]]), at(1, T + 90_000), np.array([1.0]), np.ones(1))
    assert 80 < taken[1] < 92


def test_a_learner_that_expects_too_few_clicks_is_lifted_by_them() -> None:
    """k: the share of the mean's p that clicks came up to, never more than all of it."""
    z, one = np.ones((1, 1)), np.ones(1)
    for rate, k in ((0.05, 1.0), (0.02, 1.0), (0.2, 0.25)):
        lead = Lead(1, WAIT_MS)
        for _ in range(20):
            lead.see(T, np.ones((100, 1)), np.full(100, 0.05))
        lead.expect(rate * 1e6, 1e6)
        assert lead.borrow(z, at(1), one, one)[0] == pytest.approx(k, rel=0.01)
    lead.expect(0.0, 0.0)
    assert lead.borrow(z, at(1), one, one)[0] == pytest.approx(1.0, rel=0.01)


def test_state_comes_back_to_the_bit() -> None:
    lead, copy = seen(), Lead(4, WAIT_MS)
    lead.borrow(np.ones((2, 4)), at(2), np.array([0.9, 0.8]), np.ones(2))
    copy.load(lead.state())
    assert copy.state() == lead.state()
    np.testing.assert_array_equal(copy.settle(1), lead.settle(1))
    with pytest.raises(ValueError, match="does not fit"):
        Lead(5, WAIT_MS).load(lead.state())


@pytest.mark.parametrize(("width", "off"), [(0.05, 0.0), (0.2, 0.5), (1.0, 1.0), (10.0, 1.0)])
def test_a_cold_learner_is_never_lifted_by_its_first_clicks(width: float, off: float) -> None:
    """Clicks come half a minute before the negatives of their lists. Learned without what they owe, they took
    a P(click) of .12 to .65 against a true .05 (a prior that is wide, and off by `off` in the logit)."""
    shop = DriftShop(click_logit=-2.94)
    shop.prior[0] += off
    covariance = shop.covariance(width)
    shop.covariance = lambda scale=0.0: covariance  # type: ignore[method-assign]
    run = live(shop, 150)
    before = run.calibration(0, 5)
    for start in range(0, 150, 10):
        assert 0.6 < run.calibration(start, start + 10) < max(1.15, before + 0.05)
        assert run.ratio(start, start + 10) < 1.06
    assert not run.rollbacks
    if off:
        assert run.calibration(20, 30) < before - 0.01, (
            "it has begun to learn before the first negatives came"
        )
