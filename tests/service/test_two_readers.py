"""Two rankers that read one log into one Redis, each at its own pace: no interaction is lost, none counts twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from features.catalogue import Catalogue
from features.event_log import open_log
from features.event_parser import parse_event
from features.feature_store_redis import RedisFeatureStore
from features.hash_window import HashWindow
from features.keys import actor_key
from features.records import NewRecord, event_record
from service.artifact import load_artifact
from service.metrics import Metrics
from service.settings import Settings
from service.shared_users import SharedUserStates
from service.testkit import BASE, ManualClock
from service.user_state_consumer import UserStateConsumer
from service.user_state_saving import LOOK_MS
from tests.conftest import fresh_tenant
from tests.redis_server import RedisServer

NOW = 1_767_225_600_000


class Readers:
    """A log, a Redis, and consumers on both, stepped by the test."""

    def __init__(self, place: Path, url: str, tenant: str) -> None:
        self.clock, self.url, self.tenant = ManualClock(NOW), url, tenant
        self.log = open_log(Settings(data_dir=place), self.clock)
        self.schema = load_artifact(BASE).schema
        self.lock = threading.Lock()
        self.opened: list[RedisFeatureStore] = []

    def close(self) -> None:
        for store in self.opened:
            store.close()
        self.log.close()

    def reader(self) -> UserStateConsumer:
        """A consumer as a ranker starts it: from the offsets that Redis holds."""
        store = RedisFeatureStore(self.url, self.tenant)
        self.opened.append(store)
        users, catalogue = SharedUserStates(store, 100), Catalogue(self.schema, 1_000)
        return UserStateConsumer(
            self.log, self.schema, users, catalogue, None, None, (store.offsets(), {}), self.lock, Metrics(),
            self.clock, HashWindow(1_000, 3_600_000),
        )  # fmt: skip

    def click(self, user: str, *items: str) -> None:
        """One click an item, each a little later."""
        for item in items:
            body = {"event": "interaction", "type": "click", "user": user, "item": item, "id": f"{user}-{item}"}
            event = parse_event(body | {"timestamp": self.clock.advance(1)}, tenant="default", now_ms=self.clock.now)
            self.log.append("event", [event_record(event)])

    def delete(self, user: str) -> None:
        body = {"event": "user", "op": "delete", "user": user, "id": f"{user}-gone", "timestamp": self.clock.advance(1)}
        self.log.append("event", [event_record(parse_event(body, tenant="default", now_ms=self.clock.now))])

    def settle(self, reader: UserStateConsumer) -> None:
        """Read and write everything."""
        for _ in range(6):
            self.clock.advance(LOOK_MS)
            reader.step()
        assert reader.failing is None
        assert reader._users.dirty == 0

    def held(self, reader: UserStateConsumer, user: str) -> int:
        """Interactions of a user as this reader's next answer would see them."""
        state = reader._users.get(actor_key(user, None))
        return 0 if state is None else len(state)

    def stored(self, user: str) -> int:
        with closing(RedisFeatureStore(self.url, self.tenant)) as store:
            state = store.get(actor_key(user, None))
            return 0 if state is None else len(state)


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Readers]:
    made = Readers(tmp_path, redis_url, fresh_tenant())
    yield made
    made.close()


def states(client: Any, tenant: str) -> dict[bytes, bytes]:
    """The keys of user states as they are now."""
    return {key: client.dump(key) for key in client.scan_iter(f"repl:{{{tenant}}}:u*", count=1_000)}


def test_one_that_is_behind_and_one_that_is_ahead(shop: Readers) -> None:
    shop.click("anna", "a", "b")
    one, two = shop.reader(), shop.reader()
    shop.settle(one)
    shop.settle(two)
    shop.click("anna", "c", "d")
    shop.settle(one)
    shop.click("bert", "a")
    two._users.put(two._users.get_or_new(actor_key("anna", None)))  # it writes what it has: two of four
    two._users.flush_beside(shop.lock, {"event/0": 2})
    assert shop.stored("anna") == 4
    three = shop.reader()  # starts where `one` was, with states that Redis holds
    for reader in (three, two, one):
        shop.settle(reader)
    assert [shop.held(reader, "anna") for reader in (one, two, three)] == [4, 4, 4]
    assert [shop.held(reader, "bert") for reader in (one, two, three)] == [1, 1, 1]


def test_a_state_that_is_ahead_of_its_reader_counts_nothing_twice(shop: Readers) -> None:
    behind, ahead = shop.reader(), shop.reader()
    shop.click("anna", "a", "b", "c")
    shop.settle(ahead)
    assert shop.held(behind, "anna") == 3, "read from Redis before it has read the log"
    shop.settle(behind)
    shop.click("anna", "d")
    shop.settle(behind)
    shop.settle(ahead)
    assert (shop.held(behind, "anna"), shop.held(ahead, "anna"), shop.stored("anna")) == (4, 4, 4)


def test_a_deletion_that_one_reads_late_takes_nothing_that_came_after(shop: Readers) -> None:
    shop.click("anna", "a", "b")
    one, late = shop.reader(), shop.reader()
    shop.settle(one)
    shop.settle(late)
    shop.delete("anna")
    shop.click("anna", "c")
    shop.settle(one)
    late._users.flush_beside(shop.lock, {})
    assert shop.stored("anna") == 1
    shop.settle(late)
    assert (shop.held(one, "anna"), shop.held(late, "anna"), shop.stored("anna")) == (1, 1, 1)


def test_what_redis_lost_is_read_again_also_by_one_whose_memory_forgot_it(shop: Readers) -> None:
    with closing(redis.Redis.from_url(shop.url)) as client:
        shop.click("anna", "a")
        one, idle = shop.reader(), shop.reader()
        shop.settle(one)
        shop.settle(idle)
        before = states(client, shop.tenant)
        shop.click("anna", "b", "c")
        shop.settle(one)
        shop.settle(idle)
        for key, value in before.items():
            client.restore(key, 0, value, replace=True)  # type: ignore[arg-type]
        one._users.release(shop.lock)  # as if others had taken its place in memory
        shop.click("anna", "d")
        shop.settle(one)
        assert (shop.held(one, "anna"), shop.stored("anna")) == (4, 4)
        shop.settle(idle)
        assert shop.held(idle, "anna") == 4


def test_a_copy_of_what_only_the_catalogue_reads_again_counts_once(shop: Readers) -> None:
    """A ranker that was killed finds states further than its catalogue; the second copy of an event comes after."""
    shop.click("anna", "a")
    shop.settle(shop.reader())
    (record,) = shop.log.read("event", 0)
    copy = NewRecord(record.kind, record.tenant, record.timestamp, record.key, record.body)
    shop.log.append("event", [copy])
    again = shop.reader()  # users from 1 on, items from 0 on
    shop.settle(again)
    assert (shop.held(again, "anna"), shop.stored("anna")) == (1, 1)


def test_one_that_writes_nothing_notices_a_loss(shop: Readers) -> None:
    with closing(redis.Redis.from_url(shop.url)) as client:
        shop.click("anna", "a")
        one = shop.reader()
        shop.settle(one)
        for key in states(client, shop.tenant):
            client.delete(key)
        one._users.release(shop.lock)
        shop.settle(one)
        assert (shop.held(one, "anna"), shop.stored("anna")) == (1, 1)


def test_what_is_read_while_redis_is_down_counts_once(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "everysec")
    shop = Readers(tmp_path, server.url, "lamps")
    try:
        shop.click("anna", "a")
        one = shop.reader()
        shop.settle(one)
        server.kill()
        shop.click("anna", "b")
        shop.click("carl", "a", "b")  # his state would be read from Redis
        for _ in range(3):
            assert one.step() == 0
        assert one.failing == "state"
        server.start()
        shop.settle(one)
        assert (shop.held(one, "anna"), shop.held(one, "carl")) == (2, 2)
        assert (shop.stored("anna"), shop.stored("carl")) == (2, 2)
    finally:
        shop.close()
        server.stop()
