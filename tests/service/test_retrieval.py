"""The coarse scan against brute force, and the item vectors it reads."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from service.block_kernels import BLOCK, DIM
from service.item_vectors import ItemVectors
from service.item_vectors_kernels import gather
from service.retrieval import best_rows
from service.retrieval_kernels import scan
from service.retriever import united

UNKNOWN = (np.full(64, 0.5, np.float32), np.full(32, 0.25, np.float32), np.float32(0.125))


def filled(n: int, folder: Path | None = None, seed: int = 0) -> ItemVectors:
    rng = np.random.default_rng(seed)
    vectors = ItemVectors(folder, UNKNOWN)
    vectors.reserve(n)
    rows = np.arange(n)
    made = (
        rng.normal(size=(n, 64)).astype(np.float32),
        rng.normal(size=(n, 32)).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
    )
    vectors.put(rows, rows.astype(np.uint64) + 7, rows.astype(np.uint64) + 1, made)
    return vectors


@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (63, 10), (64, 64), (1_000, 50), (5_000, 50), (40_000, 500), (130_001, 2_000)]
)
def test_nearly_all_of_the_exact_best_are_found_with_exact_scores(n: int, k: int) -> None:
    vectors = filled(n)
    user = np.random.default_rng(1).normal(size=32).astype(np.float32)
    exact = vectors.coarse[:n].astype(np.float64) @ user + vectors.bias[:n]
    rows, scores = best_rows(vectors, user, np.ones(n, np.bool_), k)
    wanted = set(np.argsort(-exact, kind="stable")[:k].tolist())
    assert len(rows) == len(set(rows.tolist())) == k
    assert len(wanted & set(rows.tolist())) >= 0.99 * k
    assert scores == pytest.approx(exact[rows], abs=1e-4)
    assert (np.diff(rows) > 0).all()


def test_masked_rows_are_left_out_and_too_few_are_all_given() -> None:
    vectors = filled(5_000)
    mask = np.zeros(5_000, np.bool_)
    mask[[3, 77, 4_999]] = True
    rows, _ = best_rows(vectors, np.ones(32, np.float32), mask, 100)
    assert rows.tolist() == [3, 77, 4_999]
    assert best_rows(vectors, np.ones(32, np.float32), np.zeros(5_000, np.bool_), 5)[0].tolist() == []


def test_equal_scores_go_by_row() -> None:
    vectors = ItemVectors(None, UNKNOWN)
    rows, scores = best_rows(vectors, np.ones(32, np.float32), np.ones(2_000, np.bool_), 10)
    assert rows.tolist() == list(range(10))
    assert (scores == scores[0]).all()


def test_a_user_of_zeros_ranks_by_bias() -> None:
    vectors = filled(3_000)
    rows, _ = best_rows(vectors, np.zeros(32, np.float32), np.ones(3_000, np.bool_), 20)
    assert rows.tolist() == sorted(np.argsort(-vectors.bias[:3_000], kind="stable")[:20].tolist())


def test_vectors_survive_on_disk_and_grow(tmp_path: Path) -> None:
    first = filled(100, tmp_path)
    keys = np.arange(100).astype(np.uint64) + 7
    again = ItemVectors(tmp_path, UNKNOWN)
    assert not len(again.missing(keys))
    for name in ("tower", "coarse", "bias", "scale"):
        assert np.array_equal(getattr(again, name)[:100], getattr(first, name)[:100])
    again.reserve(20_000)
    assert again.capacity >= 20_000
    assert np.array_equal(again.tower[:100], first.tower[:100])
    assert (again.tower[100:] == 0.5).all()
    assert again.missing(np.arange(102).astype(np.uint64) + 7).tolist() == [100, 101]
    other = keys.copy()
    other[5] = 999
    assert again.missing(other).tolist() == [5]


def test_files_grow_by_a_step_and_not_by_a_share(tmp_path: Path) -> None:
    """What is grown is filled while requests wait: half a million rows took them half a second."""
    vectors = filled(100_000, tmp_path)
    full = vectors.capacity
    vectors.reserve(full + 1)
    assert full < vectors.capacity <= full + 10_000
    assert np.array_equal(vectors.tower[:full], filled(100_000).tower[:full])


def test_content_tells_what_has_to_be_encoded_again() -> None:
    vectors = filled(10)
    rows = np.array([1, 2])
    keys = rows.astype(np.uint64) + 7
    assert vectors.current(rows, keys, np.array([2, 3], np.uint64)).tolist() == [True, True]
    assert vectors.current(rows, keys, np.array([2, 4], np.uint64)).tolist() == [True, False]


def test_gathering_gives_unknown_rows_their_own_vector() -> None:
    vectors = filled(10)
    out = np.empty((3, 64), np.float32)
    gather(vectors.tower, np.array([4, -1, 10**6], np.int32), UNKNOWN[0], out)
    assert np.array_equal(out[0], vectors.tower[4])
    assert (out[1:] == 0.5).all()


def test_a_scan_gives_the_scores_of_its_formula_to_the_bit() -> None:
    rng = np.random.default_rng(4)
    n = 1_000  # the last block is cut off
    blocks = rng.integers(-127, 128, (16, DIM, BLOCK), dtype=np.int8)
    query = rng.integers(-127, 128, DIM).astype(np.int8)
    blocks[3], query[:] = np.where(np.arange(BLOCK) % 2, 127, -127), 127  # the largest sums
    scale, bias = rng.random(1_024).astype(np.float32), rng.normal(size=1_024).astype(np.float32)
    mask, unit, least = rng.random(n) < 0.7, np.float32(0.013), np.float32(1.5)
    found, scores = np.empty(n, np.int32), np.empty(n, np.float32)
    count = scan(blocks, query, unit, scale, bias, mask, 1, least, found, scores)
    items = blocks.transpose(0, 2, 1).reshape(-1, DIM).astype(np.int32)
    exact = (items @ query.astype(np.int32)).astype(np.float32) * (scale * unit) + bias
    wanted = np.flatnonzero((exact[:n] >= least) & mask)
    assert found[:count].tolist() == wanted.tolist()
    assert np.array_equal(scores[:count], exact[wanted])
    assert scan(blocks, query, unit, scale, bias, mask, 4, least, found, scores) == sum(wanted // BLOCK % 4 == 0)


def test_two_ascending_lists_are_united() -> None:
    rng = random.Random(2)
    for _ in range(200):
        one, two = (sorted(rng.sample(range(60), rng.randrange(20))) for _ in range(2))
        both = united(np.array(one, np.int32), np.array(two, np.int32))
        assert both.tolist() == sorted({*one, *two})
        assert both.dtype == np.int32
