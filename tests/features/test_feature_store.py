"""The contract of a FeatureStore, run on every implementation, and the LRU in front of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from features.errors import StoreError
from features.feature_store import EmbeddedFeatureStore, FeatureStore, UserStates
from features.user_state import UserState
from tests.conftest import REDIS_URLS, fresh_tenant

Open = Callable[[], FeatureStore]


@pytest.fixture(params=["embedded", *REDIS_URLS])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """A function that opens the same store anew."""
    opened: list[FeatureStore] = []
    url = "" if request.param == "embedded" else request.getfixturevalue(request.param)
    tenant = fresh_tenant()

    def open_it() -> FeatureStore:
        if url:
            from features.feature_store_redis import RedisFeatureStore

            opened.append(RedisFeatureStore(url, tenant, 50))
        else:
            opened.append(EmbeddedFeatureStore(tmp_path / "state.db", history=50))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def state_of(key: int, *items: int) -> UserState:
    state = UserState(key, 50)
    for t, item in enumerate(items):
        state.append(item, 1, t, offset=t)
    return state


def test_what_is_committed_comes_back_after_reopening(open_store: Open) -> None:
    store = open_store()
    assert store.get(1) is None
    assert store.offsets() == {}
    store.commit([state_of(1, 5, 6), state_of(2**64 - 1, 7)], [], {"event/0": 9})
    store.close()
    again = open_store()
    found = again.get(2**64 - 1)
    assert found is not None
    assert found.items.tolist() == [7]
    assert again.offsets() == {"event/0": 9}


def test_a_commit_replaces_deletes_and_keeps_other_offsets(open_store: Open) -> None:
    store = open_store()
    store.commit([state_of(1, 5), state_of(2, 6)], [], {"event/0": 1, "event/1": 4})
    store.commit([state_of(1, 5, 8)], [2], {"event/0": 2})
    first = store.get(1)
    assert first is not None
    assert first.items.tolist() == [5, 8]
    assert first.offset == 2
    assert store.get(2) is None
    assert store.offsets() == {"event/0": 2, "event/1": 4}


def test_a_failing_commit_changes_nothing(open_store: Open) -> None:
    store = open_store()
    store.commit([state_of(1, 5)], [], {"event/0": 1})

    def states() -> Iterator[UserState]:
        yield state_of(1, 9)
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        store.commit(states(), [1], {"event/0": 2})
    found = store.get(1)
    assert found is not None
    assert found.items.tolist() == [5]
    assert store.offsets() == {"event/0": 1}


def test_a_state_handed_out_is_a_copy(open_store: Open) -> None:
    store = open_store()
    store.commit([state_of(1, 5)], [], {})
    found = store.get(1)
    assert found is not None
    found.append(6, 1, 9)
    again = store.get(1)
    assert again is not None
    assert again.items.tolist() == [5]


def test_another_format_is_refused(tmp_path: Path) -> None:
    EmbeddedFeatureStore(tmp_path / "state.db").close()
    import sqlite3

    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE meta SET value = '9' WHERE name = 'format'")
    db.close()
    with pytest.raises(StoreError, match="format 9"):
        EmbeddedFeatureStore(tmp_path / "state.db")


def test_the_lru_is_bounded_and_loses_nothing_unsaved(open_store: Open) -> None:
    states = UserStates(open_store(), capacity=10)
    for key in range(1, 101):
        state = states.get_or_new(key)
        state.append(key, 1, key)
        states.put(state)
    assert states.dirty == 100
    states.flush({"event/0": 100})
    assert states.dirty == 0
    for key in range(1, 101):
        found = states.get(key)
        assert found is not None
        assert found.items.tolist() == [key]
        assert len(states) <= 40
    assert states.get(0) is None
    assert states.get(1_000) is None


def test_a_deleted_actor_is_gone_at_once_and_after_the_flush(open_store: Open) -> None:
    states = UserStates(open_store(), capacity=10)
    states.put(state_of(3, 1))
    states.flush({})
    states.delete(3)
    assert states.get(3) is None
    states.flush({})
    assert UserStates(open_store(), capacity=10).get(3) is None
    states.put(state_of(3, 2))
    states.flush({})
    again = UserStates(open_store(), capacity=10).get(3)
    assert again is not None
    assert again.items.tolist() == [2]
