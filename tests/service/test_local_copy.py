"""The ranker's copy of the last version: whole or refused, bounded, and left as soon as the store answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from features.errors import StoreError
from features.ops import IMPRESSION, Ops, OpsBuilder
from features.realtime import RealtimeConfig, RealtimeState
from service.bases import Bases
from service.local_copy import KEPT, LocalCopy
from service.metrics import Metrics
from service.replica import REALTIME, Replica
from service.weight_store import (
    Checkpoint,
    CheckpointWrite,
    Version,
    chunk_sha,
    encode_weights,
    open_weight_store,
)
from service.weight_store_redis import RedisWeightStore
from tests.redis_server import RedisServer

D = 5
CONFIG = RealtimeConfig(max_items=1_000, max_categories=100, max_lists=100, neighbours=8)
TENANT = "lamps"
PRIOR = np.zeros((2, D))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis")
    yield made
    made.stop()


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisWeightStore]:
    with closing(RedisWeightStore(server.url, TENANT, timeout_ms=500)) as made:
        yield made


def learned_anew(server: RedisServer) -> RedisWeightStore:
    """For a trainer that starts after Redis has forgotten everything."""
    return RedisWeightStore(server.url, TENANT)


class Trainer:
    """Writes versions as the trainer does: changes with each, a checkpoint where asked."""

    def __init__(self, store: RedisWeightStore, worth: float = 1.0) -> None:
        self.store, self.worth, self.state, self.v = store, worth, RealtimeState(CONFIG), 0

    def publish(self, *items: int, checkpoint: bool = False) -> None:
        self.v += 1
        ops = _ops(self.v, items)
        self.state.apply(ops)
        weights = encode_weights(np.full(D, self.v * self.worth), np.zeros(D))
        offsets = {"event/0": self.v, "event/1": 2 * self.v}
        name = f"{self.v}-{self.worth}"
        version = Version(
            self.v, "base", "push", self.v, weights, offsets, self.v * 10, self.v * 10, None, name, self.v
        )
        write = None
        if checkpoint:
            chunks = {f"{REALTIME}{part}": body for part, body in self.state.changed_chunks().items()}
            self.store.put_chunks({chunk_sha(body): body for body in chunks.values()})
            named = {part: chunk_sha(body) for part, body in chunks.items()}
            write = CheckpointWrite(Checkpoint(self.v, offsets, named))
        self.store.commit(version, ops.to_bytes(), write)


def _ops(t: int, items: tuple[int, ...]) -> Ops:
    made = OpsBuilder()
    for item in items:
        made.add(1_000 * t, IMPRESSION, item)
    return made.build()


def replica(store: RedisWeightStore) -> Replica:
    lock, bases = threading.Lock(), Bases()
    bases.loaded = {"base": SimpleNamespace(engine=SimpleNamespace(prior=PRIOR))}  # type: ignore[dict-item]
    bases.home = "base"
    return Replica(store, bases, PRIOR, RealtimeState(CONFIG), lock, Metrics(), lambda: 99, lambda fresh: None)


def start(store: RedisWeightStore, copy: LocalCopy) -> Replica:
    """As the ranker does."""
    made = replica(store)
    made.poll()
    if not made.snapshot.version:
        any(made.start_from(one) for one in copy.load())
    return made


def test_a_ranker_starts_with_the_copy_while_the_store_is_down_and_leaves_it_when_it_is_back(
    store: RedisWeightStore, server: RedisServer, tmp_path: Path
) -> None:
    trainer, copy = Trainer(store), LocalCopy(tmp_path / "copy")
    trainer.publish(7, 8, checkpoint=True)
    trainer.publish(8, 9)
    assert copy.write(store, REALTIME) == 2
    server.kill()
    made = start(store, copy)
    assert (made.failing, made.copied, made.snapshot.version) == (True, True, 2)
    assert made.snapshot.weights[0].tolist() == [2.0] * D
    assert dict(made.snapshot.offsets) == {"event/0": 2, "event/1": 4}
    assert made._realtime.digest() == trainer.state.digest()
    assert made.through() == (20, 20)
    assert not made.poll()
    assert made.copied

    server.start()  # empty: it forgot
    made.poll()
    assert (made.copied, made.failing, made.snapshot.version) == (True, False, 2), "an empty store has nothing better"

    other = Trainer(learned_anew(server), worth=0.5)  # further than the copy: its changes must not go on top of it
    for item in (1, 2, 3):
        other.publish(item, checkpoint=item == 2)
    assert made.poll()
    assert (made.copied, made.snapshot.version, made.snapshot.weights[0][0]) == (False, 3, 1.5)
    assert made._realtime.digest() == other.state.digest()


def test_a_store_that_came_back_with_another_history_is_read_anew(
    store: RedisWeightStore, server: RedisServer, tmp_path: Path
) -> None:
    trainer = Trainer(store)
    trainer.publish(7, checkpoint=True)
    made = replica(store)
    assert made.poll()
    server.kill()
    assert not made.poll()
    server.start()
    other = Trainer(learned_anew(server), worth=0.5)
    other.publish(5, checkpoint=True)
    other.publish(6)
    assert made.poll()
    assert made._realtime.digest() == other.state.digest()
    assert made.snapshot.version == 2


@pytest.mark.parametrize("what", ["manifest", "chunk"])
def test_a_damaged_copy_is_named_and_not_served(
    store: RedisWeightStore, server: RedisServer, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, copy = Trainer(store), LocalCopy(tmp_path / "copy")
    trainer.publish(7, checkpoint=True)
    copy.write(store, REALTIME)
    pattern = "*.copy" if what == "manifest" else "chunks/*"
    path = max((tmp_path / "copy").glob(pattern), key=lambda one: one.stat().st_size)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    server.kill()
    made = start(store, copy)
    assert (made.snapshot.version, made.copied) == (0, False)
    refused = [record for record in caplog.records if "refused" in record.message]
    assert len(refused) == 1
    assert path.name in str(refused[0].__dict__["reason"])


def test_the_copy_before_is_served_where_the_newest_is_damaged(
    store: RedisWeightStore, server: RedisServer, tmp_path: Path
) -> None:
    trainer, copy = Trainer(store), LocalCopy(tmp_path / "copy")
    trainer.publish(7, checkpoint=True)
    copy.write(store, REALTIME)
    trainer.publish(8)
    copy.write(store, REALTIME)
    (tmp_path / "copy" / "2.copy").write_bytes(b"")
    server.kill()
    assert start(store, copy).snapshot.version == 1


def test_two_copies_are_kept_with_their_chunks_and_no_draft(store: RedisWeightStore, tmp_path: Path) -> None:
    trainer, copy = Trainer(store), LocalCopy(tmp_path / "copy")
    for item in range(1, 6):
        trainer.publish(item, checkpoint=True)
        copy.write(store, REALTIME)
    assert sorted(path.name for path in (tmp_path / "copy").glob("*")) == ["4.copy", "5.copy", "chunks"]
    named = {sha for one in copy.load() for sha in one.latest_checkpoint().chunks.values()}  # type: ignore[union-attr]
    assert {path.name for path in (tmp_path / "copy" / "chunks").glob("*")} == named
    assert KEPT == 2


def test_a_copy_that_fails_leaves_those_before(
    store: RedisWeightStore, server: RedisServer, tmp_path: Path
) -> None:
    trainer, copy = Trainer(store), LocalCopy(tmp_path / "copy")
    trainer.publish(7, checkpoint=True)
    copy.write(store, REALTIME)
    server.kill()
    with pytest.raises(StoreError):
        copy.write(store, REALTIME)
    assert [one.latest().v for one in copy.load()] == [1]  # type: ignore[union-attr]


def test_an_empty_store_gives_no_copy(tmp_path: Path) -> None:
    with closing(open_weight_store(tmp_path)) as store:
        assert LocalCopy(tmp_path / "copy").write(store, REALTIME) is None
