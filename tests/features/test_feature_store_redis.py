"""What only the user states in Redis promise: one round trip, a time to live, a Redis that dies, fills up, forgets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from features.errors import SettingsError, StoreError, WentBack
from features.feature_store import EmbeddedFeatureStore, open_feature_store
from features.feature_store_redis import AT_ONCE, DAY, RedisFeatureStore
from features.records import place
from features.redis_extra import seal_state
from features.user_state import UserState
from service.settings import Settings
from tests.conftest import fresh_tenant
from tests.redis_server import RedisServer
from tests.redis_several import client_of


@pytest.fixture
def tenant() -> str:
    return fresh_tenant()


@pytest.fixture
def store(any_redis_url: str, tenant: str) -> Iterator[RedisFeatureStore]:
    with closing(RedisFeatureStore(any_redis_url, tenant, 50, ttl_days=2)) as made:
        yield made


@pytest.fixture
def client(any_redis_url: str) -> Iterator[Any]:
    with closing(client_of(any_redis_url)) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "everysec")
    yield made
    made.stop()


def state_of(key: int, *items: int, offset: int = 0) -> UserState:
    state = UserState(key, 50)
    for t, item in enumerate(items):
        state.append(item, 1, t, offset=offset + t)
    return state


def name(tenant: str, key: int) -> str:
    return f"repl:{{{tenant}}}:u:{key:016x}"


def test_a_state_is_one_round_trip(redis_url: str, tenant: str) -> None:
    with closing(RedisFeatureStore(redis_url, tenant)) as store, closing(redis.Redis.from_url(redis_url)) as client:
        one_round_trip(store, client)


def one_round_trip(store: RedisFeatureStore, client: Any) -> None:
    store.commit([state_of(5, 1, 2)], [], {"event/0": 2})
    assert store.get(5) is not None

    def commands() -> int:
        found: Any = client.info("stats")
        return int(found["total_commands_processed"])

    before = commands()
    assert store.get(5) is not None
    assert store.get(6) is None
    assert commands() - before == 2 + 1, "a GET each, and our own INFO"


def test_a_state_and_the_offsets_it_is_asked_with_are_one_round_trip(store: RedisFeatureStore) -> None:
    assert store.read(5, ["event/0"]) == (None, {})
    store.commit([state_of(5, 1, 2)], [], {"event/0": 2, "event/1": 9})
    trips = []
    ask = store._place.read
    store._place.read = lambda doing, queue: trips.append(doing) or ask(doing, queue)  # type: ignore[method-assign, func-returns-value]
    found, offsets = store.read(5, ["event/1", "event/7"])
    assert found is not None
    assert (found.items.tolist(), offsets, len(trips)) == ([1, 2], {"event/1": 9}, 1)


def test_a_state_lives_as_long_as_the_setting_says(store: RedisFeatureStore, client: Any, tenant: str) -> None:
    store.commit([state_of(5, 1)], [], {"event/0": 1})
    left: Any = client.ttl(name(tenant, 5))
    assert 2 * DAY - 60 < left <= 2 * DAY
    found: Any = list(client.scan_iter(f"repl:{{{tenant}}}:*", count=1_000))
    assert len(found) == 4, "state, items, offsets, format"


def test_a_large_commit_goes_in_several_and_the_offsets_with_the_last(
    store: RedisFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [state_of(key, key) for key in range(1, 2 * AT_ONCE + 2)]
    transaction, seen = store._place.transaction, []

    def spy(*given: Any) -> Any:
        seen.append(store.offsets())
        return transaction(*given)

    monkeypatch.setattr(store._place, "transaction", spy)
    store.commit(states, [], {"event/0": 7})
    assert seen == [{}, {}, {}]
    assert store.offsets() == {"event/0": 7}
    assert all(store.get(key) is not None for key in (1, AT_ONCE + 1, 2 * AT_ONCE + 1))


@pytest.mark.parametrize("poison", [b"", b"short", b"12345678" + b"x" * 40, seal_state(b"x" * 40)])
def test_a_damaged_state_is_named(store: RedisFeatureStore, client: Any, tenant: str, poison: bytes) -> None:
    client.set(name(tenant, 5), poison)
    with pytest.raises(StoreError, match="damaged") as told:
        store.get(5)
    assert name(tenant, 5) in str(told.value)
    client.set(name(tenant, 5), seal_state(struct.pack("<BQqIQqB", 1, 6, 1, 1, 9, 1_000, 1)))
    with pytest.raises(StoreError, match="another user's"):
        store.get(5)
    store.commit([state_of(6, 1)], [], {})
    client.rename(name(tenant, 6), name(tenant, 5))
    with pytest.raises(StoreError, match="damaged"):
        store.get(5)


def test_states_of_the_format_before_are_read_and_written_anew(
    store: RedisFeatureStore, client: Any, tenant: str
) -> None:
    client.set(f"repl:{{{tenant}}}:u-format", "1")
    client.set(name(tenant, 5), seal_state(struct.pack("<BQqIQqB", 1, 5, 3, 1, 9, 1_000, 1)))
    state = store.get(5)
    assert state is not None
    assert (state.offset, state.items.tolist(), state.times.tolist()) == (3, [9], [1_000])
    state.append(10, 1, 2_000, 3)
    store.commit([state], [], {"event/0": 4})
    assert client.get(f"repl:{{{tenant}}}:u-format") == b"2"
    again = store.get(5)
    assert again is not None
    assert again.items.tolist() == [9, 10]


def test_another_process_reads_items_that_were_numbered_since(
    store: RedisFeatureStore, any_redis_url: str, tenant: str
) -> None:
    with closing(RedisFeatureStore(any_redis_url, tenant, 50)) as other:
        store.commit([state_of(5, 11, 12)], [], {})
        assert _items(other, 5) == [11, 12]
        store.commit([state_of(6, 12, 13, 14)], [], {})
        assert _items(other, 6) == [12, 13, 14]
        other.commit([state_of(7, 15, 11)], [], {})
        store.commit([state_of(8, 16, 15)], [], {})
        assert [_items(store, key) for key in (5, 6, 7, 8)] == [[11, 12], [12, 13, 14], [15, 11], [16, 15]]


def _items(store: RedisFeatureStore, key: int) -> list[int]:
    found = store.get(key)
    assert found is not None
    return found.items.tolist()


def test_a_list_of_items_that_is_another_one_is_not_believed(
    store: RedisFeatureStore, client: Any, tenant: str
) -> None:
    store.commit([state_of(5, 11, 12)], [], {})
    listed = f"repl:{{{tenant}}}:u-items"
    kept: Any = client.get(listed)
    client.set(listed, kept[8:] + kept[:8])
    assert _items(store, 5) == [11, 12], "this process has its own copy"
    store._items.forget()
    with pytest.raises(StoreError, match="checksum does not fit"):
        store.get(5)


def test_items_beyond_the_limit_keep_their_keys(any_redis_url: str, tenant: str) -> None:
    with closing(RedisFeatureStore(any_redis_url, tenant, 50, max_items=2)) as store:
        store.commit([state_of(5, 11, 12), state_of(6, 12, 13)], [], {})
        store.commit([state_of(7, 14)], [], {})
        assert [_items(store, key) for key in (5, 6, 7)] == [[11, 12], [12, 13], [14]]


def test_another_format_is_refused(store: RedisFeatureStore, client: Any, tenant: str) -> None:
    client.set(f"repl:{{{tenant}}}:u-format", "9")
    with pytest.raises(StoreError, match="format b'9'"):
        store.get(5)
    with pytest.raises(StoreError, match="format b'9'"):
        store.commit([], [], {"event/0": 1})


def test_states_and_offsets_agree_after_kill_9(server: RedisServer, tenant: str) -> None:
    with closing(RedisFeatureStore(server.url, tenant, 50)) as store:
        for offset in range(1, 300):
            store.commit([state_of(key, offset, offset=offset - 1) for key in (1, 2)], [], {"event/0": offset})
        server.kill()
        with pytest.raises(StoreError, match="is it running"):
            store.get(1)
        server.start()
        at = store.offsets()["event/0"]
        for key in (1, 2):
            found = store.get(key)
            assert found is not None
            assert found.offset == at
            assert found.items.tolist() == [at]


def test_a_redis_that_forgot_is_said_once(server: RedisServer, tenant: str) -> None:
    with closing(RedisFeatureStore(server.url, tenant, 50)) as store:
        store.commit([state_of(1, 5)], [], {"event/0": 10})
        server.kill()
        for file in server.home.rglob("*.aof*"):
            if file.is_file():
                file.unlink()
        server.start()
        with pytest.raises(WentBack, match="lost user states"):
            store.commit([state_of(1, 6)], [], {"event/0": 11})
        assert store.offsets() == {}
        store.commit([state_of(1, 6)], [], {"event/0": 3})
        assert store.offsets() == {"event/0": 3}


def test_full_is_said_and_over_afterwards(server: RedisServer, tenant: str) -> None:
    with closing(redis.Redis.from_url(server.url)) as client, closing(RedisFeatureStore(server.url, tenant)) as store:
        store.commit([state_of(1, 5)], [], {"event/0": 1})
        client.config_set("maxmemory", 1 << 20)
        with pytest.raises(StoreError, match="raise its maxmemory"):
            store.commit([state_of(2, 5)], [], {"event/0": 2})
        assert store.get(1) is not None
        assert store.get(2) is None
        client.config_set("maxmemory", 0)
        store.commit([state_of(2, 5)], [], {"event/0": 2})
        assert store.offsets() == {"event/0": 2}


def test_offsets_only_grow(store: RedisFeatureStore, any_redis_url: str, tenant: str) -> None:
    with closing(RedisFeatureStore(any_redis_url, tenant, 50)) as other:
        store.commit([], [], {"event/0": 9})
        other.commit([], [], {"event/0": 4, "event/1": 1})
        assert store.offsets() == {"event/0": 9, "event/1": 1}
        store.commit([], [], {"event/0": 10})


def test_a_ranker_that_is_behind_does_not_put_an_older_state_over_a_newer_one(
    store: RedisFeatureStore, any_redis_url: str, tenant: str
) -> None:
    with closing(RedisFeatureStore(any_redis_url, tenant, 50)) as behind:
        for partition in (0, 2):  # places above 2^32 and 2^48, too
            for at in (7, 1 << 31, 1 << 33):
                far, near = place(partition, at), place(partition, at - 2)
                store.commit([state_of(partition + 1, 1, 2, 3, offset=far)], [], {f"event/{partition}": at + 3})
                behind.commit([state_of(partition + 1, 1, offset=near)], [], {f"event/{partition}": at - 1})
                found = store.get(partition + 1)
                assert found is not None
                assert (found.offset, found.items.tolist()) == (far + 3, [1, 2, 3])
                assert behind.offsets()[f"event/{partition}"] == at + 3
        behind.commit([state_of(1, 9, offset=place(0, 1 << 34))], [], {})
        assert store.get(1).items.tolist() == [9]  # type: ignore[union-attr]


def test_who_read_offsets_before_a_loss_is_told_too(any_redis_url: str, client: Any, tenant: str) -> None:
    one, two = (RedisFeatureStore(any_redis_url, tenant, 50) for _ in range(2))
    with closing(one), closing(two):
        one.commit([], [], {"event/1": 10})
        assert two.offsets() == {"event/1": 10}
        client.delete(f"repl:{{{tenant}}}:u-offsets")
        with pytest.raises(WentBack, match="lost user states"):
            two.offsets()
        assert two.offsets() == {}
        with pytest.raises(WentBack, match="lost user states"):
            one.commit([state_of(1, 6)], [], {"event/1": 12})
        assert one.get(1) is None, "nothing was written"


def test_the_settings_choose(tmp_path: Path, any_redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_feature_store(Settings(data_dir=tmp_path))) as made:
        assert isinstance(made, EmbeddedFeatureStore)
    given = Settings.model_validate({"data_dir": tmp_path, "user_states_url": any_redis_url, "tenant": tenant})
    with closing(open_feature_store(given)) as made:
        assert isinstance(made, RedisFeatureStore)
        assert made.get(1) is None
    monkeypatch.setattr("features.redis_extra.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"repl-ranker\[redis\]"):
        open_feature_store(given)
