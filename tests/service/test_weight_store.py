"""The contract suite of WeightStore, run on every implementation, and what only the embedded one promises."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from features.errors import InvalidRequest, StoreError, UnknownVersion
from service.settings import Settings
from service.weight_keeping import DAY, HOUR, MINUTE, Keeping, checkpoints_over, keep_versions
from service.weight_store import (
    Beside,
    Checkpoint,
    CheckpointWrite,
    Heartbeat,
    Version,
    WeightStore,
    chunk_sha,
    encode_weights,
    open_weight_store,
)
from service.weight_store_sqlite import EmbeddedWeightStore
from tests.conftest import REDIS_URLS, fresh_tenant


@pytest.fixture(params=["embedded", *REDIS_URLS])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], WeightStore]]:
    """A function that opens the same store anew."""
    opened: list[WeightStore] = []
    url = "" if request.param == "embedded" else request.getfixturevalue(request.param)
    tenant = fresh_tenant()

    def open_it() -> WeightStore:
        if url:
            from service.weight_store_redis import RedisWeightStore

            opened.append(RedisWeightStore(url, tenant))
        else:
            opened.append(EmbeddedWeightStore(tmp_path / "trainer.db"))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], WeightStore]) -> WeightStore:
    return open_store()


def version(v: int, created: int = 0, held: str | None = None) -> Version:
    weights = encode_weights(np.full(3, float(v)), np.full(3, -float(v)))
    return Version(v, "ab" * 32, "push", v, weights, {"event/0": v}, v * 200, v * 200, held, "hash", created)


def checkpoint(store: WeightStore, v: int, chunks: dict[str, bytes], states: dict[int, bytes | None]) -> None:
    named = {name: chunk_sha(body) for name, body in chunks.items()}
    store.put_chunks({chunk_sha(body): body for body in chunks.values()})
    manifest = Checkpoint(v, {"event/0": v}, named)
    store.commit(version(v, created=v), b"", CheckpointWrite(manifest, list(states.items())))


def test_the_pair_beside_is_kept_with_its_version(
    store: WeightStore, open_store: Callable[[], WeightStore]
) -> None:
    store.commit(version(1), b"")
    weights = encode_weights(np.ones(2), np.zeros(2))
    beside = Beside("cd" * 32, "https://shop.example/base", weights, 2, 400, True, 12.5)
    store.commit(msgspec.structs.replace(version(2), url="bases/ab", beside=beside), b"")
    again = open_store()
    assert (again.get(1).beside, again.get(1).url) == (None, "")
    for found in (again.latest(), again.get(2), again.versions(1)[0], again.versions_after(1)[0]):
        assert found is not None
        assert (found.beside, found.url) == (beside, "bases/ab")
        assert found.weights_of("cd" * 32) == weights
        assert found.weights_of("ab" * 32) == found.weights
        assert found.weights_of("ef" * 32) is None
    assert "weights" not in again.get(2).info()["beside"]


def test_an_empty_store_has_nothing(store: WeightStore) -> None:
    assert store.latest() is None
    assert store.versions() == []
    assert store.changes_since(0) == []
    assert store.latest_checkpoint() is None
    assert store.heartbeat() is None
    assert store.status() == {}
    assert store.pinned() is None
    assert sum(store.thin(0).values()) == 0


def test_a_version_comes_back_as_it_was(store: WeightStore) -> None:
    written = version(7, created=11, held="norm")
    store.commit(written, None)
    assert store.get(7) == written
    assert store.latest() == written
    assert store.get(7).vectors()["purchase"].tolist() == [-7.0, -7.0, -7.0]
    assert "weights" not in store.get(7).info()
    with pytest.raises(UnknownVersion, match="version 8"):
        store.get(8)


def test_a_version_is_never_written_twice(store: WeightStore) -> None:
    store.commit(version(1), b"one")
    with pytest.raises(StoreError):
        store.commit(version(1), b"other")
    assert store.changes_since(0) == [(1, b"one")]


def test_versions_are_listed_newest_first(store: WeightStore) -> None:
    for v in (1, 2, 3, 4):
        store.commit(version(v), b"")
    assert [found.v for found in store.versions(2)] == [4, 3]
    assert [found.v for found in store.versions(2, before=3)] == [2, 1]
    assert [found.v for found in store.versions_after(2)] == [3, 4]


def test_changes_are_contiguous_or_absent(store: WeightStore) -> None:
    for v, body in ((1, b"a"), (2, None), (3, b""), (4, b"d")):
        store.commit(version(v), body)
    assert store.changes_since(4) == []
    assert store.changes_since(2) == [(3, b""), (4, b"d")]
    assert store.changes_since(1) is None
    store.commit(version(5), None)
    assert store.changes_since(4) is None


def test_the_pin_made_last_is_served(store: WeightStore) -> None:
    for v in (1, 2, 3):
        store.commit(version(v), b"")
    store.pin(2)
    store.pin(1)
    assert store.pinned() == 1
    assert store.get(1).pinned
    store.unpin(1)
    assert store.pinned() == 2
    store.commit(version(4), b"", pins={2: False, 3: True})
    assert store.pinned() == 3
    with pytest.raises(UnknownVersion):
        store.pin(9)


def test_a_checkpoint_needs_its_chunks(store: WeightStore) -> None:
    manifest = Checkpoint(1, {}, {"learner/mean": "00" * 32})
    with pytest.raises(StoreError, match="was not put"):
        store.commit(version(1), b"", CheckpointWrite(manifest))
    assert store.latest() is None, "the version went with its checkpoint"


def test_chunks_are_shared_and_dropped_with_their_last_checkpoint(store: WeightStore) -> None:
    checkpoint(store, 1, {"a/x": b"old", "a/y": b"same"}, {})
    for v in (2, 3):
        checkpoint(store, v, {"a/x": b"new", "a/y": b"same"}, {})
    assert store.latest_checkpoint(before=1).version == 1  # type: ignore[union-attr]
    found = store.latest_checkpoint()
    assert found is not None
    assert store.load_chunks(found, "a/") == {"x": b"new", "y": b"same"}
    dropped = store.thin(40 * DAY)
    assert dropped["checkpoints"] == 1
    assert dropped["chunks"] == 1
    with pytest.raises(StoreError):
        store.chunk(chunk_sha(b"old"))
    assert store.chunk(chunk_sha(b"same")) == b"same"


def test_user_states_are_those_of_the_checkpoint(store: WeightStore) -> None:
    big = (1 << 64) - 5
    checkpoint(store, 1, {}, {big: b"1", 7: b"seven"})
    checkpoint(store, 2, {}, {big: b"2"})
    checkpoint(store, 3, {}, {9: b"nine"})
    checkpoint(store, 4, {}, {9: b"nine again"})
    assert [store.user_states([big], v)[0] for v in (0, 1, 2, 4)] == [None, b"1", b"2", b"2"]
    store.thin(40 * DAY)
    assert store.user_states([big, 7, 9], 3) == [b"2", b"seven", b"nine"]
    assert store.user_states([9], 4)[0] == b"nine again"
    checkpoint(store, 5, {}, {7: None})
    assert store.user_states([7], 5)[0] is None
    assert store.user_states([7], 3)[0] is None, "a deleted user is gone from old checkpoints as well"


def test_heartbeat_and_status(store: WeightStore) -> None:
    store.beat(Heartbeat(5, 4, 6), {"events": 3})
    store.beat(Heartbeat(7, 6, 8))
    assert store.heartbeat() == Heartbeat(7, 6, 8)
    assert store.status() == {"events": 3}


def test_flags_are_seen_by_others_and_are_few(open_store: Callable[[], WeightStore]) -> None:
    store, reader = open_store(), open_store()
    assert store.flags() == {}
    store.set_flags({"mode/0": "passthrough", "mode/1": "passthrough"})
    assert reader.flags() == {"mode/0": "passthrough", "mode/1": "passthrough"}
    reader.set_flags({"mode/0": None, "other": "é"})
    assert store.flags() == {"mode/1": "passthrough", "other": "é"}
    store.set_flags({f"f{k}": "" for k in range(62)})
    with pytest.raises(InvalidRequest, match="65 flags"):
        store.set_flags({"mode/1": "rank", "one more": "x"})
    assert store.flags()["mode/1"] == "passthrough", "all of them or none"
    for changes in ({"": "x"}, {"n" * 65: "x"}, {"n": "v" * 257}):
        with pytest.raises(InvalidRequest):
            store.set_flags(changes)
    store.set_flags({"other": None, "one more": "x"})
    assert len(store.flags()) == 64
    store.commit(version(1), b"")
    assert store.latest() is not None


def test_a_kept_version_is_not_thinned_out(store: WeightStore) -> None:
    with pytest.raises(UnknownVersion):
        store.keep(2)
    for v in (1, 2, 3):
        store.commit(version(v, created=v), b"")
    for _ in range(2):
        store.keep(2)
    store.thin(40 * DAY)
    assert [found.v for found in store.versions()] == [3, 2]
    assert store.pinned() is None
    assert not store.get(2).pinned


def test_thinning_keeps_what_the_rule_says() -> None:
    now = 40 * DAY
    old, day, fresh = now - 31 * DAY, now - 2 * HOUR, now - 5 * MINUTE
    rows = [(1, old, True), (2, old + 1, False)]
    rows += [(10 + i, day + i * 10_000, i == 3) for i in range(6)]  # two hours ago: within one minute
    rows += [(20 + i, now - 2 * DAY + i * MINUTE, False) for i in range(3)]  # within one hour
    rows += [(30 + i, fresh + i * 200, False) for i in range(4)]
    assert keep_versions(rows, {2}, now, Keeping()) == {1, 2, 13, 20, 30, 31, 32, 33}
    everything = Keeping(every=3 * HOUR)
    assert keep_versions(rows, {2}, now, everything) == {1, 2, 10, 11, 12, 13, 14, 15, 20, 30, 31, 32, 33}
    by_minute = Keeping(minutely=3 * DAY)
    assert keep_versions(rows, {2}, now, by_minute) == {1, 2, 13, 20, 21, 22, 30, 31, 32, 33}
    short = Keeping(minutely=HOUR, hourly=HOUR)
    assert keep_versions(rows, set(), now, short) == {1, 13, 30, 31, 32, 33}  # 1 and 13: the newest checkpoints


def test_how_long_versions_are_kept_is_three_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from service.settings import load_settings

    assert Keeping.of(Settings()) == Keeping() == Keeping(10 * MINUTE, DAY, 30 * DAY)
    for name, value in (("ALL_MINUTES", "90"), ("MINUTELY_HOURS", "2.5"), ("HOURLY_DAYS", "3")):
        monkeypatch.setenv(f"REPL_VERSIONS_{name}", value)
    assert Keeping.of(load_settings()[0]) == Keeping(90 * MINUTE, 150 * MINUTE, 3 * DAY)


def test_a_store_thins_by_the_rule_it_was_opened_with(tmp_path: Path) -> None:
    kept = {}
    for name, keeping in (("usual", Keeping()), ("long", Keeping(every=DAY))):
        with closing(open_weight_store(tmp_path / name, keeping=keeping)) as store:
            for v in range(1, 7):
                store.commit(version(v, created=v * 1_000), b"")
            store.thin(2 * HOUR, keep=[4])
            kept[name] = [found.v for found in store.versions()]
    assert kept == {"usual": [6, 4, 1], "long": [6, 5, 4, 3, 2, 1]}


def test_the_trainer_thins_by_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from trainer import live

    opened = []

    def spy(data_dir: Path, **options: object) -> WeightStore:
        opened.append(options["keeping"])
        raise StoreError("seen")

    monkeypatch.setattr(live, "open_weight_store", spy)
    settings = Settings(data_dir=tmp_path, versions_all_minutes=90, versions_hourly_days=3)
    with pytest.raises(StoreError, match="seen"):
        live.run(settings, threading.Event())
    assert opened == [Keeping(90 * MINUTE, DAY, 3 * DAY)]


def test_the_budget_drops_the_oldest_checkpoints_first() -> None:
    named = {1: {"a", "s"}, 2: {"b", "s"}, 3: {"c", "s"}, 4: {"d", "s"}}
    sizes = dict.fromkeys("abcds", 10)
    assert checkpoints_over(named, sizes, set(), 50) == set()
    assert checkpoints_over(named, sizes, set(), 40) == {1}
    assert checkpoints_over(named, sizes, {1}, 40) == {2}
    assert checkpoints_over(named, sizes, set(), 0) == {1, 2}


def test_changes_outlive_two_checkpoints_and_a_minute(store: WeightStore) -> None:
    for v in range(1, 6):
        checkpoint(store, v, {}, {})
    store.thin(30_000)
    assert len(store.changes_since(0) or []) == 5, "a minute has not passed"
    store.thin(100_000)
    assert store.changes_since(0) is None
    assert [v for v, _ in store.changes_since(4) or []] == [5]


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    EmbeddedWeightStore(tmp_path / "t.db").close()
    with sqlite3.connect(tmp_path / "t.db") as db:
        db.execute("UPDATE store_meta SET value = '9' WHERE name = 'format'")
    db.close()
    with pytest.raises(StoreError, match="format 9"):
        EmbeddedWeightStore(tmp_path / "t.db")


def test_a_file_that_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot open"):
        EmbeddedWeightStore(tmp_path / "t.db")


def test_another_process_sees_a_commit_whole(open_store: Callable[[], WeightStore]) -> None:
    store, reader = open_store(), open_store()
    store.commit(version(1), b"x")
    assert reader.changes_since(0) == [(1, b"x")]
