"""The Kalman head against a plain sequential extended Kalman filter, and its promises of state and bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.blas import single_thread
from trainer.kalman import BATCH, KalmanHead

Floats = NDArray[np.float64]


def sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def reference(mean: Floats, covariance: Floats, z: Floats, y: Floats, rate: float) -> tuple[Floats, Floats]:
    """Gain form, one example at a time, straight from the textbook."""
    mean, covariance = mean.copy(), covariance.copy()
    for row, label in zip(z, y, strict=True):
        p = float(sigmoid(np.array(row @ mean)))
        w = p * (1 - p)
        moved = covariance @ row
        gain = moved / (row @ moved + 1 / (rate * w))
        mean += gain * (label - p) / w
        covariance -= np.outer(gain, moved)
    return mean, covariance


def planted(d: int, n: int, seed: int = 3) -> tuple[Floats, Floats, Floats]:
    random = np.random.default_rng(seed)
    truth = random.normal(0, 0.5, d)
    z = random.normal(0, 1, (n, d))
    return truth, z, (random.random(n) < sigmoid(z @ truth)).astype(float)


def learn(head: KalmanHead, z: Floats, y: Floats, batch: int) -> None:
    for start in range(0, len(z), batch):
        part, label = z[start : start + batch], y[start : start + batch]
        p = sigmoid(part @ head.mean)
        head.learn(part, label - p, p * (1 - p))


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_single_examples_are_the_sequential_filter(rate: float) -> None:
    _, z, y = planted(12, 300)
    head = KalmanHead(np.zeros(12), np.eye(12) * 0.5, noise=0, rate=rate)
    learn(head, z, y, 1)
    mean, covariance = reference(np.zeros(12), np.eye(12) * 0.5, z, y, rate)
    np.testing.assert_allclose(head.mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(head.covariance, covariance, rtol=1e-9, atol=1e-12)


def test_micro_batches_stay_near_the_sequential_filter() -> None:
    truth, z, y = planted(20, 8_000)
    head = KalmanHead(np.zeros(20), np.eye(20) * 0.05, noise=0, rate=1.0)
    learn(head, z, y, BATCH)
    mean, covariance = reference(np.zeros(20), np.eye(20) * 0.05, z, y, 1.0)
    deviation = np.sqrt(np.diag(covariance))
    assert np.abs(head.mean - mean).max() < deviation.max()
    np.testing.assert_allclose(np.diag(head.covariance), np.diag(covariance), rtol=0.05)
    assert np.corrcoef(head.mean, truth)[0, 1] > 0.99


def test_a_residual_taken_back_moves_the_mean_and_not_the_covariance() -> None:
    head = KalmanHead(np.zeros(4), np.eye(4), noise=0, rate=0.5)
    z = np.array([[1.0, 2.0, 0.0, -1.0]])
    before = head.covariance.copy()
    head.learn(z, np.array([-0.25]), np.array([0.0]))
    moved = head.mean.copy()
    head.learn(z, np.array([0.25]), np.array([0.0]))
    assert moved @ z[0] < 0
    np.testing.assert_array_equal(head.mean, np.zeros(4))
    np.testing.assert_array_equal(head.covariance, before)


def test_noise_follows_event_time_up_to_the_prior() -> None:
    _, z, y = planted(6, 500)
    head = KalmanHead(np.zeros(6), np.eye(6), noise=1e-3, rate=1.0)
    head.advance(1_000_000)
    learn(head, z, y, BATCH)
    shrunk = np.diag(head.covariance).copy()
    head.advance(1_010_000)
    np.testing.assert_allclose(np.diag(head.covariance), shrunk + 1e-2)
    head.advance(900_000)
    np.testing.assert_allclose(np.diag(head.covariance), shrunk + 1e-2)
    head.advance(10**12)
    np.testing.assert_allclose(np.diag(head.covariance), 1.0)
    assert np.linalg.eigvalsh(head.covariance).min() > 0


def test_the_covariance_stays_symmetric_and_positive_after_long_learning() -> None:
    random = np.random.default_rng(1)
    head = KalmanHead(np.zeros(30), np.eye(30), noise=1e-6, rate=0.3)
    for step in range(2_000):
        z = random.normal(0, 1, (BATCH, 30)) * 3
        z[:, 1] = z[:, 0]  # collinear inputs
        p = sigmoid(z @ head.mean)
        head.advance(step * 1_000)
        head.learn(z, (random.random(BATCH) < 0.1) - p, p * (1 - p))
    np.testing.assert_array_equal(head.covariance, head.covariance.T)
    assert np.linalg.eigvalsh(head.covariance).min() > -1e-12
    assert np.isfinite(head.mean).all()


def test_state_comes_back_to_the_bit() -> None:
    assert single_thread()
    _, z, y = planted(17, 256)
    first = KalmanHead(np.zeros(17), np.eye(17), noise=1e-5, rate=0.3)
    first.advance(5_000)
    learn(first, z[:128], y[:128], BATCH)
    second = KalmanHead(np.zeros(17), np.eye(17), noise=1e-5, rate=0.3)
    second.load(first.state())
    for head in (first, second):
        head.advance(9_000)
        learn(head, z[128:], y[128:], BATCH)
    assert first.state() == second.state()
    with pytest.raises(ValueError, match="does not fit"):
        KalmanHead(np.zeros(3), np.eye(3), noise=0, rate=1).load(first.state())


def test_a_covariance_that_broke_is_the_prior_again() -> None:
    head = KalmanHead(np.zeros(3), np.eye(3), noise=0, rate=1.0)
    head.covariance -= 2 * np.eye(3)
    head.learn(np.ones((1, 3)), np.array([0.5]), np.array([0.25]))
    np.testing.assert_array_equal(head.covariance, np.eye(3))
    assert head.resets == 1


def test_a_prior_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        KalmanHead(np.array([np.nan]), np.eye(1), noise=0, rate=1)
    with pytest.raises(ValueError, match="fit"):
        KalmanHead(np.zeros(2), np.eye(3), noise=0, rate=1)
