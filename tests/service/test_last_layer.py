"""The last layer against a written-out sum, and its independence of the batch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.last_layer import contributions, log_sigmoid, logits, sigmoid, term_bounds

TERMS = [
    ("hidden", slice(0, 16)),
    ("intercept", slice(16, 17)),
    ("rt.a", slice(17, 18)),
    ("cat", slice(18, 24)),
]


def inputs(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(24, n)).astype(np.float16).astype(np.float32)
    return z, rng.normal(size=(2, 24))


def by_hand(z: np.ndarray, weights: np.ndarray) -> float:
    total = 0.0
    for _, part in TERMS:
        block = 0.0
        for i in range(part.start, part.stop):
            block += float(weights[i]) * float(z[i])
        total += block
    return total


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 1200), st.integers(0, 5))
def test_equals_the_written_out_sum_to_the_bit(n: int, seed: int) -> None:
    z, weights = inputs(n, seed)
    out = logits(z, weights, TERMS)
    for j in {0, n // 2, n - 1}:
        for head in range(2):
            assert out[head, j] == by_hand(z[:, j], weights[head])


def test_a_logit_does_not_depend_on_the_batch() -> None:
    z, weights = inputs(1000)
    whole = logits(z, weights, term_bounds(TERMS))
    for j in range(0, 1000, 97):
        assert (logits(z[:, j : j + 1], weights, TERMS)[:, 0] == whole[:, j]).all()


def test_the_terms_add_up_to_the_logit_exactly() -> None:
    z, weights = inputs(64)
    whole = logits(z, weights, TERMS)
    for j in range(64):
        total = 0.0
        for part in contributions(z[:, j], weights[0], TERMS):
            total += float(part)
        assert total == whole[0, j]


def test_a_served_f16_row_gives_the_same_bits() -> None:
    z, weights = inputs(30)
    rows = z.T.astype(np.float16).tobytes()
    back = np.frombuffer(rows, np.float16).reshape(30, 24).astype(np.float32).T
    assert (logits(back, weights, TERMS) == logits(z, weights, TERMS)).all()


def test_shapes_that_disagree_are_named() -> None:
    z, weights = inputs(3)
    with pytest.raises(ValueError, match="24 dimensions"):
        logits(z, weights[:, :20], TERMS)


def test_sigmoid_is_exact_at_both_ends() -> None:
    x = np.array([-800.0, -40.0, 0.0, 40.0, 800.0])
    assert sigmoid(x)[2] == 0.5
    assert sigmoid(x)[4] == 1.0
    assert log_sigmoid(x)[0] == -800.0
    assert math.isclose(float(log_sigmoid(x)[1]), -40.0)
