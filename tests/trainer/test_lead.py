"""Early positives: no level is lifted before their negatives come, and in the end nothing but the order changed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.test_gate import live
from trainer.drift_generator import DriftShop
from trainer.lead import Lead


def seen(d: int = 4) -> Lead:
    lead = Lead(d)
    random = np.random.default_rng(1)
    lead.see(random.normal(0, 1, (200, d)), random.random(200))
    return lead


def test_what_is_borrowed_is_paid_back() -> None:
    lead = seen()
    z = np.random.default_rng(2).normal(0, 1, (3, 4))
    taken = lead.borrow(z, np.array([0.9, 0.8, 0.5]), np.array([1.0, 0.5, 0.1]))
    paid = sum(lead.settle(1) for _ in range(3))
    np.testing.assert_allclose(paid, taken, rtol=1e-12)
    assert lead.open == 0
    np.testing.assert_allclose(lead.settle(5), 0.0, atol=1e-12)


def test_an_undamped_click_of_the_mean_item_moves_nothing() -> None:
    lead = Lead(3)
    z = np.tile([1.0, 2.0, 3.0], (2_000, 1))
    for part in np.split(z, 200):
        lead.see(part, np.full(len(part), 0.1))
    taken = lead.borrow(z[:1], np.array([0.9]), np.ones(1))
    np.testing.assert_allclose(0.9 * z[0] - taken, 0.0, atol=0.02)


def test_the_first_click_of_a_list_of_one_moves_something() -> None:
    lead = Lead(3)
    z = np.ones((1, 3))
    lead.see(z, np.array([0.1]))
    taken = lead.borrow(z, np.array([0.9]), np.ones(1))
    assert (0.9 * z[0] - taken > 0.2).all()


def test_state_comes_back_to_the_bit() -> None:
    lead, copy = seen(), Lead(4)
    lead.borrow(np.ones((2, 4)), np.array([0.9, 0.8]), np.ones(2))
    copy.load(lead.state())
    assert copy.state() == lead.state()
    np.testing.assert_array_equal(copy.settle(1), lead.settle(1))
    with pytest.raises(ValueError, match="does not fit"):
        Lead(5).load(lead.state())


@pytest.mark.parametrize(("width", "off"), [(0.05, 0.0), (1.0, 1.0), (10.0, 1.0)])
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
