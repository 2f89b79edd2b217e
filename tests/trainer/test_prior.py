"""The prior is the optimum that a reference optimiser finds, and the gate keeps the hidden part only where it
helps.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trainer.prior import Examples, fit, log_loss, newton


def examples(n: int = 4_000, hidden_helps: bool = True, seed: int = 0) -> Examples:
    """z: 2 hidden dimensions, an intercept, 3 others."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, 6)).astype(np.float16)
    z[:, 2] = 1
    w = np.array([2.0 if hidden_helps else 0.0, -1.0 if hidden_helps else 0.0, -1.0, 0.7, 0.0, -0.4])
    label = random.random(n) < 1 / (1 + np.exp(-(z.astype(np.float64) @ w)))
    return Examples(z, label.astype(np.float32), random.uniform(0.5, 3, n).astype(np.float32))


def test_newton_finds_what_scikit_learn_finds() -> None:
    data = examples()
    ridge = np.full(6, 2.0)
    mean, hessian = newton(data, ridge, np.zeros(6))
    reference = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1_000)
    reference.fit(data.z.astype(np.float64), data.label, sample_weight=data.weight)
    np.testing.assert_allclose(mean, reference.coef_[0], atol=1e-4)
    z = data.z.astype(np.float64)
    p = 1 / (1 + np.exp(-z @ mean))
    np.testing.assert_allclose(
        hessian, (z.T * (data.weight * p * (1 - p))) @ z + np.diag(ridge), rtol=1e-6, atol=1e-6
    )


def test_the_covariance_is_symmetric_positive_and_shrinks_with_data() -> None:
    few = fit(examples(1_000), hidden=2, intercept=2)
    many = fit(examples(8_000), hidden=2, intercept=2)
    for prior in (few, many):
        np.testing.assert_array_equal(prior.covariance, prior.covariance.T)
        assert np.linalg.eigvalsh(prior.covariance).min() > 0
    assert np.trace(many.covariance) < np.trace(few.covariance)


def test_the_hidden_part_is_kept_where_it_helps_and_left_out_where_it_does_not() -> None:
    helps = fit(examples(), hidden=2, intercept=2)
    assert helps.alpha > 0
    assert helps.mean[0] == pytest.approx(2.0, abs=0.3)
    useless = fit(examples(600, hidden_helps=False, seed=3), hidden=2, intercept=2)
    assert useless.alpha == 0
    assert useless.mean[:2].tolist() == [0, 0]
    assert np.linalg.eigvalsh(useless.covariance).min() > 0


def test_it_works_without_hidden_dimensions_and_with_dead_ones() -> None:
    data = examples()
    z = data.z.copy()
    z[:, 4] = 0
    prior = fit(Examples(z, data.label, data.weight), hidden=0, intercept=2)
    assert prior.mean[4] == 0
    assert np.isfinite(prior.covariance).all()
    assert log_loss(prior.mean, data) < log_loss(np.zeros(6), data)


def test_one_class_only_gives_finite_weights() -> None:
    data = examples(200)
    prior = fit(Examples(data.z, np.ones(200, np.float32), data.weight), hidden=2, intercept=2)
    assert np.isfinite(prior.mean).all()
    assert np.isfinite(prior.covariance).all()
