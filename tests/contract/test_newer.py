"""What a later release may write: members that this code does not know are ignored, a newer major is refused by name.

Each case takes real bytes of the newest fixture, adds something, and raises the number. A refusal names the format, the
number that was found and what to do.
"""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from test_contract import RELEASES, Fixture

from features import events
from features.catalogue import Catalogue
from features.errors import ReplError
from features.event_log import open_log
from features.event_log_archive_manifest import Manifest as ArchiveManifest
from features.event_log_archive_parquet import PartFile
from features.event_log_kafka_records import record_of
from features.feature_store import EmbeddedFeatureStore, open_feature_store
from features.ops import Ops
from features.records import Cut, ServedRecord, control_body, decode_token
from features.user_state import UserState
from service.artifact import read_manifest
from service.catalogue_store import CatalogueStore
from service.local_copy import LocalCopy, _read
from service.settings import Settings
from service.weight_redis_keys import seal
from service.weight_store import open_weight_store
from service.weight_version import read_checkpoint
from tests.conftest import fresh_tenant
from tests.contract.kit import HERE, SMALL, load_dump, settings_of, unpacked
from trainer.checkpoint import meta_of, rollout_of

MORE: dict[str, Any] = {"later": {"a": [1, 2]}}
Form = Callable[[int | None], Any]
"""Reads the form with a member more (None), or with this number."""


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    place = unpacked(HERE / RELEASES[-1], tmp_path_factory.mktemp("newest"))
    return Fixture(place, json.loads((place / "expected.json").read_text()))


def raised(body: dict[str, Any], number: int | None, name: str = "v") -> dict[str, Any]:
    """The members with one more, and with another number where one is given."""
    return body | MORE | ({} if number is None else {name: number})


def record(fixture: Fixture, kind: str) -> tuple[dict[str, Any], bytes]:
    found = next(one for one in fixture.messages() if one["record"]["kind"] == kind)
    return found, base64.b64decode(found["record"]["body"])


class Message(msgspec.Struct):
    """A message as kafka-python gives it."""

    value: bytes
    headers: list[tuple[str, bytes]]
    key: bytes = b"k"
    partition: int = 0
    offset: int = 5
    timestamp: int = 1 << 50
    timestamp_type: int = 0


def message(fixture: Fixture, number: int | None) -> Any:
    found, body = record(fixture, "ranking")
    headers = {name: base64.b64decode(value) for name, value in found["headers"]} | {"later": b"x"}
    headers |= {} if number is None else {"v": b"%d" % number}
    made = record_of("event", Message(body, list(headers.items())), "default")
    return made.kind, made.body


def json_form(fixture: Fixture, kind: str, read: Callable[[bytes], Any]) -> Form:
    body = record(fixture, kind)[1]
    return lambda number: read(msgspec.json.encode(raised(json.loads(body), number)))


def served_form(fixture: Fixture) -> Form:
    body = msgspec.msgpack.decode(record(fixture, "served")[1])
    return lambda number: ServedRecord.from_bytes(msgspec.msgpack.encode(raised(body, number)))


def checkpoint_body(fixture: Fixture) -> bytes:
    with closing(sqlite3.connect(fixture.place / "shop" / "trainer.db")) as db:
        body: bytes = db.execute("SELECT manifest FROM checkpoints ORDER BY v DESC LIMIT 1").fetchone()[0]
        return body


def archive_manifest(fixture: Fixture) -> Form:
    (path,) = (fixture.place / "archive" / "manifest").iterdir()
    body = json.loads(path.read_bytes())
    return lambda number: ArchiveManifest.from_bytes(msgspec.json.encode(raised(body, number)), path.name)


def archive_part(fixture: Fixture) -> Form:
    (path,) = (fixture.place / "archive" / "manifest").iterdir()
    part = next(one for one in ArchiveManifest.from_bytes(path.read_bytes(), "m").parts if one.stream == "event")

    def read(number: int | None) -> Any:
        table = pq.read_table(fixture.place / "archive" / part.path, partitioning=None)
        metadata = dict(table.schema.metadata) | ({} if number is None else {b"repl-archive": b"%d" % number})
        table = table.append_column("later", pa.array(["x"] * len(table))).replace_schema_metadata(metadata)
        out = io.BytesIO()
        pq.write_table(table, out)
        file = PartFile(io.BytesIO(out.getvalue()), part)
        return file.records(file.groups[0])

    return read


def token(fixture: Fixture) -> Form:
    body = json.loads(base64.urlsafe_b64decode(fixture.expected["token"]["text"]))
    return lambda number: decode_token(
        base64.urlsafe_b64encode(json.dumps(raised(body, number)).encode()).decode()
    )


def base_manifest(fixture: Fixture, place: Path) -> Form:
    body = json.loads((fixture.place / "base" / "manifest.json").read_bytes())

    def read(number: int | None) -> Any:
        (place / "manifest.json").write_bytes(json.dumps(raised(body, number, "format")).encode())
        return read_manifest(place)[0]

    return read


def changes(fixture: Fixture) -> Form:
    with closing(sqlite3.connect(fixture.place / "shop" / "trainer.db")) as db:
        body = db.execute("SELECT body FROM changes ORDER BY length(body) DESC LIMIT 1").fetchone()[0]

    def read(number: int | None) -> Any:
        longer = bytearray(body + bytes(24))  # a column more, behind those that are known
        longer[4] = longer[4] if number is None else number
        return Ops.from_bytes(bytes(longer)).to_bytes()

    return read


def local_copy(fixture: Fixture, place: Path) -> Form:
    (path,) = (fixture.place / "shop" / "local-copy").glob("*.copy")
    body = msgspec.msgpack.decode(path.read_bytes()[64:], strict=False)

    def read(number: int | None) -> Any:
        made = msgspec.msgpack.encode(raised(body, number, "format"))
        copy = place / path.name
        copy.write_bytes(sha256(made).hexdigest().encode() + made)
        list(LocalCopy(place).load())  # it is logged and left out, never an error of a ranker
        return _read(copy)

    return read


def sqlite_form(path: Path, change: str, read: Callable[[], Any]) -> Form:
    """A file with a table and a row more, then with another number."""

    def changed(number: int | None) -> Any:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS later(name TEXT)")
            if number is not None:
                db.execute(change, (str(number),))
            db.commit()
        return read()

    return changed


def log_file(fixture: Fixture, place: Path) -> Form:
    shop = fixture.shop(place / "log")

    def read() -> Any:
        with closing(open_log(settings_of(shop, fixture.place / "base"))) as log:
            return log.read("event", 0)

    return sqlite_form(shop / "log.db", "UPDATE log_meta SET value = ? WHERE name = 'format'", read)


def weight_file(fixture: Fixture, place: Path) -> Form:
    shop = fixture.shop(place / "weights")
    with closing(sqlite3.connect(shop / "trainer.db")) as db:
        db.execute("ALTER TABLE versions ADD COLUMN later INTEGER DEFAULT 1")

    def read() -> Any:
        with closing(open_weight_store(shop)) as store:
            latest = store.latest()
            assert latest is not None
            found = latest, store.latest_checkpoint(), store.heartbeat(), store.changes_since(latest.v - 1)
            store.commit(msgspec.structs.replace(latest, v=latest.v + 1), b"")  # beside a column that it does not know
            return found

    return sqlite_form(shop / "trainer.db", "UPDATE store_meta SET value = ? WHERE name = 'format'", read)


def state_file(fixture: Fixture, place: Path) -> Form:
    shop = fixture.shop(place / "states")

    def read() -> Any:
        with closing(EmbeddedFeatureStore(shop / "state.db")) as store:
            state = store.get(fixture.expected["users"][1]["key"])
            assert state is not None
            return state.encode()

    return sqlite_form(shop / "state.db", "UPDATE meta SET value = ? WHERE name = 'format'", read)


def catalogue_file(fixture: Fixture, place: Path) -> Form:
    shop = fixture.shop(place / "catalogue")

    def read() -> Any:
        with closing(CatalogueStore(shop / "catalogue.db", fixture.base.sha256)) as store:
            return store.load()[0]

    return sqlite_form(shop / "catalogue.db", "UPDATE meta SET value = CAST(? AS BLOB) WHERE name = 'format'", read)


def catalogue_chunk(fixture: Fixture, place: Path) -> Form:
    with closing(open_weight_store(fixture.shop(place / "chunk"))) as store:
        checkpoint = store.latest_checkpoint()
        assert checkpoint is not None
        body = store.load_chunks(checkpoint, "catalogue/")["rows/0"]

    def read(number: int | None) -> Any:
        catalogue = Catalogue(fixture.base.schema, SMALL.max_items)
        changed = bytearray(body + bytes(16))
        changed[8] = changed[8] if number is None else number
        catalogue.restore({"rows/0": bytes(changed)})
        return catalogue.digest()

    return read


def user_state(fixture: Fixture) -> Form:
    """Packed bit by bit, it has no members: what changes it raises its number."""
    body = base64.b64decode(fixture.expected["users"][-1]["body"])
    return lambda number: UserState.decode(body if number is None else bytes((number,)) + body[1:]).encode()


def forms(fixture: Fixture, place: Path) -> Iterator[tuple[str, int, Form]]:
    """(a word of the refusal, the newer number, the form)."""
    yield "event/0", 2, lambda number: message(fixture, number)
    yield "served record", 2, served_form(fixture)
    yield "cut", 3, json_form(fixture, "cut", Cut.from_bytes)
    control = json_form(fixture, "rollback", lambda body: control_body("rollback", body)["to"])
    yield "control record 'rollback'", 2, control
    yield "checkpoint", 2, lambda number: read_checkpoint(
        msgspec.json.encode(raised(json.loads(checkpoint_body(fixture)), number)), "the weight store"
    )
    yield "0000000000000001.json", 2, archive_manifest(fixture)
    yield "part of the archive", 2, archive_part(fixture)
    yield "token", 2, token(fixture)
    yield "base model format", 2, base_manifest(fixture, place)
    yield "changes of counters", 2, changes(fixture)
    yield "local copy", 2, local_copy(fixture, place)
    yield "log.db", 2, log_file(fixture, place)
    yield "weight store", 2, weight_file(fixture, place)
    yield "feature store", 2, state_file(fixture, place)
    yield "catalogue", 2, catalogue_file(fixture, place)
    yield "chunk of the catalogue", 2, catalogue_chunk(fixture, place)
    yield "user state", 3, user_state(fixture)


CASES = 17


@pytest.mark.parametrize("number", range(CASES))
def test_a_form_of_a_later_release(newest: Fixture, tmp_path: Path, number: int) -> None:
    every = list(forms(newest, tmp_path))
    assert len(every) == CASES
    word, newer, read = every[number]
    with_more = read(None)
    assert holds_content(with_more), word
    with pytest.raises((ReplError, ValueError)) as refused:
        read(newer)
    said = str(refused.value)
    for part in (word, str(newer)):
        assert part in said, said
    assert any(step in said for step in ("update this process", "rebuilt from the log", "train anew")), said


def holds_content(found: Any) -> bool:
    """Is it something that was read?"""
    return found is not None and (not hasattr(found, "__len__") or len(found) > 0)


def test_what_is_ignored_changes_nothing(newest: Fixture, tmp_path: Path) -> None:
    """The same meaning with a member more as without."""
    by_word = {word: read(None) for word, _, read in forms(newest, tmp_path)}
    messages = {one["record"]["kind"]: base64.b64decode(one["record"]["body"]) for one in reversed(newest.messages())}
    assert by_word["event/0"][1] == messages["ranking"]
    assert by_word["served record"] == ServedRecord.from_bytes(messages["served"])
    assert by_word["cut"] == Cut.from_bytes(messages["cut"])
    assert by_word["control record 'rollback'"] == json.loads(messages["rollback"])["to"]
    assert by_word["checkpoint"] == read_checkpoint(checkpoint_body(newest), "it")
    assert by_word["token"] == newest.expected["token"]["offsets"]
    assert by_word["base model format"] == read_manifest(newest.place / "base")[0]
    kinds = [one["record"]["kind"] for one in newest.messages() if one["record"]["stream"] == "event"]
    assert [one.kind for one in by_word["part of the archive"]] == kinds[: len(by_word["part of the archive"])]


def test_an_event_with_members_of_a_later_release(newest: Fixture) -> None:
    for kind in ("item", "user", "identify", "ranking", "interaction"):
        body = record(newest, kind)[1]
        assert events.from_bytes(msgspec.json.encode(raised(json.loads(body), None))) == events.from_bytes(body)


def test_the_trainers_own_chunks_with_members_of_a_later_release(newest: Fixture, tmp_path: Path) -> None:
    with closing(open_weight_store(newest.shop(tmp_path))) as store:
        checkpoint = store.latest_checkpoint()
        assert checkpoint is not None
        chunks = store.load_chunks(checkpoint)
    for name, read in (("meta/state", meta_of), ("rollout/state", rollout_of)):
        body = msgspec.msgpack.decode(chunks[name], strict=False) | MORE
        assert read(chunks | {name: msgspec.msgpack.encode(body)}) == read(chunks)  # type: ignore[operator]


def test_redis_with_members_and_numbers_of_a_later_release(newest: Fixture, tmp_path: Path, redis_url: str) -> None:
    tenant = fresh_tenant()
    given = {"weights_url": redis_url, "user_states_url": redis_url, "tenant": tenant, "data_dir": tmp_path}
    settings, prefix = Settings.model_validate(given), f"repl:{{{tenant}}}"
    with closing(redis.Redis.from_url(redis_url)) as client:
        load_dump(client, json.loads((newest.place / "redis.json").read_text()), tenant)
        with closing(open_weight_store(settings)) as store:
            before = store.latest(), store.heartbeat()
        body: Any = client.get(f"{prefix}:w:latest")
        later = msgspec.msgpack.encode(msgspec.msgpack.decode(body[32:]) | MORE)
        client.set(f"{prefix}:w:latest", seal(later))
        beat: Any = client.hget(f"{prefix}:w:meta", "heartbeat")
        client.hset(f"{prefix}:w:meta", mapping={"heartbeat": json.dumps(json.loads(beat) | MORE), "later": "1"})
        with closing(open_weight_store(settings)) as store:
            assert (store.latest(), store.heartbeat()) == before
        client.hset(f"{prefix}:w:meta", "format", "2")
        client.set(f"{prefix}:u-format", "3")
        for opened, does in ((open_weight_store(settings), "latest"), (open_feature_store(settings), "get")):
            with closing(opened), pytest.raises(ReplError, match=r"format .*[23].*update this process"):  # type: ignore[type-var]
                getattr(opened, does)(*([] if does == "latest" else [7]))


