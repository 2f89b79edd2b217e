"""A primary that is killed or replaced, a slot that moves away, under a writer: behind sentinels, in a Cluster."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from features.errors import Fenced, StoreDown, StoreError, WentBack
from features.feature_store_redis import RedisFeatureStore
from features.user_state import UserState
from service.weight_redis_lease import RedisLease
from service.weight_store import Heartbeat
from service.weight_store_redis import RedisWeightStore
from tests.redis_several import DURABLE, Cluster, Sentinels, Several, slot_of, tenant_on, until
from tests.service.test_weight_redis import agree, put, version

PATIENCE = 30.0


@pytest.fixture(params=[Cluster, Sentinels])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with request.param(tmp_path, DURABLE) as made:
        yield made


class Shop:
    """A tenant's stores, as a trainer, a consumer of user states and a ranker use them."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url, self.tenant, self._stack = url, tenant_on(), stack
        self.store, self.reader = self.open(writer=True), self.open()
        self.users = stack.enter_context(closing(RedisFeatureStore(url, self.tenant, 50, timeout_ms=1_000)))
        self.v, self._sound = 0, True

    def open(self, **options: Any) -> RedisWeightStore:
        made = RedisWeightStore(self.url, self.tenant, timeout_ms=1_000, **options)
        return self._stack.enter_context(closing(made))

    def write(self) -> None:
        """The next version, with a checkpoint and user states; what fails is begun anew from what the store holds, as
        the trainer and the consumer of user states do."""
        until(self._version, "a version is written")
        at = self.v
        until(lambda: tried(lambda: self.users.commit([state_of(1, at)], [], {"event/0": at})), "a user's state is")

    def _version(self) -> bool:
        states: dict[int, bytes | None] = {key: b"s%d" % key * 40 for key in range(1, 100)}

        def attempt() -> None:
            if not self._sound:
                latest = self.store.latest()
                self.v = 0 if latest is None else latest.v
            body = {"a": b"a%d" % (self.v + 1), "large": b"%d" % (self.v + 1) * 200_000}
            put(self.store, self.v + 1, body, states)
            self.v += 1

        self._sound = tried(attempt)
        return self._sound

    def agrees(self, v: int) -> None:
        """Weights, offsets, changes, checkpoint, and the user's state with its own offsets."""
        agree(self.store, v)
        found = self.users.get(1)
        assert found is not None
        assert found.items.tolist() == [self.users.offsets()["event/0"]] == [v]


def tried(act: Callable[[], object]) -> bool:
    """Did the store take it?"""
    try:
        act()
    except StoreError:
        return False
    return True


def state_of(key: int, at: int) -> UserState:
    """A user whose one item is the offset that her state was read through."""
    state = UserState(key, 50)
    state.append(at, 1, at, offset=at - 1)
    return state


@pytest.fixture
def shop(servers: Several) -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(servers.url, stack)


def test_a_writer_goes_on_after_kill_9_of_the_primary(servers: Any, shop: Shop) -> None:
    woken = threading.Event()
    shop.reader.follow(woken.set)
    lease = RedisLease(shop.url, shop.tenant, 1_000)
    assert lease.take(force=False)
    writer = threading.Thread(target=lambda: [shop.write() for _ in range(40)])
    writer.start()
    until(lambda: shop.v >= 5, "the writer is at work")
    first = servers.primary_of(shop.tenant)
    assert first is servers.servers[0]
    first.kill()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert servers.primary_of(shop.tenant) is not first
    shop.agrees(shop.v)
    assert shop.v > 30, "a few may have been lost with the primary, and come again"
    assert [one.v for one in shop.reader.versions(1_000)] == list(range(shop.v, 0, -1)), "none is missing"

    first.start()  # it comes back, and is not the primary
    assert servers.primary_of(shop.tenant) is not first
    woken.clear()
    until(lambda: shop.write() or woken.wait(0.2), "the news are heard again")
    assert not RedisLease(shop.url, shop.tenant, 1_000).take(force=False), "the lease was renewed there"
    lease.stop()
    late = shop.open(writer=True)
    late.beat(Heartbeat(1, 1, 1))
    with pytest.raises(Fenced, match="another trainer"):
        shop.store.commit(version(shop.v + 1), b"")
    nobody_there(servers, shop.reader)


def test_a_trainer_on_a_primary_that_hung_is_fenced_off_by_the_one_on_the_new_primary(tmp_path: Path) -> None:
    """The former primary wakes up, knows nothing of a failover and takes writes: not for long."""
    with Sentinels(tmp_path, DURABLE) as servers, ExitStack() as stack:
        shop = Shop(servers.url, stack)
        shop.write()
        until(servers.replicated, "the replica has all")
        servers.servers[0].signal(signal.SIGSTOP)
        until(lambda: servers.primary_of() is not servers.servers[0], "another is the primary")
        late = shop.open(writer=True)
        answered(lambda: late.commit(version(2), b"late"))
        servers.servers[0].signal(signal.SIGCONT)

        def fenced() -> bool:
            try:
                shop.store.beat(Heartbeat(1, 1, 1))
            except Fenced:
                return True
            except StoreError:
                return False
            return False

        until(fenced, "the first trainer is fenced off", seconds=8)
        latest = shop.reader.latest()
        assert latest is not None
        assert latest.v == 2
        assert late.changes_since(1) == [(2, b"late")]


def test_what_failover_lost_is_seen_and_written_again(servers: Any, shop: Shop) -> None:
    for _ in range(3):
        shop.write()
    until(servers.replicated, "the replica has all")
    time.sleep(0.2)
    servers.cut()
    for _ in range(2):  # answered, and never on the replica
        shop.write()
    shop.agrees(5)
    servers.servers[0].kill()
    until(lambda: servers.primary_of(shop.tenant) is not servers.servers[0], "another is the primary")
    answered(shop.store.latest)
    with pytest.raises(WentBack, match="at version 3, though 5"):
        shop.store.commit(version(6), b"")
    with pytest.raises(WentBack, match="lost user states"):
        answered(lambda: shop.users.commit([state_of(1, 6)], [], {"event/0": 6}))
    shop.agrees(3)
    shop.v = 3
    shop.write()
    shop.agrees(4)


def answered(act: Callable[[], object]) -> None:
    """Call it until the store answers."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        try:
            act()
            return
        except StoreDown:
            time.sleep(0.1)
    act()


def test_a_commit_whose_first_steps_are_lost_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a checkpoint go to a primary that dies with them; another thread finds the new one in between."""
    with Sentinels(tmp_path, DURABLE) as servers, ExitStack() as stack:
        shop = Shop(servers.url, stack)
        shop.write()
        until(servers.replicated, "the replica has all")
        time.sleep(0.2)
        servers.cut()
        transaction, place = shop.store._place.transaction, shop.store._place

        def interrupted(doing: str, *rest: Any, **more: Any) -> Any:
            if doing == "commit version 2":
                servers.servers[0].kill()
                until(lambda: servers.primary_of() is not servers.servers[0], "another is the primary")
                other = threading.Thread(target=lambda: answered(shop.store.latest))
                other.start()
                other.join(PATIENCE)
            return transaction(doing, *rest, **more)

        monkeypatch.setattr(place, "transaction", interrupted)
        states: dict[int, bytes | None] = {3: b"new"}
        with pytest.raises(StoreDown, match="another server became the primary"):
            put(shop.store, 2, {"a": b"a2"}, states)
        monkeypatch.undo()
        answered(lambda: shop.users.get(1))
        shop.agrees(1)
        put(shop.store, 2, {"a": b"a2"}, states)
        assert shop.store.user_states([3], 2) == [b"new"]


@pytest.mark.parametrize("kind", ["cluster", "sentinels"])
def test_a_primary_that_is_replaced_by_hand(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A Cluster loses nothing then; sentinels let the former primary go on for a moment, and what it took is lost."""
    with ExitStack() as stack:
        if kind == "cluster":
            servers = request.getfixturevalue("redis_cluster")
        else:
            servers = stack.enter_context(Sentinels(tmp_path, DURABLE))
        shop = Shop(servers.url, stack)
        for _ in range(3):
            shop.write()
        former = servers.primary_of(shop.tenant)
        until(servers.replicated, "the replica has all")
        servers.fail_over()
        until(lambda: shop.write() or servers.primary_of(shop.tenant) is not former, "another is the primary")

        def both_are_there() -> bool:
            shop.write()
            return [one.v for one in shop.reader.versions(1_000)] == list(range(shop.v, 0, -1))

        until(both_are_there, "writer and reader have found it", seconds=8)
        shop.agrees(shop.v)
        assert former.pid is not None, "it is a replica now"


def test_a_slot_that_moves_under_a_writer_loses_nothing_and_readers_go_on(redis_cluster: Cluster) -> None:
    cluster = redis_cluster
    with ExitStack() as stack:
        shop = Shop(cluster.url, stack)
        for _ in range(3):
            shop.write()
        done, failed, reads = threading.Event(), list[Exception](), [0]

        def read() -> None:
            while not done.is_set():
                try:
                    latest, state = shop.reader.latest(), shop.users.get(1)
                    assert latest is not None
                    assert state is not None
                    assert latest.v >= 3
                    reads[0] += 1
                except Exception as error:
                    failed.append(error)

        def write() -> None:
            while not done.is_set():
                shop.write()

        threads = [threading.Thread(target=work) for work in (read, write)]
        for thread in threads:
            thread.start()
        source, target = cluster.servers.index(cluster.primary_of(shop.tenant)), 1
        cluster.move(shop.tenant, target, pause=lambda: time.sleep(0.002))
        before = shop.v
        until(lambda: shop.v > before + 2, "the writer goes on")
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert failed == []
        assert reads[0] > 20
        assert cluster.primary_of(shop.tenant) is cluster.servers[target]
        shop.agrees(shop.v)
        assert [one.v for one in shop.reader.versions(10_000)] == list(range(shop.v, 0, -1))
        with closing(cluster.node(source)) as former:
            assert former.cluster("COUNTKEYSINSLOT", slot_of(shop.tenant)) == 0


def nobody_there(servers: Any, reader: RedisWeightStore) -> None:
    """Servers that stand still or are gone are said, in bounded time."""
    everyone = [*servers.servers, *getattr(servers, "sentinels", [])]
    for number, why in ((signal.SIGSTOP, "Timeout"), (signal.SIGKILL, "refused")):
        for server in everyone:
            server.signal(number)
        if number == signal.SIGKILL:
            servers.end()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StoreDown, match="cannot read the latest version") as told:
                reader.latest()
            assert time.monotonic() - began < 4
        assert why in str(told.value)
        assert "word-of" not in str(told.value)
