"""Real-time state: what ops do by definition, and that replicas, cuts and restarts change no bit of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realtime_kit import SMALL, T0, Oracle, random_ops

from features.ops import Ops, OpsBuilder
from features.realtime import RealtimeState
from features.user_state import UserState


def part(ops: Ops, start: int, end: int) -> Ops:
    """Ops start … end − 1."""
    a, b = int(ops.recent_start[start]), int(ops.recent_start[end])
    own = {
        name: getattr(ops, name)[start:end]
        for name in ("t", "kind", "item", "category", "position", "surface")
    }
    recents = {name: getattr(ops, name)[a:b] for name in ("recent_item", "recent_t", "recent_kind")}
    return Ops(**own, **recents, recent_start=ops.recent_start[start : end + 1] - np.int32(a))


def test_ops_survive_bytes_and_joining() -> None:
    ops = random_ops(3, 50)
    back = Ops.from_bytes(ops.to_bytes())
    joined = Ops.concat([part(ops, 0, 20), Ops.empty(), part(ops, 20, 50)])
    for name in Ops.__slots__:
        np.testing.assert_array_equal(getattr(back, name), getattr(ops, name))
        np.testing.assert_array_equal(getattr(joined, name), getattr(ops, name))
        assert getattr(joined, name).dtype == getattr(ops, name).dtype
    assert len(Ops.from_bytes(Ops.empty().to_bytes())) == 0
    assert len(Ops.concat([])) == 0
    for bad in (b"", b"ropsx" + bytes(8)):
        with pytest.raises(ValueError, match="cannot be read"):
            Ops.from_bytes(bad)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 150), max_size=6), st.booleans())
def test_cuts_bytes_and_restarts_change_no_bit(seed: int, cuts: list[int], restart: bool) -> None:
    ops = random_ops(seed, 150)
    whole, pieces = RealtimeState(SMALL), RealtimeState(SMALL)
    whole.apply(ops)
    stored: dict[str, bytes] = {}
    edges = [0, *sorted(cuts), 150]
    for start, end in pairwise(edges):
        pieces.apply(Ops.from_bytes(part(ops, start, end).to_bytes()))
        if restart:
            stored.update(pieces.changed_chunks())
            pieces.mark_clean()
            assert set(stored) == set(pieces.chunk_names())
            digest = pieces.digest()
            pieces = RealtimeState(SMALL)
            pieces.restore(stored)
            assert pieces.digest() == digest
    assert pieces.digest() == whole.digest()
    assert pieces.verify()
    assert pieces.changed_chunks().keys() <= whole.changed_chunks().keys()


def test_only_touched_chunks_change() -> None:
    state = RealtimeState(replace(SMALL, max_items=20_000))
    builder = OpsBuilder()
    for item in range(1, 10_001):
        builder.add(T0, 1, item)
    state.apply(builder.build())
    state.mark_clean()
    assert set(state.changed_chunks()) == {"globals"}
    builder.add(T0 + 1, 1, 5_000)
    state.apply(builder.build())
    assert set(state.changed_chunks()) == {"globals", "items/1"}
    assert len(state.chunk_names()) == 4


@pytest.mark.parametrize("late", [False, True])
def test_counters_and_lists_are_what_they_are_by_definition(late: bool) -> None:
    ops = random_ops(11, 1_500, items=30, late=late)
    state, oracle = RealtimeState(SMALL), Oracle(SMALL)
    state.apply(ops)
    oracle.apply(ops)
    for item in range(1, 31):
        slot = int(state.slots(np.array([item], np.uint64))[0])
        expected = oracle.counts(("item", item), int(state.item_last[slot]))
        np.testing.assert_allclose(state.item_counts[slot].reshape(4, -1), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.degree[slot], oracle.degree[item], rtol=1e-4)
        at = int(state.lists[slot])
        keys = state.items.keys[state.list_slots[at, : state.list_len[at]]]
        found = dict(zip(keys.tolist(), state.list_weights[at], strict=False))
        assert found.keys() == oracle.lists[item].keys()
        for key, weights in oracle.lists[item].items():
            np.testing.assert_allclose(found[key], weights, rtol=1e-4, atol=1e-12)


def test_a_late_op_counts_as_much_as_one_in_order_where_nothing_went_below_zero() -> None:
    in_order, late = RealtimeState(SMALL), RealtimeState(SMALL)
    builder = OpsBuilder()
    for state, times in ((in_order, (0, 1, 2)), (late, (0, 2, 1))):
        for k in times:
            builder.add(T0 + k * 1_000_000, 1, 5)
        state.apply(builder.build())
    np.testing.assert_allclose(in_order.item_counts[0], late.item_counts[0], rtol=1e-6)


def test_the_base_time_moves_without_changing_what_weights_mean() -> None:
    config = replace(SMALL, half_life_ms=1_000_000.0)
    state, builder, user = RealtimeState(config), OpsBuilder(), UserState(1)
    for k in range(400):  # 400 · 300 s: 2^120 without moving the base
        t = T0 + k * 300_000
        builder.add(t, 1, 1 + k % 3, 0, 0, 0, user.recents(t))
        user.append(1 + k % 3, 1, t)
    state.apply(builder.build())
    assert state.verify()
    assert np.isfinite(state.list_weights).all()
    assert 0 < state.list_weights[0, 0, -1] / state.scale(T0 + 400 * 300_000) < 10


def test_memory_is_bounded_and_what_does_not_fit_is_counted() -> None:
    config = replace(SMALL, max_items=20, max_categories=2, max_lists=5)
    state = RealtimeState(config)
    ops = random_ops(4, 800, items=60)
    state.apply(ops)
    state.apply(ops)
    assert len(state.items) == 20
    assert len(state.categories) == 2
    assert min(state.refused.values()) > 0
    assert state.verify()
    assert state.slots(np.array([10**9], np.uint64)).tolist() == [-1]


def test_damaged_chunks_are_refused() -> None:
    state = RealtimeState(SMALL)
    state.apply(random_ops(5, 100))
    chunks = state.changed_chunks()
    name = "items/0"
    damaged = bytearray(chunks[name])
    damaged[-200] ^= 1
    other = RealtimeState(SMALL)
    missing = {key: data for key, data in chunks.items() if key != "lists/0"}
    for bad in ({**chunks, name: bytes(damaged)}, missing, {}):
        with pytest.raises(ValueError, match="cannot restore"):
            other.restore(bad)
        assert len(other.items) == 0
    other.restore(chunks)
    assert other.digest() == state.digest()


def test_states_with_other_constants_never_meet() -> None:
    assert RealtimeState(SMALL).digest() != RealtimeState(replace(SMALL, backward=0.9)).digest()


def test_neighbours_are_distinct_and_heaviest_first() -> None:
    state, builder, user = RealtimeState(SMALL), OpsBuilder(), UserState(1)
    for k, item in enumerate([1, 2, 1, 2, 1, 3, 1, 2]):
        builder.add(T0 + k, 1, item, 0, 0, 0, user.recents(T0 + k))
        user.append(item, 1, T0 + k)
    state.apply(builder.build())
    assert state.neighbours(np.array([1], np.uint64), 5).tolist() == [2, 3]
    assert state.neighbours(np.array([1, 2, 99], np.uint64), 1).tolist() == [2, 1]
    assert state.neighbours(np.array([99], np.uint64), 1).tolist() == []
