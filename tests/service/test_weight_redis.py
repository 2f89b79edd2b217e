"""What only the weight store in Redis promises: fencing, persistence, a Redis that is down, full or damaged."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from features.errors import Fenced, StoreError, WentBack
from service.settings import Settings
from service.weight_keeping import DAY
from service.weight_redis_keys import Keys, seal, seal_version
from service.weight_store import (
    Beside,
    Checkpoint,
    CheckpointWrite,
    Heartbeat,
    Version,
    chunk_sha,
    encode_weights,
)
from service.weight_store_redis import RedisWeightStore
from tests.conftest import fresh_tenant
from tests.redis_server import RedisServer
from tests.redis_several import client_of

Open = Callable[..., RedisWeightStore]


@pytest.fixture
def tenant() -> str:
    return fresh_tenant()


@pytest.fixture
def open_at(tenant: str) -> Iterator[Open]:
    """Opens a store of this test's tenant at a URL."""
    opened: list[RedisWeightStore] = []

    def open_it(url: str, **options: Any) -> RedisWeightStore:
        opened.append(RedisWeightStore(url, tenant, **options))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def open_store(open_at: Open, any_redis_url: str) -> Open:
    """Opens a store of this test's tenant on the session's Redis."""
    return partial(open_at, any_redis_url)


@pytest.fixture
def client(any_redis_url: str) -> Iterator[Any]:
    with closing(client_of(any_redis_url)) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis of this test's own."""
    started: list[RedisServer] = []

    def start(*options: str, password: str | None = None) -> RedisServer:
        started.append(RedisServer(tmp_path / f"redis{len(started)}", *options, password=password))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def version(v: int, *, created: int = 0, weights: bytes | None = None) -> Version:
    bare = weights or encode_weights(np.full(3, float(v)), np.full(3, -float(v)))
    return Version(v, "ab" * 32, "push", v, bare, {"event/0": 10 * v}, v, v, None, f"hash{v}", created)


def write(v: int, chunks: dict[str, bytes], states: dict[int, bytes | None]) -> CheckpointWrite:
    named = {name: chunk_sha(body) for name, body in chunks.items()}
    return CheckpointWrite(Checkpoint(v, {"event/0": 10 * v}, named), list(states.items()))


def put(store: RedisWeightStore, v: int, chunks: dict[str, bytes], states: dict[int, bytes | None]) -> None:
    store.put_chunks({chunk_sha(body): body for body in chunks.values()})
    store.commit(version(v, created=v), b"", write(v, chunks, states))


# who may write


def test_a_trainer_that_wakes_up_late_is_fenced_off(open_store: Open) -> None:
    early = open_store(writer=True)
    early.commit(version(1), b"one")
    late, early_checkpoint = open_store(writer=True), write(2, {"a": b"chunk"}, {7: b"early"})
    late.commit(version(2), b"two")
    attempts: list[Callable[[], object]] = [
        lambda: early.commit(version(3), b"other"),
        lambda: early.commit(version(3), None, early_checkpoint),
        lambda: early.put_chunks({chunk_sha(b"chunk"): b"chunk"}),
        lambda: early.beat(Heartbeat(1, 1, 1)),
        lambda: early.thin(40 * DAY),
    ]
    for attempt in attempts:
        with pytest.raises(Fenced, match="another trainer"):
            attempt()
    late.commit(version(3), b"three")
    assert late.changes_since(0) == [(1, b"one"), (2, b"two"), (3, b"three")]
    assert late.user_states([7], 3)[0] is None
    assert late.heartbeat() is None


def test_who_comes_too_late_with_an_old_version_is_refused(open_store: Open) -> None:
    store = open_store()
    store.commit(version(5), b"")
    with pytest.raises(StoreError, match="versions only grow"):
        open_store().commit(version(4), b"")


def test_a_pin_in_the_middle_of_a_commit_loses_neither(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """WATCH: the place of a pin is read before the transaction; one that changes then begins it anew."""
    store, other = open_store(), open_store()
    for v in (1, 2):
        store.commit(version(v), b"")
    queue, calls = store._committer._queue, []

    def interrupted(pipe: Any, *rest: Any) -> None:
        queue(pipe, *rest)
        if not calls:
            other.pin(1)
        calls.append(1)

    monkeypatch.setattr(store._committer, "_queue", interrupted)
    store.commit(version(3), b"", pins={2: True})
    assert len(calls) == 2
    assert (store.get(1).pinned, store.get(2).pinned, store.pinned()) == (True, True, 2)


def test_a_key_that_never_rests_is_said_after_bounded_tries(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = open_store(), open_store()
    store.commit(version(1), b"")
    queue = store._committer._queue

    def interrupted(pipe: Any, *rest: Any) -> None:
        queue(pipe, *rest)
        other.pin(1)

    monkeypatch.setattr(store._committer, "_queue", interrupted)
    with pytest.raises(StoreError, match="5 times"):
        store.commit(version(2), b"")
    assert store.latest() == other.get(1)


# a Redis that dies


def test_killed_between_chunks_and_transaction_weights_and_offsets_agree(
    server: Callable[..., RedisServer], open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a Redis with appendfsync everysec at each write of a commit, and after it: all of it or none."""
    running = server("--appendonly", "yes", "--appendfsync", "everysec")
    store = open_at(running.url, writer=True)
    states: dict[int, bytes | None] = {key: b"s%d" % key * 40 for key in range(1, 500)}
    put(store, 1, {"a": b"a1", "large": b"x" * 700_000}, states)
    writes, place = [0], store._place
    transaction = place.transaction

    def count(*given: Any, **more: Any) -> Any:
        writes[0] += 1
        return transaction(*given, **more)

    monkeypatch.setattr(place, "transaction", count)
    put(store, 2, {"a": b"a2", "large": b"y" * 700_000}, states)
    steps, v = writes[0], 3
    assert steps >= 7, "pieces of chunks and of states, and the transaction"
    for step in range(1, steps + 1):

        def killed(*given: Any, step: int = step, **more: Any) -> Any:
            writes[0] += 1
            if writes[0] == step:
                running.kill()
            return transaction(*given, **more)

        writes[0] = 0
        monkeypatch.setattr(place, "transaction", killed)
        with pytest.raises(StoreError):
            put(store, v, {"a": b"a%d" % v, "large": b"%d" % v * 350_000}, states)
        running.start()
        monkeypatch.setattr(place, "transaction", transaction)
        agree(store, v - 1)
        for attempt in (1, 2, 3):  # WentBack where the kill took the token or a version: then the trainer starts anew
            try:
                put(store, v, {"a": b"a%d" % v, "large": b"%d" % v * 350_000}, states)
                break
            except WentBack:
                assert attempt < 3
        agree(store, v)
        v += 1
    running.kill()  # right after a commit: its second may be lost, but never a part of it
    running.start()
    agree(store, None)
    latest = store.latest()
    assert latest is not None
    store.thin(latest.created)
    assert len(open_at(running.url).versions(100)) >= 3


def agree(store: RedisWeightStore, v: int | None) -> None:
    """The newest version is v (None: whatever is there); weights, offsets, changes and checkpoint are its own."""
    latest, point = store.latest(), store.latest_checkpoint()
    assert latest is not None
    assert point is not None
    if v is not None:
        assert latest.v == v
    assert latest == store.get(latest.v)
    assert latest.offsets == point.offsets == {"event/0": 10 * latest.v}
    assert latest.vectors()["click"].tolist() == [float(latest.v)] * 3
    assert store.load_chunks(point)["a"] == b"a%d" % latest.v
    assert store.user_states([3], point.version)[0] == b"s3" * 40
    assert store.changes_since(latest.v - 1) == [(latest.v, b"")]


def test_a_redis_that_forgot_is_met_with_a_new_start(server: Callable[..., RedisServer], open_at: Open) -> None:
    running = server()
    store, reader = open_at(running.url, writer=True), open_at(running.url)
    for v in (1, 2, 3):
        store.commit(version(v), b"")
    with closing(redis.Redis.from_url(running.url)) as client:
        client.flushall()
    assert reader.latest() is None
    with pytest.raises(WentBack, match="forgotten"):
        store.commit(version(4), b"")
    store.commit(version(1), b"")
    latest = reader.latest()
    assert latest is not None
    assert latest.v == 1


def test_lost_versions_are_seen_though_the_token_is_there(open_store: Open, client: Any, tenant: str) -> None:
    store = open_store(writer=True)
    keys = Keys(f"repl:{{{tenant}}}")
    for v in (1, 2, 3):
        store.commit(version(v), b"")
    client.zremrangebyscore(keys.versions, 3, 3)
    with pytest.raises(WentBack, match="at version 2, though 3"):
        store.commit(version(4), b"")
    store.commit(version(3), b"")


def test_down_is_said_in_bounded_time_and_over_when_it_is_back(
    server: Callable[..., RedisServer], open_at: Open
) -> None:
    running = server("--appendonly", "yes", "--appendfsync", "always")
    store = open_at(running.url, timeout_ms=300)
    store.commit(version(1), b"")
    running.kill()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot read the latest version in redis://127.0.0.1:\d+") as told:
        store.latest()
    assert "is it running" in str(told.value)
    with pytest.raises(StoreError):
        store.commit(version(2), b"")
    assert time.monotonic() - began < 5
    running.start()
    assert store.latest() is not None
    store.commit(version(2), b"")
    running.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreError, match="redis_timeout_ms"):
        store.latest()
    assert time.monotonic() - began < 5
    running.signal(signal.SIGCONT)
    assert store.get(2).v == 2


def test_a_full_redis_refuses_clearly_and_goes_on_afterwards(
    server: Callable[..., RedisServer], open_at: Open
) -> None:
    running = server("--maxmemory", "100mb", "--maxmemory-policy", "noeviction")
    store = open_at(running.url)
    put(store, 1, {"a": b"a1"}, {3: b"s3"})
    with closing(redis.Redis.from_url(running.url)) as client:
        client.config_set("maxmemory", 1 << 20)
        for attempt in (lambda: store.commit(version(2), b""), lambda: put(store, 2, {"a": b"a2"}, {})):
            with pytest.raises(StoreError, match="raise its maxmemory"):
                attempt()
        assert store.latest() == store.get(1), "what is there can be read"
        client.config_set("maxmemory", 100 << 20)
    put(store, 2, {"a": b"a2"}, {3: b"s3"})
    assert [found.v for found in store.versions()] == [2, 1]


def test_a_wrong_password_is_said_and_never_shown(server: Callable[..., RedisServer], open_at: Open) -> None:
    running = server(password="right-word")
    right = open_at(running.url, writer=True)
    right.commit(version(1), b"")
    wrong = open_at(running.url.replace("right-word", "wrong-word"))
    none = open_at(f"redis://127.0.0.1:{running.port}/0")
    for store in (wrong, none):
        with pytest.raises(StoreError, match="check user and password") as told:
            store.latest()
        assert "-word" not in str(told.value) + str(told.value.as_dict())


def test_a_user_without_the_right_to_write_is_told(server: Callable[..., RedisServer], open_at: Open) -> None:
    running = server()
    with closing(redis.Redis.from_url(running.url)) as client:
        may = ["+@read", "+@connection"]
        client.acl_setuser("reader", enabled=True, nopass=True, keys=["repl:*"], categories=may)
    store = open_at(f"redis://reader:any@127.0.0.1:{running.port}/0")
    assert store.latest() is None
    with pytest.raises(StoreError, match="ACL user"):
        store.commit(version(1), b"")


def test_a_redis_that_throws_keys_away_is_refused(server: Callable[..., RedisServer], open_at: Open) -> None:
    running = server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreError, match="maxmemory-policy allkeys-lru"):
        open_at(running.url, writer=True)


# damage


def nan(v: int) -> bytes:
    return encode_weights(np.array([1.0, np.nan, 1.0]), np.zeros(3))


def with_beside(weights: bytes) -> Version:
    return msgspec.structs.replace(version(1), beside=Beside("ef" * 32, "", weights))


@pytest.mark.parametrize(
    ("poison", "why"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "sha256 does not fit"),
        (lambda data: data[:20], "sha256 does not fit"),
        (lambda data: seal_version(version(1, weights=nan(1))), "not all finite"),
        (lambda data: seal_version(version(1, weights=encode_weights(np.zeros(3), np.zeros(2)))), "shapes"),
        (lambda data: seal_version(version(1, weights=b"no safetensors")), "cannot be read"),
        (lambda data: seal_version(with_beside(nan(1))), "not all finite"),
        (lambda data: seal_version(version(9)), "it holds version 9"),
        (lambda data: seal(b"no msgpack"), "damaged"),
    ],
)
def test_a_poisoned_version_is_named_and_never_served(
    poison: Callable[[bytes], bytes], why: str, open_store: Open, client: Any, tenant: str
) -> None:
    open_store().commit(version(1), b"")
    keys = Keys(f"repl:{{{tenant}}}")
    for key in (keys.latest, keys.version(1)):
        client.set(key, poison(client.get(key)))  # type: ignore[arg-type]
    reader = open_store()
    for attempt, key in ((reader.latest, keys.latest), (lambda: reader.get(1), keys.version(1))):
        with pytest.raises(StoreError, match=why) as told:
            attempt()
        assert key in str(told.value)


def test_damaged_chunks_changes_manifests_and_states_are_named(
    open_store: Open, client: Any, tenant: str
) -> None:
    store, keys = open_store(), Keys(f"repl:{{{tenant}}}")
    put(store, 1, {"a": b"whole"}, {7: b"state"})
    sha = chunk_sha(b"whole")
    client.set(keys.chunk(sha), b"half")
    client.set(keys.change(1), b"x")
    client.hset(keys.user(7), "1", b"12345678state")
    client.hset(keys.meta, "heartbeat", b"{")
    attempts: list[tuple[str, Callable[[], object]]] = [
        (keys.chunk(sha), lambda: store.chunk(sha)),
        (keys.change(1), lambda: store.changes_since(0)),
        (keys.user(7), lambda: store.user_states([7], 1)[0]),
        (keys.meta, store.heartbeat),
    ]
    client.set(keys.checkpoint(1), seal(b'{"version": 4, "offsets": {}, "chunks": {}}'))
    attempts.append((keys.checkpoint(1), store.latest_checkpoint))
    for key, attempt in attempts:
        with pytest.raises(StoreError, match="damaged") as told:
            attempt()
        assert key in str(told.value)
    for key in (keys.latest, keys.version(1), keys.checkpoint(1)):
        client.delete(key)
    for attempt in (store.latest, lambda: store.get(1), store.latest_checkpoint):
        with pytest.raises(StoreError, match="missing"):
            attempt()


def test_a_newer_format_is_refused_by_name(open_store: Open, client: Any, tenant: str) -> None:
    open_store().commit(version(1), b"")
    client.hset(Keys(f"repl:{{{tenant}}}").meta, "format", "9")
    with pytest.raises(StoreError, match="format 9"):
        open_store().latest()


# what it takes, and what it leaves


def test_every_key_is_the_tenants_and_what_is_thinned_is_gone(
    open_store: Open, client: Any, tenant: str
) -> None:
    store = open_store()
    prefix = f"repl:{{{tenant}}}:w:"
    for v in range(1, 6):
        put(store, v, {"same": b"same", "own": b"own%d" % v, "large": b"%d" % v * 300_000}, {v: b"s", 99: b"%d" % v})
    store.put_chunks({chunk_sha(b"nobody's"): b"nobody's"})
    store.beat(Heartbeat(1, 1, 1), {"events": 1})
    store.thin(40 * DAY)
    found = {key.decode().removeprefix(prefix) for key in client.scan_iter(f"*{tenant}*", count=1_000)}  # type: ignore[union-attr]
    kinds = sorted(name.partition(":")[0] for name in found)
    assert kinds == sorted(
        ["bytes", "change", "changes", "checkpoints", "chunks", "fence", "latest", "meta", "state-sets", "versions"]
        + ["checkpoint"] * 2 + ["chunk"] * 7 + ["states"] * 2 + ["user"] * 6 + ["version"] * 2
    )  # fmt: skip
    assert int(client.get(f"{prefix}bytes")) == 4 + 2 * (4 + 300_000)  # type: ignore[arg-type]
    assert len(client.hgetall(f"{prefix}user:{99:016x}")) == 2  # type: ignore[arg-type]
    assert store.user_states([1], 4)[0] == b"s", "a state passes to the next checkpoint that is kept"


def test_states_of_a_commit_that_never_came_are_not_read_and_go(open_store: Open, client: Any) -> None:
    store = open_store()
    put(store, 1, {"a": b"a1"}, {7: b"one"})
    with pytest.raises(StoreError, match="was not put"):
        store.commit(version(2), b"", write(2, {"a": b"never put"}, {7: b"wrong", 8: b"wrong"}))
    assert store.user_states([7], 1)[0] == b"one"
    put(store, 3, {"a": b"a1"}, {9: b"three"})
    assert store.user_states([7, 8, 9], 3) == [b"one", None, b"three"]


def test_old_checkpoints_go_when_chunks_take_more_than_they_may(open_store: Open) -> None:
    store = open_store(max_bytes=3_500)
    for v in range(1, 6):
        put(store, v, {"own": b"%d" % v * 1_000}, {})
    assert store.thin(5)["checkpoints"] == 2
    found = store.latest_checkpoint(before=3)
    assert found is not None
    assert found.version == 3


def test_old_checkpoints_take_at_most_half_of_redis(server: Callable[..., RedisServer], open_at: Open) -> None:
    store = open_at(server("--maxmemory", "16mb", "--maxmemory-policy", "noeviction").url)
    for v in range(1, 31):
        put(store, v, {"own": b"%03d" % v * 350_000}, {})  # 1 MB each: 30 MB in all, of 16
        store.thin(v)
    assert store.latest_checkpoint(before=24) is not None
    assert store.latest_checkpoint(before=22) is None


def test_a_version_is_announced(open_store: Open) -> None:
    store, reader, woken = open_store(), open_store(), threading.Event()
    assert reader.follow(woken.set)
    deadline = time.monotonic() + 10
    while not woken.is_set():  # the subscription takes a moment
        latest = reader.latest()
        store.commit(version(1 if latest is None else latest.v + 1), b"")
        assert time.monotonic() < deadline
        woken.wait(0.05)


def test_a_url_is_shown_without_its_password() -> None:
    url = "rediss://anna:" + "secret-word@cache.example:6380/2?password=secret-word"
    settings = Settings.model_validate({"weights_url": url, "user_states_url": url})
    shown = f"{settings!r} {settings.model_dump(mode='json')} {settings.weights_url}"
    assert "secret-word" not in shown
    assert settings.model_dump(mode="json")["weights_url"] == "rediss://anna@cache.example:6380/2"


def test_a_state_survives_msgpack_of_a_newer_program(open_store: Open, client: Any, tenant: str) -> None:
    """Fields that this program does not know are ignored."""
    open_store().commit(version(1), b"")
    more = msgspec.structs.asdict(version(1)) | {"colour": "red"}
    client.set(Keys(f"repl:{{{tenant}}}").version(1), seal(msgspec.msgpack.encode(more)))
    assert open_store().get(1) == version(1)
