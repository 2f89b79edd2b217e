"""The stored form of user states: what goes in comes out, small, and bytes that are not ours are refused."""

from __future__ import annotations

import contextlib
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.item_numbers import ItemNumbers, Unknown
from features.user_state import UserState
from features.user_state_bytes import Columns, pack, unpack

ROWS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**62), 2**62), st.integers(0, 255)), max_size=80
)


def columns_of(rows: list[tuple[int, int, int]], offset: int = 0, key: int | None = None) -> Columns:
    rows = sorted(rows, key=lambda row: row[1])
    items = np.array([row[0] for row in rows], np.uint64)
    return Columns(
        offset, items, np.array([row[1] for row in rows], np.int64), np.array([row[2] for row in rows], np.uint8), key
    )


def same(a: Columns, b: Columns) -> bool:
    arrays = all(np.array_equal(x, y) for x, y in ((a.items, b.items), (a.times, b.times), (a.kinds, b.kinds)))
    return arrays and (a.offset, a.key) == (b.offset, b.key)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 2**63), st.none() | st.integers(0, 2**64 - 1), st.sampled_from([1, 1_000]))
def test_what_goes_in_comes_out(rows: list[tuple[int, int, int]], offset: int, key: int | None, unit: int) -> None:
    made = columns_of([(item, t // 4_000 * unit, kind) for item, t, kind in rows], offset, key)
    assert same(unpack(pack(made)), made)
    once, places = np.unique(made.items, return_inverse=True)
    again = unpack(pack(made, places.astype(np.uint64)), lambda numbers: once[numbers.astype(np.int64)])
    assert same(again, made)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.data())
def test_bytes_that_are_not_ours_are_refused_or_read_but_never_more_than_they_are(
    rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    good = pack(columns_of(rows))
    for bad in (good[: data.draw(st.integers(0, len(good) - 1))], data.draw(st.binary(max_size=60))):
        with pytest.raises(ValueError, match="cannot be read"):
            unpack(bad)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    with contextlib.suppress(ValueError, Unknown):
        unpack(flipped)  # a checksum of the store finds this; here nothing may break


def test_fifty_interactions_are_small_and_quick_to_read() -> None:
    rng = np.random.default_rng(3)
    gaps = np.where(rng.random(50) < 0.2, rng.exponential(2 * 86_400_000, 50), rng.exponential(40_000, 50))
    times = 1_763_000_000_000 + np.cumsum(gaps.astype(np.int64))
    columns = Columns(1 << 40, rng.integers(1, 2**63, 50).astype(np.uint64), times, np.ones(50, np.uint8), None)
    numbers = rng.choice(1_000_000, 50, replace=False).astype(np.uint64)
    assert len(pack(columns)) < 600
    body = pack(columns, numbers)
    assert len(body) < 330
    took = []
    for _ in range(300):
        began = time.perf_counter()
        unpack(body, lambda given: given)
        took.append(time.perf_counter() - began)
    assert sorted(took)[100] < 150e-6, "some 40 µs on an idle machine"


def test_a_state_of_the_format_before_is_still_read() -> None:
    former = struct.pack("<BQqI", 1, 7, 12, 2) + struct.pack("<QQqqBB", 5, 6, 1_000, 2_000, 1, 4)
    state = UserState.decode(former)
    assert (state.key, state.offset, state.items.tolist(), state.times.tolist(), state.kinds.tolist()) == (
        7, 12, [5, 6], [1_000, 2_000], [1, 4],
    )  # fmt: skip
    with pytest.raises(ValueError, match="cannot be read"):
        UserState.decode(former[:-1])


def test_items_are_numbered_in_the_order_they_are_seen_up_to_the_limit() -> None:
    known = ItemNumbers(3)
    a, b = np.array([9, 4, 9], np.uint64), np.array([4, 2, 8], np.uint64)
    numbers, new = known.numbers([a, b])
    assert (numbers[0].tolist(), numbers[1], new.tolist()) == ([0, 1, 0], None, [9, 4, 2])  # type: ignore[union-attr]
    assert len(known) == 0, "only what the store took counts"
    known.took(new)
    assert known.keys_of(np.array([2, 0], np.uint64)).tolist() == [2, 9]
    with pytest.raises(Unknown):
        known.keys_of(np.array([3], np.uint64))


def test_a_copy_follows_a_list_that_grows_and_one_that_went_back() -> None:
    kept = np.array([9, 4, 2], np.uint64)
    copy = ItemNumbers(100)
    copy.follow(lambda at: kept[:2].tobytes()[at:])
    assert copy.keys_of(np.array([1], np.uint64)).tolist() == [4]
    copy.follow(lambda at: kept.tobytes()[at:])
    assert len(copy) == 3
    other = np.array([9, 7], np.uint64)
    copy.follow(lambda at: other.tobytes()[at:])
    assert copy.keys_of(np.array([0, 1], np.uint64)).tolist() == [9, 7]
