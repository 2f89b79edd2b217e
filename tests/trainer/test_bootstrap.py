"""A model from an archive: the same bits as the trainer that was there, whatever was lost, and live without a gap."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash_child import summary
from learning_kit import END, SMALL, START, crash_log, make_base, shop_records

from features.errors import ArtifactError, Fenced, LogError
from features.event_log import EventLog, open_log
from features.event_log_archive import ArchiveLog
from features.event_log_archive_manifest import Began
from features.event_log_archive_store import ArchiveStore
from features.feature_store import open_feature_store
from features.keys import actor_key
from features.records import NewRecord, event_record
from service.artifact import Artifact
from service.settings import Settings
from service.weight_store import WeightStore, open_weight_store
from tests.conftest import fresh_tenant
from trainer.archive.bootstrap import Bootstrap
from trainer.archive.sink import Sink
from trainer.archive.users import UserRebuild
from trainer.fence import Fence
from trainer.log_times import read_events, split_times
from trainer.online import OnlineTrainer, no_base

CUT = 40
SECONDS = 250


@dataclass
class Shop:
    """A log that was learned, its archive, and what the trainer was at the end."""

    place: Path
    artifact: Artifact
    truth: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.place / "archive")

    def copy(self, to: Path) -> Path:
        """The log alone, somewhere else: the weights are lost."""
        shutil.copytree(self.place / "log", to / "log")
        return to / "log"


def settings_of(log: Path, **more: Any) -> Settings:
    return Settings(data_dir=log, max_items=2_000, join_capacity=2_000, **more)


@contextmanager
def opened(log: Path, weights: Path) -> Iterator[tuple[EventLog, WeightStore]]:
    """The log of a directory and a weight store that lies elsewhere."""
    store = open_weight_store(weights, writer=True)
    with closing(open_log(settings_of(log), lambda: END)) as event_log, closing(store):
        yield event_log, store


def follow(
    log: EventLog, store: WeightStore, artifact: Artifact, cuts: int = 1 << 30, base_of: Any = no_base, **rules: Any
) -> dict[str, Any]:
    """Learn live, in cuts of a fixed number of records; what the trainer then is."""
    trainer = OnlineTrainer(
        log, store, artifact, settings_of(Path("unused"), **rules), clock=lambda: END, cadence=lambda: 0,
        realtime=SMALL, max_records=CUT, base_of=base_of,
    )  # fmt: skip
    trainer.start()
    while cuts and trainer.tick():
        cuts -= 1
    return summary(trainer, store) | {"watermark": trainer.core.watermark, "offsets": trainer.core.offsets}


def learned(log: EventLog, store: WeightStore, artifact: Artifact) -> dict[str, Any]:
    """As `follow`, with an operator's rollback and pin on the way."""
    follow(log, store, artifact, cuts=8)
    for kind, body in (("rollback", b'{"v":1,"to":5,"skip":null,"by":"test"}'), ("pin", b'{"v":1,"version":7}')):
        log.append("control", [NewRecord(kind, "default", 0, "c", body)])
    return follow(log, store, artifact)


def archive(log: EventLog, url: str, artifact: Artifact) -> Sink:
    import msgspec

    from trainer.rules import Rules

    rules = msgspec.structs.asdict(Rules.of(settings_of(Path("unused"))))
    sink = Sink(log, ArchiveStore(url), began=Began(artifact.sha256, rules), clock=lambda: END, rows=500)
    sink.catch_up()
    return sink


def rebuild(
    log: EventLog, store: WeightStore, url: str, artifact: Artifact, rules: dict[str, Any] | None = None, **more: Any
) -> Bootstrap:
    with closing(ArchiveLog(url)) as found:
        made = Bootstrap(
            found, log, store, artifact, settings_of(Path("unused"), **(rules or {})), clock=lambda: END,
            realtime=SMALL, max_records=CUT, **more,
        )  # fmt: skip
        made.answer = made.run()  # type: ignore[attr-defined]
    return made


def same(found: dict[str, Any], truth: dict[str, Any]) -> None:
    assert found == truth


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    place = tmp_path_factory.mktemp("shop")
    artifact = make_base(place / "base")
    crash_log(place / "log", artifact, SECONDS)
    with opened(place / "log", place / "weights") as (log, store):
        truth = learned(log, store, artifact)
        archive(log, str(place / "archive"), artifact)
    return Shop(place, artifact, truth)


def test_followed_cuts_give_every_bit_again_and_live_goes_on(shop: Shop, tmp_path: Path) -> None:
    assert shop.truth["v"] > 30
    assert shop.truth["counts"]["rollbacks"] >= 2, "the operator's and the gate's"
    with opened(shop.copy(tmp_path), tmp_path / "weights") as (log, store):
        made = rebuild(log, store, shop.url, shop.artifact)
        assert made.answer["follows_cuts"] is True  # type: ignore[attr-defined]
        assert made.answer["hash"] == shop.truth["hash"]  # type: ignore[attr-defined]
        assert store.get(5).v == 5, "a rollback named it"
        assert store.pinned() == 7
        checkpoint = store.latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.version == shop.truth["v"]
        assert len(store.versions(1_000)) < 20, "of all versions few are written"
        before = log.end_offsets()
        same(follow(log, store, shop.artifact), shop.truth)
        assert log.end_offsets() == before, "nothing is asked for or complained of twice"


def test_cuts_that_thin_are_followed_to_the_bit(tmp_path: Path) -> None:
    artifact, url = make_base(tmp_path / "base"), str(tmp_path / "archive")
    crash_log(tmp_path / "log", artifact, 100)
    with opened(tmp_path / "log", tmp_path / "lost") as (log, store):
        truth = follow(log, store, artifact, thin_to=0.25, thin_after_ms=1_000)
        archive(log, url, artifact)
    assert truth["counts"]["thinned"] > 100
    with opened(tmp_path / "log", tmp_path / "weights") as (log, store):
        made = rebuild(log, store, url, artifact)
        assert made.answer["hash"] == truth["hash"]  # type: ignore[attr-defined]
        same(follow(log, store, artifact), truth)


def test_it_begins_with_the_base_and_the_rules_of_old(shop: Shop, tmp_path: Path) -> None:
    """Both have changed since: what changed them are records, what they were stands in the manifest."""
    first, second, url = shop.artifact, make_base(tmp_path / "second", seed=8), str(tmp_path / "archive")
    rules = {"negative_after_ms": 9_000, "learning_rate": 0.1}
    bases = {one.sha256: one for one in (first, second)}
    crash_log(tmp_path / "log", first, 120)
    with opened(tmp_path / "log", tmp_path / "lost") as (log, store):
        follow(log, store, first, cuts=6)
        sink = archive(log, url, first)
        truth = follow(log, store, second, base_of=bases.get, **rules)
        assert sink.catch_up() > 10  # cuts and control records
    with opened(tmp_path / "log", tmp_path / "weights") as (log, store):
        made = rebuild(log, store, url, second, rules, base_of=bases.get)
        assert made.answer["hash"] == truth["hash"]  # type: ignore[attr-defined]
        same(follow(log, store, second, base_of=bases.get, **rules), truth)
    with opened(tmp_path / "log", tmp_path / "third") as (log, store), pytest.raises(ArtifactError, match="began with"):
        rebuild(log, store, url, second, rules)


def more_events(log: EventLog, artifact: Artifact) -> None:
    for _, stream, records in shop_records(artifact, 20, seed=9):
        log.append(stream, [one._replace(timestamp=one.timestamp + 300_000) for one in records])  # type: ignore[arg-type]


def test_after_the_seam_it_learns_as_the_old_one_would_have(shop: Shop, tmp_path: Path) -> None:
    found = []
    for name in ("old", "rebuilt"):
        with opened(shop.copy(tmp_path / name), tmp_path / name / "weights") as (log, store):
            if name == "old":
                follow(log, store, shop.artifact)  # from its cuts
            else:
                rebuild(log, store, shop.url, shop.artifact)
            more_events(log, shop.artifact)
            found.append(follow(log, store, shop.artifact))
    assert found[0]["v"] > shop.truth["v"] + 2
    same(found[1], found[0])


def test_an_archive_that_lags_and_a_log_that_has_expired_meet(shop: Shop, tmp_path: Path) -> None:
    """The archive ends in the middle; what it holds has expired from the log, what follows lies there alone."""
    artifact = shop.artifact
    crash_log(tmp_path / "log", artifact, SECONDS)
    with opened(tmp_path / "log", tmp_path / "lost") as (log, store):
        follow(log, store, artifact, cuts=25)
        half = archive(log, str(tmp_path / "archive"), artifact)
        some = dict(half.manifest.offsets)
        truth = follow(log, store, artifact)
    with closing(open_log(settings_of(tmp_path / "log", event_retention_days=0.001), lambda: END)) as log:
        cut = log.read("cut", 25)[0]
        seam = {name: min(at, json.loads(cut.body)["offsets"].get(name, at)) for name, at in some.items()}
        log.retain(END + 200 * 86_400_000, seam)
        assert log.start_offsets()["event/0"] > 100
    with opened(tmp_path / "log", tmp_path / "weights") as (log, store):
        with pytest.raises(LogError):
            follow(log, open_weight_store(tmp_path / "none"), artifact)
        made = rebuild(log, store, str(tmp_path / "archive"), artifact)
        assert made.answer["hash"] == truth["hash"]  # type: ignore[attr-defined]
        same(follow(log, store, artifact), truth)


def test_without_the_cuts_of_old_it_chooses_its_own_and_every_event_counts_once(shop: Shop, tmp_path: Path) -> None:
    log_dir = shop.copy(tmp_path)
    with opened(log_dir, tmp_path / "weights") as (log, store):
        store_url = str(tmp_path / "archive")
        sink = archive(log, store_url, shop.artifact)
        late = sink.manifest
        import msgspec

        number = late.number + 1  # as of a sink that began when the first cuts had expired
        starts = {**late.starts, "cut/0": 7}
        sink.store.commit(msgspec.structs.replace(late, number=number, starts=starts), ())
        from features.event_log_sqlite import table

        with log._files["cut"].transaction() as w:  # type: ignore[attr-defined]
            w.execute(f"DELETE FROM {table('cut')} WHERE offset < 7")
            w.execute("UPDATE log_ends SET first = 7 WHERE stream = 'cut'")
        cuts = log.end_offsets()["cut/0"]
        made = rebuild(log, store, store_url, shop.artifact)
        assert made.answer["follows_cuts"] is False  # type: ignore[attr-defined]
        first = store.versions_after(0)[0]
        assert (first.v, first.kind) == (cuts + 1, "start"), "numbers go on where the old ones ended"
        found = follow(log, store, shop.artifact)
        assert found["totals"] == {**shop.truth["totals"], "control": found["totals"]["control"]}
        for name in ("joined", "duplicates", "reconstructed", "unmapped"):
            assert found["counts"].get(name) == shop.truth["counts"].get(name), name
        assert found["catalogue"] == shop.truth["catalogue"]
        again = tmp_path / "again"
        with closing(open_weight_store(again, writer=True)) as other:
            pass
        same(follow(log, store, shop.artifact), found)
        assert other is not store


@pytest.mark.parametrize(("step", "occurrence"), [(3, 30), (4, 3), (6, 40)])
def test_a_bootstrap_that_was_killed_goes_on(shop: Shop, tmp_path: Path, step: int, occurrence: int) -> None:
    log_dir, counted = shop.copy(tmp_path), 0

    def steps(number: int) -> None:
        nonlocal counted
        counted += number == step
        if number == step and counted == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            with opened(log_dir, tmp_path / "weights") as (log, store):
                clock = iter(range(0, 1 << 40, 4_000))  # a checkpoint every three cuts
                rebuild(log, store, shop.url, shop.artifact, steps=steps, cadence=lambda: next(clock))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with opened(log_dir, tmp_path / "weights") as (log, store):
        made = rebuild(log, store, shop.url, shop.artifact)
        assert made.answer["hash"] == shop.truth["hash"]  # type: ignore[attr-defined]
        same(follow(log, store, shop.artifact), shop.truth)


def test_what_does_not_fit_is_refused_with_what_was_found(shop: Shop, tmp_path: Path) -> None:
    other = tmp_path / "other"
    crash_log(other, shop.artifact, 5)
    with opened(other, tmp_path / "weights") as (log, store):
        with pytest.raises(LogError, match="not the one that was archived") as refused:
            rebuild(log, store, shop.url, shop.artifact)
        assert "event" in (refused.value.value or "")
        assert "train --from-archive" in (refused.value.hint or "")
        assert store.latest() is None
    for change, says in (
        ("first = next, next = next + 5", None),
        ("first = next + 5, next = next + 9", "what lies between has expired"),
        ("next = next - 5", "the log ends at"),
    ):
        log_dir = shop.copy(tmp_path / str(abs(hash(change))))
        with opened(log_dir, tmp_path / "weights") as (log, store):
            with log._files["event"].transaction() as w:  # type: ignore[attr-defined]
                w.execute(f"UPDATE log_ends SET {change} WHERE stream = 'event'")
            if says is None:
                rebuild(log, store, shop.url, shop.artifact)
                store.close()
                (tmp_path / "weights" / "trainer.db").unlink()
                continue
            with pytest.raises(LogError, match=says):
                rebuild(log, store, shop.url, shop.artifact)


def test_a_lost_disk_is_an_empty_log_that_goes_on_where_the_archive_ends(shop: Shop, tmp_path: Path) -> None:
    with opened(tmp_path / "new", tmp_path / "weights") as (log, store):
        assert restored(log, shop) == ["event", "served", "cut", "control"]
        made = rebuild(log, store, shop.url, shop.artifact)
        assert made.answer["hash"] == shop.truth["hash"]  # type: ignore[attr-defined]
        more_events(log, shop.artifact)
        found = follow(log, store, shop.artifact)
        assert found["totals"]["event"] == shop.truth["totals"]["event"] + log.end_offsets()["event/0"] - (
            log.start_offsets()["event/0"]
        )
        assert restored(log, shop) == [], "once"
        assert Sink(log, ArchiveStore(str(shutil.copytree(shop.url, tmp_path / "copy")))).catch_up() > 0
    log_dir = shop.copy(tmp_path)
    for path in log_dir.glob("trainer.db*"):
        path.unlink()
    with opened(log_dir, tmp_path / "again") as (log, store):
        assert restored(log, shop) == ["cut", "control"], "the events are there"
        assert rebuild(log, store, shop.url, shop.artifact).answer["hash"] == shop.truth["hash"]  # type: ignore[attr-defined]
    crash_log(tmp_path / "other", shop.artifact, 5)
    with opened(tmp_path / "other", tmp_path / "third") as (log, _), pytest.raises(LogError, match="and not empty"):
        restored(log, shop)


def restored(log: EventLog, shop: Shop) -> list[str]:
    from features.event_log_restore import restore_log

    with closing(ArchiveLog(shop.url)) as found:
        return restore_log(log, found.manifest.log, found.manifest.offsets)


def test_training_reads_the_same_events_from_the_archive(shop: Shop) -> None:
    with closing(open_log(settings_of(shop.place / "log"))) as log, closing(ArchiveLog(shop.url)) as found:
        clean = [one for one in log.read("event", 0) if one.body[:1] == b"{"]
        assert len(clean) > 1_000
        until = clean[-1].effective_time  # the last record is no event at all
        assert list(read_events(found, until)) == list(read_events(log, until))
        assert split_times(found, 3, until) == split_times(log, 3, until)


# Redis lost whole


def repl(*words: str, **environment: str) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.cli", *words, "--json"], cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, **environment}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def states(settings: Settings, users: list[str]) -> list[bytes | None]:
    with closing(open_feature_store(settings)) as store:
        return [None if (state := store.get(actor_key(user, None))) is None else state.encode() for user in users]


def test_redis_lost_whole_is_rebuilt_from_archive_and_log(shop: Shop, tmp_path: Path, redis_url: str) -> None:
    """The commands that an operator runs, on a real Redis whose keys are gone."""
    import redis

    tenant, log_dir = fresh_tenant(), shop.copy(tmp_path)
    shutil.copytree(shop.place / "base", log_dir / "base" / shop.artifact.sha256)
    (log_dir / "base" / "current").write_text(shop.artifact.sha256)
    url = str(tmp_path / "archive")
    places = {"REPL_WEIGHTS_URL": redis_url, "REPL_USER_STATES_URL": redis_url, "REPL_TENANT": tenant,
              "REPL_MAX_ITEMS": "2000", "REPL_JOIN_CAPACITY": "2000"}  # fmt: skip
    settings = settings_of(log_dir, weights_url=redis_url, user_states_url=redis_url, tenant=tenant)
    (log_dir / "trainer.db").unlink()  # cuts and control of another realtime config: learned anew below
    with closing(open_log(settings)) as log, closing(open_weight_store(settings, writer=True)) as store:
        trainer = OnlineTrainer(log, store, shop.artifact, settings, max_records=200)
        trainer.start()
        while trainer.tick():
            continue
        truth = store.latest()
    assert truth is not None
    assert repl("archive", "--to", url, "--once", "--data-dir", str(log_dir), **places)["parts"] >= 4
    assert repl("bootstrap", "--archive", url, "--part", "users", "--data-dir", str(log_dir), **places)["users"]
    users = [f"u{n}" for n in range(20)]
    known = states(settings, users)
    assert all(known)
    client = redis.Redis.from_url(redis_url)
    keys = [key for key in client.scan_iter(count=1_000) if tenant.encode() in key]
    assert len(keys) > 20
    client.delete(*keys)
    client.close()
    assert states(settings, users) == [None] * 20
    answer = repl("bootstrap", "--archive", url, "--data-dir", str(log_dir), **places)
    assert (answer["weights"]["version"], answer["weights"]["hash"]) == (truth.v, truth.hash)
    assert answer["weights"]["follows_cuts"] is True
    assert states(settings, users) == known
    with closing(open_log(settings)) as log, closing(open_weight_store(settings, writer=True)) as store:
        trainer = OnlineTrainer(log, store, shop.artifact, settings)
        trainer.start()
        assert trainer.differing == []
        log.append("event", [event_record_of("late")])
        trainer.tick()
        latest = store.latest()
        assert latest is not None
        assert latest.v == truth.v + 1
        assert latest.offsets["event/0"] == truth.offsets["event/0"] + 1


def event_record_of(name: str) -> Any:
    from features.events import InteractionEvent

    return event_record(InteractionEvent(id=name, timestamp=START, type="click", item="i1", user="u1"))


def test_a_trainer_at_work_is_not_disturbed(shop: Shop, tmp_path: Path) -> None:
    from trainer.archive.bootstrap import bootstrap_weights

    settings = settings_of(shop.copy(tmp_path))
    with (
        closing(Fence(settings.data_dir)),
        closing(open_log(settings)) as log,
        pytest.raises(Fenced, match="another trainer"),
    ):
        bootstrap_weights(settings, shop.url, log)


def test_user_states_are_those_of_the_ranker(shop: Shop, tmp_path: Path) -> None:
    """Against the ranker's own consumer, on the same log; twice: the second time there is nothing to do."""
    import threading

    from features.catalogue import Catalogue
    from service.log_positions import positions_in
    from service.metrics import Metrics
    from service.shared_users import SharedUserStates
    from service.user_state_consumer import UserStateConsumer

    artifact, users = shop.artifact, [f"u{n}" for n in range(20)]
    schema = artifact.schema
    ours, theirs = (settings_of(tmp_path / name) for name in ("ours", "theirs"))
    with (
        closing(open_log(settings_of(shop.copy(tmp_path)), lambda: END)) as log,
        closing(open_feature_store(theirs)) as store,
    ):
        shared = SharedUserStates(store, 1_000, theirs.history)
        catalogue = Catalogue(schema, 2_000)
        consumer = UserStateConsumer(
            log, schema, shared, catalogue, None, None, ({}, {}), threading.Lock(), Metrics(), lambda: END
        )
        while consumer.step():
            continue
        consumer._write(force=True)
    with closing(ArchiveLog(shop.url)) as found, closing(open_feature_store(ours)) as store:
        mine = Catalogue(schema, 2_000)
        made = UserRebuild(found, store, schema, ours, mine).run()
        assert made["interactions"] > 500
        assert positions_in(store.offsets(), 0) == {"event/0": found.end_offsets()["event/0"]}
        again = UserRebuild(found, store, schema, ours, None).run()
        assert again["interactions"] == 0
    assert mine.digest() == catalogue.digest()
    assert states(ours, users) == states(theirs, users)


@pytest.mark.parametrize("networked", [False, True])
def test_a_deleted_user_is_not_brought_back_by_a_ranker_that_is_behind(
    shop: Shop, tmp_path: Path, redis_url: str, networked: bool
) -> None:
    """As the ranker's own consumer leaves it: an empty state with its place; in SQLite (one writer) none."""
    from features.events import InteractionEvent, UserEvent
    from features.feature_store import UserStates

    place = tmp_path / "log"
    more = {"user_states_url": redis_url, "tenant": fresh_tenant()} if networked else {}
    settings, key = settings_of(place, **more), actor_key("gone", None)
    clicks = [
        InteractionEvent(id=f"c{n}", timestamp=START + n, type="click", item=f"i{n}", user="gone") for n in range(3)
    ]
    deletion = UserEvent(id="d", timestamp=START + 9, user="gone", op="delete")
    with closing(open_log(settings, lambda: END)) as log:
        log.append("event", [event_record(one) for one in (*clicks, deletion)])
        archive(log, str(tmp_path / "archive"), shop.artifact)
    with closing(ArchiveLog(str(tmp_path / "archive"))) as found, closing(open_feature_store(settings)) as store:
        made = UserRebuild(found, store, shop.artifact.schema, settings, None).run()
        assert (made["interactions"], made["deleted"]) == (3, 1)
        behind = UserStates(store, 10, settings.history)
        late = behind.get_or_new(key)
        if networked:
            assert (len(late), late.offset) == (0, 4), "through the place of the deletion"
            assert not late.append(1, 1, START, 2), "what came before it is not taken again"
        else:
            assert store.get(key) is None
