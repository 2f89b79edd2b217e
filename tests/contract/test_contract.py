"""Rankers and trainers of every release and of this one work together: what older ones wrote is read and gone on from.

Each directory tests/contract/RELEASE was written by that release (`make.py`). Bits are compared where the machine is of
the kind that wrote them and the release is this one; else weights within the tolerance of `versions verify`.
"""

from __future__ import annotations

import base64
import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from kafka import KafkaProducer

from features import events
from features.catalogue import Catalogue
from features.event_log import EventLog, make_kafka_topics, open_log
from features.event_log_archive import ArchiveLog
from features.feature_store import open_feature_store
from features.keys import actor_key
from features.ops import Ops
from features.records import STREAMS, Cut, ServedRecord, decode_token
from features.user_state import UserState
from features.user_state_bytes import FORMAT as USER_STATE
from service.artifact import Artifact, load_artifact
from service.local_copy import LocalCopy
from service.settings import Settings
from service.testkit import ManualClock, ReplService
from service.weight_store import WeightStore, decode_weights, open_weight_store
from service.weight_version import read_alongside
from tests.conftest import fresh_tenant
from tests.contract.kit import (
    FORMATS,
    HERE,
    SMALL,
    START,
    STRUCTS,
    fields_of,
    load_dump,
    machine,
    release,
    settings_of,
    unpacked,
)
from trainer.archive.bootstrap import Bootstrap
from trainer.online import OnlineTrainer
from trainer.verify import TOLERANCE

RELEASES = sorted(path.name for path in HERE.iterdir() if path.name[:1].isdigit())
REMADE = "the form of {} has changed and its number has not: raise it, and let this code read both"


@dataclass(frozen=True)
class Fixture:
    """One release's, unpacked; `place` is not to be written."""

    place: Path
    expected: dict[str, Any]

    @property
    def base(self) -> Artifact:
        return load_artifact(self.place / "base")

    @property
    def exact(self) -> bool:
        """Whether bits are to be the same."""
        return bool(self.expected["machine"] == machine() and self.expected["release"] == release())

    def shop(self, to: Path) -> Path:
        """A copy of the data directory, to work on."""
        return Path(shutil.copytree(self.place / "shop", to / "shop"))

    def messages(self) -> list[dict[str, Any]]:
        """Records as Kafka messages."""
        found: list[dict[str, Any]] = json.loads((self.place / "kafka.json").read_text())
        return found


@pytest.fixture(scope="module", params=RELEASES)
def fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    place = unpacked(HERE / request.param, tmp_path_factory.mktemp(f"release-{request.param}"))
    return Fixture(place, json.loads((place / "expected.json").read_text()))


def holds(found: Any, wanted: Any) -> bool:
    """Is everything that was there still there? (Later releases may know more members.)"""
    if isinstance(wanted, dict):
        known = isinstance(found, dict) and wanted.keys() <= found.keys()
        return known and all(holds(found[name], one) for name, one in wanted.items())
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(holds, found, wanted))
    return bool(found == wanted)


def meaning(stream: str, kind: str, body: bytes) -> Any:
    """A body as plain values, by this code."""
    if stream == "event":
        return msgspec.to_builtins(events.from_bytes(body))
    if stream == "served":
        found = ServedRecord.from_bytes(body)
        return msgspec.to_builtins(found) | {"z_rows": found.z_rows().tolist(), "score_row": found.score_row().tolist()}
    return msgspec.to_builtins(Cut.from_bytes(body)) if stream == "cut" else json.loads(body)


def all_records(log: EventLog) -> list[dict[str, Any]]:
    found = [record for stream in STREAMS for record in log.read(stream, 0)]
    return [one._asdict() | {"body": base64.b64encode(one.body).decode()} for one in found]


# what it means


def test_the_directory_of_a_release_is_small() -> None:
    assert RELEASES
    for name in RELEASES:
        assert sum(path.stat().st_size for path in (HERE / name).rglob("*") if path.is_file()) <= 300_000


def test_every_record_of_the_log_is_read_as_it_was_meant(fixture: Fixture, tmp_path: Path) -> None:
    messages = fixture.messages()
    kinds = {(one["record"]["stream"], one["record"]["kind"]) for one in messages}
    assert {stream for stream, _ in kinds} == set(STREAMS)
    assert {"item", "user", "identify", "ranking", "interaction", "blank"} <= {kind for _, kind in kinds}
    with closing(open_log(settings_of(fixture.shop(tmp_path), fixture.place / "base"))) as log:
        assert all_records(log) == [one["record"] for one in messages]
    for one in messages:
        if one["meaning"] is not None:
            record = one["record"]
            found = meaning(record["stream"], record["kind"], base64.b64decode(record["body"]))
            assert holds(found, one["meaning"]), record


def test_the_archive_gives_the_same_records(fixture: Fixture) -> None:
    with closing(ArchiveLog(str(fixture.place / "archive"))) as archive:
        ends = archive.manifest.offsets
        records = [one["record"] for one in fixture.messages()]
        wanted = [one for one in records if one["offset"] < ends.get(f"{one['stream']}/0", 0)]
        assert len(wanted) > 100
        found = [record for stream in STREAMS if stream != "dead-letter" for record in archive.read(stream, 0)]
        assert [one._asdict() | {"body": base64.b64encode(one.body).decode()} for one in found] == wanted


def test_user_states_of_all_formats_are_read_and_the_newest_is_still_written(fixture: Fixture) -> None:
    formats = set()
    for row in fixture.expected["users"]:
        body = base64.b64decode(row["body"])
        state = UserState.decode(body)
        assert (state.key, state.offset) == (row["key"], row["offset"])
        for name in ("items", "times", "kinds"):
            assert getattr(state, name).tolist() == row[name]
        if body[0] == USER_STATE:
            assert state.encode() == body, REMADE.format("user states")
        formats.add(body[0])
    assert formats >= {1, 2}


def test_small_forms(fixture: Fixture) -> None:
    token, alongside = fixture.expected["token"], fixture.expected["alongside"]
    assert decode_token(token["text"]) == token["offsets"]
    _, beside = read_alongside(base64.b64decode(alongside["body"]))
    assert holds(msgspec.to_builtins(beside), alongside["beside"])


def test_changes_are_read_and_written_as_they_were(fixture: Fixture, tmp_path: Path) -> None:
    with closing(open_weight_store(fixture.shop(tmp_path))) as store:
        bodies = [body for v in range(2, fixture.expected["next"]["versions"][0]["v"]) for body in changes_of(store, v)]
    assert sum(len(Ops.from_bytes(body)) for body in bodies) > 50
    if fixture.expected["formats"]["changes"] == FORMATS["changes"]:
        assert [Ops.from_bytes(body).to_bytes() for body in bodies] == bodies, REMADE.format("changes")


def changes_of(store: WeightStore, v: int) -> list[bytes]:
    return [body for number, body in store.changes_since(v - 1) or [] if number == v and body]


def test_the_local_copy_is_served(fixture: Fixture) -> None:
    (copied,) = LocalCopy(fixture.place / "shop" / "local-copy").load()
    newest = copied.latest()
    assert newest is not None
    assert newest.hash == fixture.expected["next"]["versions"][0]["hash"]
    checkpoint = copied.latest_checkpoint()
    assert checkpoint is not None
    assert "globals" in copied.load_chunks(checkpoint, "realtime/")


# trainers and rankers


def trained(log: EventLog, store: WeightStore, fixture: Fixture) -> OnlineTrainer:
    """This code's trainer from the fixture's checkpoint (or the first cut), over the versions that followed there."""
    clock = ManualClock(START + 9_000)
    settings = settings_of(Path("unused"), fixture.place / "base")
    trainer = OnlineTrainer(log, store, fixture.base, settings, clock=clock, realtime=SMALL)
    trainer.start()
    while trainer.core.v < fixture.expected["next"]["versions"][-1]["v"]:
        trainer.tick()
        clock.advance(5_000)
    return trainer


def as_it_was(trainer: OnlineTrainer, store: WeightStore, fixture: Fixture) -> None:
    """The same versions as the trainer of that release made next."""
    wanted = fixture.expected["next"]
    if fixture.exact:
        again = "if learning was changed on purpose before this release: python -m tests.contract.make --again"
        assert trainer.differing == []
        kept = {one.v: one.hash for one in store.versions(100)}  # a bootstrap writes few of them
        hashes = {one["v"]: one["hash"] for one in wanted["versions"]}
        assert {v: kept.get(v, digest) for v, digest in hashes.items()} == hashes, again
        assert max(kept) == max(hashes)
        assert (trainer.core.realtime.digest(), trainer.core.catalogue.digest()) == (
            wanted["counters"], wanted["catalogue"],
        )  # fmt: skip
    last = store.latest()
    assert last is not None
    ends = decode_weights(last.weights), decode_weights(base64.b64decode(wanted["versions"][-1]["weights"]))
    for head, weights in ends[1].items():
        assert np.abs(ends[0][head] - weights).max() <= TOLERANCE, head
    assert holds(dict(trainer.core.learning.join.counts), wanted["counts"])
    assert trainer.core.totals == wanted["totals"]


def test_a_trainer_goes_on_from_the_checkpoint(fixture: Fixture, tmp_path: Path) -> None:
    shop = fixture.shop(tmp_path)
    with (
        closing(open_log(settings_of(shop, fixture.place / "base"))) as log,
        closing(open_weight_store(shop, writer=True)) as store,
    ):
        checkpoint = store.latest_checkpoint()
        assert checkpoint is not None
        assert 1 < checkpoint.version < fixture.expected["next"]["versions"][0]["v"]
        catalogue = Catalogue(fixture.base.schema, SMALL.max_items)
        catalogue.restore(store.load_chunks(checkpoint, "catalogue/"))
        stored = store.load_chunks(checkpoint, "catalogue/")
        if fixture.expected["formats"]["catalogue chunk"] == FORMATS["catalogue chunk"]:
            written = {f"rows/{k}": catalogue._chunk(k) for k in range(len(stored))}
            assert written == stored, REMADE.format("catalogue chunks")
        as_it_was(trained(log, store, fixture), store, fixture)


def test_a_trainer_learns_all_of_it_again_from_the_log_and_from_the_archive(fixture: Fixture, tmp_path: Path) -> None:
    settings = settings_of(fixture.shop(tmp_path), fixture.place / "base")
    with closing(open_log(settings)) as log, closing(open_weight_store(tmp_path / "again", writer=True)) as store:
        as_it_was(trained(log, store, fixture), store, fixture)
    settings = settings_of(fixture.shop(tmp_path / "two"), fixture.place / "base")
    with (
        closing(open_log(settings)) as log,
        closing(open_weight_store(tmp_path / "built", writer=True)) as store,
        closing(ArchiveLog(str(fixture.place / "archive"))) as archive,
    ):
        Bootstrap(archive, log, store, fixture.base, settings, clock=ManualClock(START + 9_000), realtime=SMALL).run()
        latest = store.latest()
        assert latest is not None
        if fixture.exact:
            assert latest.hash == fixture.expected["next"]["versions"][0]["hash"]
        as_it_was(trained(log, store, fixture), store, fixture)


def served(settings: dict[str, Any], shop: Path, fixture: Fixture) -> None:
    """This code's ranker answers as that of the release did."""
    wanted = fixture.expected["answer"]
    service = ReplService(shop, ManualClock(START + 8_000), **settings)
    try:
        service.settle()
        found = service.rank([f"i{k}" for k in range(9)], user="u3", after=fixture.expected["last_token"])
    finally:
        service.stop()
    assert (found["version"], found["base"], found["ids"]) == (wanted["version"], wanted["base"], wanted["ids"])
    assert found["scores"] == pytest.approx(wanted["scores"], abs=1e-5)


@pytest.mark.parametrize("left", ["everything", "log and weights"])
def test_a_ranker_serves_it(fixture: Fixture, tmp_path: Path, left: str) -> None:
    shop = fixture.shop(tmp_path)
    if left != "everything":
        for name in ("state.db", "catalogue.db"):
            (shop / name).unlink()
    served(ranker_settings(fixture), shop, fixture)


def ranker_settings(fixture: Fixture) -> dict[str, Any]:
    given = settings_of(fixture.place, fixture.place / "base").model_dump(exclude_unset=True)
    return {name: value for name, value in given.items() if name not in ("data_dir", "checkpoint_every_ms")}


def test_redis_is_read_served_and_gone_on_from(fixture: Fixture, tmp_path: Path, redis_url: str) -> None:
    tenant = fresh_tenant()
    with closing(redis.Redis.from_url(redis_url)) as client:
        load_dump(client, json.loads((fixture.place / "redis.json").read_text()), tenant)
    shop = fixture.shop(tmp_path)
    given = {"weights_url": redis_url, "user_states_url": redis_url, "tenant": tenant}
    settings = Settings.model_validate(settings_of(shop, fixture.place / "base").model_dump(exclude_unset=True) | given)
    with closing(open_feature_store(settings)) as users:
        for row in fixture.expected["users"]:
            state = users.get(row["key"])
            assert state is not None
            assert [state.items.tolist(), state.times.tolist()] == [row["items"], row["times"]]
        assert users.get(actor_key("nobody", None)) is None
    served(ranker_settings(fixture) | given, shop, fixture)
    with closing(open_log(settings_of(fixture.shop(tmp_path / "trainer"), fixture.place / "base"))) as log:
        store = open_weight_store(settings, writer=True)
        with closing(store):
            assert store.heartbeat() is not None
            assert store.status()["counts"]["shown"] > 0
            as_it_was(trained(log, store, fixture), store, fixture)


def test_kafka_is_read_as_it_was_meant_and_learned_from(fixture: Fixture, tmp_path: Path, kafka_url: str) -> None:
    """The messages as an older ranker and trainer wrote them, in a topic of one partition each."""
    settings = Settings(data_dir=tmp_path, log_url=f"{kafka_url}/{fresh_tenant()}", dedup_hours=24 * 20_000)
    make_kafka_topics(settings, 1, 1)
    with closing(open_log(settings)) as log:
        producer = KafkaProducer(bootstrap_servers=list(log.address.servers))  # type: ignore[attr-defined]
        for one in fixture.messages():
            record = one["record"]
            headers = [(name, base64.b64decode(value)) for name, value in one["headers"]]
            body, topic = base64.b64decode(record["body"]), log.address.topic(record["stream"])  # type: ignore[attr-defined]
            producer.send(topic, body, record["key"].encode(), headers, partition=0).get(10)
        producer.close()
        assert all_records(log) == [one["record"] for one in fixture.messages()]
        with closing(open_weight_store(tmp_path, writer=True)) as store:
            as_it_was(trained(log, store, fixture), store, fixture)


# numbers


def test_a_form_that_has_changed_has_another_number(fixture: Fixture) -> None:
    """No field goes, or means another type, and none that must be there comes, but with a new number of the format."""
    formats = fixture.expected["formats"]
    for name, before in fixture.expected["fields"].items():
        kind, struct = STRUCTS[name]
        now = fields_of(struct)
        if formats[kind] == FORMATS[kind]:
            kept = {field: now.get(field) for field in before}
            assert kept == before, REMADE.format(name)
            new = [field for field in now.keys() - before.keys() if now[field][1]]
            assert not new, f"{name}: {new} must have defaults, or older records cannot be read"
    assert all(FORMATS[name] >= number for name, number in formats.items())


def test_this_release_has_a_fixture() -> None:
    """Whoever raises the version writes the fixture of the new one."""
    assert release() in RELEASES, "python -m tests.contract.make"


