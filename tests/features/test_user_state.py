"""User states: order in time whatever the order of arrival, bounded, applied once, compact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.user_state import UserState

INTERACTIONS = st.lists(
    st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 5), st.integers(0, 50)), max_size=120
)


def rows(state: UserState) -> list[tuple[int, int, int]]:
    return list(zip(state.items.tolist(), state.kinds.tolist(), state.times.tolist(), strict=True))


@given(INTERACTIONS, st.integers(1, 40))
def test_it_is_a_stable_sort_by_time_cut_to_the_limit(
    interactions: list[tuple[int, int, int]], limit: int
) -> None:
    state = UserState(7, limit)
    expected: list[tuple[int, int, int]] = []
    for item, kind, t in interactions:
        state.append(item, kind, t)
        expected.append((item, kind, t))
        expected.sort(key=lambda row: row[2])  # stable: equal times stay as they came
        if len(expected) > limit:
            expected.pop(0)
        assert rows(state) == expected


@given(INTERACTIONS)
def test_encode_and_decode(interactions: list[tuple[int, int, int]]) -> None:
    state = UserState(2**64 - 5, 256)
    for offset, (item, kind, t) in enumerate(interactions):
        state.append(item, kind, t, offset)
    data = state.encode()
    back = UserState.decode(data)
    assert (back.key, back.offset, rows(back)) == (state.key, state.offset, rows(state))
    assert len(data) <= 11 * len(state) + 40
    back.append(1, 1, 10**9)
    assert len(back) == len(state) + 1


def test_decode_keeps_the_newest_and_refuses_other_bytes() -> None:
    state = UserState(1, 100)
    for t in range(100):
        state.append(t + 1, 1, t)
    assert rows(UserState.decode(state.encode(), limit=3)) == [(98, 1, 97), (99, 1, 98), (100, 1, 99)]
    for bad in (b"", b"x" * 30, state.encode()[:-1], b"\x03" + state.encode()[1:]):
        with pytest.raises(ValueError, match="cannot be read"):
            UserState.decode(bad)


def test_a_record_counts_once() -> None:
    state = UserState(1)
    assert state.append(5, 1, 10, offset=3)
    assert not state.append(5, 1, 10, offset=3)
    assert not state.append(6, 1, 11, offset=2)
    assert state.append(6, 1, 11, offset=4)
    assert state.offset == 5
    assert len(state) == 2


def test_recents_include_equal_times_and_nothing_later() -> None:
    state = UserState(1)
    for t in (1, 2, 3, 3, 5):
        state.append(t * 10 + len(state), 1, t)
    assert state.recents(3, 3).items.tolist() == [21, 32, 33]
    assert state.recents(0).items.tolist() == []
    assert state.recents(9, 2).times.tolist() == [3, 5]
    assert rows(state.until(2)) == rows(state)[:2]


@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 9))
def test_recents_stay_as_they_are_whatever_is_appended(times: list[int], every: int) -> None:
    """Views of what is never moved: late interactions and full histories, too."""
    state, given_away = UserState(1, limit=70), []
    for k, t in enumerate(times):
        state.append(k, k % 5, t)
        if k % every == 0:
            found = state.recents(t)
            given_away.append((found, [part.tolist() for part in found]))
    for found, before in given_away:
        assert [part.tolist() for part in found] == before


def test_an_interaction_older_than_a_full_history_is_not_kept() -> None:
    state = UserState(1, limit=2)
    for t in (10, 20, 5):
        assert state.append(t, 1, t)
    assert state.items.tolist() == [10, 20]
