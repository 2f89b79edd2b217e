"""The scorer on the test kit's base: any ID, same bits alone or in a crowd, history rules, no query no tower."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import service
from features.coding import HISTORY
from service.artifact import load_artifact
from service.scorer import BLOCK, ItemInput, Scorer, SideVector

TESTKIT = Path(service.__file__).parent / "testkit_base"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(load_artifact(TESTKIT))


def history(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    towers = rng.normal(size=(n, 64)).astype(np.float32)
    return (
        towers,
        rng.integers(1, 6, n).astype(np.uint8),
        np.cumsum(rng.integers(1, 10**8, n)).astype(np.int64),
    )


@pytest.fixture(scope="module")
def user(scorer: Scorer) -> SideVector:
    return scorer.encode_user("u1", *history(20))


@pytest.mark.parametrize("n", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 1_000, 5_000])
@pytest.mark.parametrize("text", [None, "red lantern"])
def test_a_row_does_not_depend_on_its_batch(
    scorer: Scorer, user: SideVector, n: int, text: str | None
) -> None:
    rng = np.random.default_rng(1)
    items = rng.normal(size=(5_000, 64)).astype(np.float32)
    query = scorer.encode_query(text)
    full = scorer.hidden(items, user, query)
    chosen = rng.permutation(5_000)[:n]
    assert np.array_equal(scorer.hidden(items[chosen], user, query), full[chosen])
    coarse, bias = rng.normal(size=(5_000, 32)).astype(np.float32), rng.normal(size=5_000).astype(np.float32)
    all_coarse = scorer.coarse(coarse, bias, user, query)
    assert np.array_equal(scorer.coarse(coarse[chosen], bias[chosen], user, query), all_coarse[chosen])
    assert np.allclose(all_coarse, coarse @ (user.coarse + (query.coarse if query else 0)) + bias, atol=1e-4)


def test_an_item_does_not_depend_on_its_batch(scorer: Scorer) -> None:
    items = [ItemInput(f"i{k}", f"red lantern {k}", "lights" if k % 2 else None, None) for k in range(300)]
    full = scorer.encode_items(items)
    for chosen in ([7], [299, 3, 64], list(range(130))):
        part = scorer.encode_items([items[k] for k in chosen])
        assert all(np.array_equal(a, b[chosen]) for a, b in zip(part, full, strict=True))
    assert full.tower.shape == (300, 64)
    assert full.coarse.shape == (300, 32)
    assert full.bias.shape == (300,)


@pytest.mark.parametrize("text", ["", "x" * 256, "\ud7ff\U0010ffff", "红色连衣裙", "🎈", "0"])
def test_any_id_and_text(scorer: Scorer, user: SideVector, text: str) -> None:
    made = scorer.encode_items([ItemInput(text, text, text, text)])
    query = scorer.encode_query(text)
    someone = scorer.encode_user(text, *history(1))
    assert np.isfinite(scorer.hidden(made.tower, someone, query)).all()


def test_no_items_are_fine(scorer: Scorer, user: SideVector) -> None:
    assert scorer.encode_items([]).tower.shape == (0, 64)
    assert scorer.hidden(np.zeros((0, 64), np.float32), user, None).shape == (0, 64)


def test_only_the_last_interactions_count(scorer: Scorer) -> None:
    towers, kinds, times = history(HISTORY + 30)
    long = scorer.encode_user("u1", towers, kinds, times)
    last = scorer.encode_user("u1", towers[-HISTORY:], kinds[-HISTORY:], times[-HISTORY:])
    assert np.array_equal(long.tower, last.tower)


def test_a_vector_holds_until_the_next_interaction(scorer: Scorer) -> None:
    """Only gaps between interactions count: the same history a year later gives the same bits."""
    towers, kinds, times = history(10)
    assert np.array_equal(
        scorer.encode_user("u1", towers, kinds, times).tower,
        scorer.encode_user("u1", towers, kinds, times + 31_536_000_000).tower,
    )


def test_nobody_and_a_new_user_are_one(scorer: Scorer) -> None:
    """An ID without a past says nothing; with one it does, and so do order and behaviour."""
    assert np.array_equal(
        scorer.encode_user(None, *history(0)).tower, scorer.encode_user("new", *history(0)).tower
    )
    towers, kinds, times = history(5)
    one = scorer.encode_user("u1", towers, kinds, times)
    assert not np.array_equal(one.tower, scorer.encode_user("u2", towers, kinds, times).tower)
    assert not np.array_equal(one.tower, scorer.encode_user("u1", towers[::-1], kinds, times).tower)
    assert not np.array_equal(one.tower, scorer.encode_user("u1", towers, kinds % 5 + 1, times).tower)


def test_without_words_there_is_no_query(scorer: Scorer, user: SideVector) -> None:
    assert scorer.encode_query(None) is None
    assert scorer.encode_query(" ... ") is None
    items = scorer.encode_items([ItemInput("a", "red lantern")]).tower
    assert not np.array_equal(
        scorer.hidden(items, user, None), scorer.hidden(items, user, scorer.encode_query("red"))
    )


def test_scoring_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from service.artifact import load_artifact;"
        "from service.scorer import ItemInput, Scorer;"
        f"Scorer(load_artifact(Path({str(TESTKIT)!r}))).encode_items([ItemInput('a', 'red')]);"
        "assert not {'torch', 'onnx', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
