"""Codings: golden vectors, agreement with the library's hash, the kernel against plain numpy, fixed memory."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from features import coding
from features.attached import WIDTH, Attached
from features.errors import ArtifactError
from features.keys import actor_key, item_key, text_key

KEYS = np.array(
    [item_key("85123A"), actor_key("17850", None), text_key("word", "lantern"), 1, 2**64 - 1], np.uint64
)


def one_bag(keys: np.ndarray, weights: np.ndarray | None = None) -> coding.Keys:
    weights = np.ones(len(keys), np.float32) if weights is None else weights
    return coding.Keys(keys, weights, np.array([0, len(keys)], np.int64))


def test_golden_rows_and_signs() -> None:
    """These numbers may change only with CODING_VERSION: artifacts were trained with them."""
    assert coding.CODING_VERSION == 1
    bags = coding.code_bags(one_bag(KEYS[:3]), coding.K_ID, 4096)
    assert (bags.rows * np.sign(bags.values)).astype(int).tolist() == GOLDEN
    assert np.abs(bags.values) == pytest.approx(1 / np.sqrt(8))


GOLDEN = [
    1471,
    2180,
    2080,
    1940,
    605,
    1918,
    3065,
    -200,
    -1110,
    -3308,
    3232,
    -787,
    -2381,
    2588,
    -2307,
    3617,
    362,
    -833,
    3520,
    -3974,
    -3356,
    802,
    3081,
    1354,
]


def test_codes_are_the_librarys_hash() -> None:
    """Draw j: 31 bits of a half of xxh3-64(key, seed + j) choose the row, one bit the sign."""
    rows = 10_007
    bags = coding.code_bags(one_bag(KEYS), coding.K_WORD, rows)
    at = 0
    for key in KEYS:
        for draw in range(coding.K_WORD // 2):
            h = xxhash.xxh3_64_intdigest(int(key).to_bytes(8, "little"), seed=coding._SEED + draw)
            for half in (h & 0xFFFFFFFF, h >> 32):
                assert bags.rows[at] == (half >> 1) * rows >> 31
                assert (bags.values[at] > 0) == bool(half & 1)
                at += 1


def test_sum_is_the_plain_sum_with_subnormal_halves() -> None:
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(97, 16)) * 10.0 ** rng.integers(-8, 3, (97, 16))).astype(np.float16)
    parts = coding.Keys(KEYS, rng.random(5).astype(np.float32), np.array([0, 2, 2, 5], np.int64))
    bags = coding.code_bags(parts, 8, len(table))
    expected = np.zeros((3, 16), np.float32)
    for j in range(3):
        for e in range(bags.starts[j], bags.starts[j + 1]):
            expected[j] += bags.values[e] * table[bags.rows[e]].astype(np.float32)
    assert np.array_equal(coding.sum_bags(table, bags), expected)


def test_signed_codes_keep_inner_products() -> None:
    """A sparse random projection: the code of a key has length 1, two keys are nearly orthogonal on average."""
    keys = np.arange(1, 2_001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bags = coding.code_bags(coding.user_parts(keys), 8, 512)
    dense = np.zeros((len(keys), 512), np.float32)
    np.add.at(dense, (np.repeat(np.arange(len(keys)), 8), bags.rows), bags.values)
    gram = dense[:1000] @ dense[1000:].T
    assert np.abs(gram.mean()) < 0.001
    assert (dense**2).sum(1).mean() == pytest.approx(1, abs=0.01)


def test_item_parts_leave_out_what_is_not_there() -> None:
    none = np.zeros(1, np.uint64)
    parts = coding.item_parts(KEYS[:1], none, none, np.zeros((1, 4), np.uint64), np.zeros((1, 4), np.float32))
    assert parts.keys.tolist() == [KEYS[0]]
    near = np.array([[5, 6, 0, 0]], np.uint64)
    parts = coding.item_parts(KEYS[:1], KEYS[2:3], none, near, np.array([[1, 0.5, 0, 0]], np.float32))
    assert parts.keys.tolist() == [KEYS[0], KEYS[2], 5, 6]
    assert np.linalg.norm(parts.weights[2:]) == pytest.approx(coding.ATTACHED_WEIGHT)


def test_gap_buckets_do_not_know_now() -> None:
    times = np.cumsum([10**12, 1_000, 30_000, 300_000, 1_800_000, 40_000_000, 300_000_000, 10**9])
    assert coding.gap_buckets(times).tolist() == list(range(coding.GAPS))
    assert coding.gap_buckets(times[:0]).tolist() == []


@pytest.mark.parametrize(("ids", "rows"), [(0, 4_096), (81_920, 4_096), (200_000_000, 10_000_000)])
def test_table_rows_are_a_twentieth_of_the_ids(ids: int, rows: int) -> None:
    assert coding.table_rows(ids) == rows


def test_table_rows_within_a_budget() -> None:
    assert coding.table_rows(200_000_000, budget_bytes=1 << 20) == 8_192


def test_attached_looks_up_known_items_only() -> None:
    items = np.array([3, 9], np.uint64)
    near = np.array([[9, 0, 0, 0], [3, 4, 0, 0]], np.uint64)
    strength = np.array([[1, 0, 0, 0], [0.5, 0.25, 0, 0]], np.float16)
    table = Attached(items, near, strength)
    found, strengths = table.look_up(np.array([9, 5, 2**64 - 1], np.uint64))
    assert found.tolist() == [[3, 4, 0, 0], [0] * WIDTH, [0] * WIDTH]
    assert strengths[0].tolist() == [0.5, 0.25, 0, 0]
    assert Attached.empty().look_up(items)[0].shape == (2, WIDTH)
    with pytest.raises(ArtifactError, match="not sorted"):
        Attached(items[::-1], near, strength)
