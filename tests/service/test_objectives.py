"""Objectives as sort keys, against the formula written out."""

import math

import numpy as np
import pytest

from features.errors import InvalidRequest, SettingsError
from service.objectives import Objectives, order, scores
from service.settings import Settings

LOGITS = np.array([[0.3, -2.0, 30.0], [-1.0, 0.5, -800.0]])
PRICE = np.array([10.0, np.nan, 0.0], np.float32)


def log_p(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -700 else x


def objectives() -> Objectives:
    settings = Settings()
    return Objectives(settings.objectives, settings.objective)


def test_scores_follow_the_formula() -> None:
    for name, weights in {"click": (1, 0, 0), "purchase": (1, 1, 0), "revenue": (1, 1, 1)}.items():
        expected = [
            weights[0] * log_p(c)
            + weights[1] * log_p(p)
            + weights[2] * math.log(max(0.01, price if price > 0 else 0))
            for c, p, price in zip(LOGITS[0], LOGITS[1], (10.0, 0.0, 0.0), strict=True)
        ]
        assert scores(objectives().get(name), LOGITS, PRICE) == pytest.approx(expected, rel=1e-6)


def test_ties_stand_in_the_order_they_came() -> None:
    assert order(np.array([1.0, 2.0, 1.0, 2.0], np.float32)).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("n", [0, 1, 2, 1_000, 5_000])
def test_order_is_a_stable_sort(n: int) -> None:
    keys = np.round(np.random.default_rng(n).normal(size=n) * 100).astype(np.float32)
    keys[: n // 100] = np.resize(np.array([0.0, -0.0, np.inf, -np.inf, 1e-42], np.float32), n // 100)
    assert np.array_equal(order(keys), np.argsort(-keys, kind="stable"))


def test_a_shop_may_have_its_own() -> None:
    mine = Objectives({"margin": {"click": 1.0, "price": 0.5}}, "margin")
    assert mine.get(None) == mine.get("margin") == ("margin", 1.0, 0.0, 0.5)


def test_unknown_names_and_parts_are_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        objectives().get("profit")
    assert refused.value.field == "objective"
    assert "click, purchase, revenue" in (refused.value.hint or "")
    with pytest.raises(SettingsError, match="unknown part"):
        Objectives({"x": {"clicks": 1.0}}, "x")
