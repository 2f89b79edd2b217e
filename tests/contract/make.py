"""Writes the contract fixture of this release: real bytes of every stored or public form, and what they mean.

    python -m tests.contract.make            into tests/contract/RELEASE (it must not be there, or --again)

Run it when a release is made (docs/formats.md); what older releases wrote is never written again. It needs a Redis
(`redis-server`) and torch, and reads nothing back: `test_contract.py` does.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainer"))

import json  # noqa: E402

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import redis  # noqa: E402
import torch  # noqa: E402
from learning_kit import Clock, control, items_of, shop_records  # noqa: E402

from deploy.local.servers import Redis  # noqa: E402
from features import events  # noqa: E402
from features.attached import Attached  # noqa: E402
from features.coding import CODING_VERSION  # noqa: E402
from features.event_log import EventLog, open_log  # noqa: E402
from features.event_log_archive_manifest import Began  # noqa: E402
from features.event_log_archive_store import ArchiveStore  # noqa: E402
from features.event_log_kafka_records import headers_of  # noqa: E402
from features.feature_store import EmbeddedFeatureStore, open_feature_store  # noqa: E402
from features.keys import actor_key  # noqa: E402
from features.layout import ZLayout  # noqa: E402
from features.records import (  # noqa: E402
    STREAMS,
    Cut,
    NewRecord,
    Record,
    ServedRecord,
    encode_token,
    event_record,
)
from features.redis_extra import seal_state  # noqa: E402
from features.schema import Schema  # noqa: E402
from features.user_state import UserState  # noqa: E402
from service.artifact import FORMAT, Artifact, Manifest, load_artifact, write_artifact  # noqa: E402
from service.local_copy import LocalCopy  # noqa: E402
from service.testkit import ManualClock, ReplService  # noqa: E402
from service.weight_store import Beside, WeightStore, open_weight_store  # noqa: E402
from tests.contract.kit import (  # noqa: E402
    FORMATS,
    HERE,
    SMALL,
    START,
    STRUCTS,
    dumped,
    fields_of,
    machine,
    packed,
    release,
    settings_of,
    text,
)
from trainer.archive.sink import Sink  # noqa: E402
from trainer.network import Network, NetworkConfig  # noqa: E402
from trainer.online import OnlineTrainer  # noqa: E402
from trainer.onnx_export import graphs  # noqa: E402
from trainer.rules import Rules  # noqa: E402
from trainer.untrained import random_prior, state_arrays  # noqa: E402

SECONDS = 8


def small_base(place: Path) -> Artifact:
    """A base of a few kilobytes: random weights of few values in a narrow network, which compress."""
    torch.manual_seed(5)
    network = Network(NetworkConfig(16, 16, 16, wide=4, hidden=4))
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_((weights * 4).round() / 4)
    arrays, schema = state_arrays(network), Schema.default()
    layout = ZLayout(network.config.hidden, schema)
    manifest = Manifest(
        format=FORMAT, coding=CODING_VERSION, schema=schema.to_dict(), schema_fingerprint=schema.fingerprint,
        hidden=network.config.hidden, layout=list(layout.names), layout_fingerprint=layout.fingerprint, tables={},
        through=0, origin={"data": "none: random weights", "command": "python -m tests.contract.make"},
        weak_heads=["click", "purchase"],
    )  # fmt: skip
    tables = {name: arrays[f"{name}_table"] for name in ("user", "item", "word")}
    prior = random_prior(layout.d, ("click", "purchase"), 5)
    write_artifact(place, manifest, tables=tables, attached=Attached.empty(), prior=prior, graphs=graphs(arrays))
    return load_artifact(place)


def trainer_of(log: EventLog, store: WeightStore, base: Artifact, place: Path, clock: Clock) -> OnlineTrainer:
    return OnlineTrainer(log, store, base, settings_of(place, base.dir), clock=clock, realtime=SMALL)


def marks(base: Artifact) -> dict[int, list[tuple[str, NewRecord]]]:
    """What the seeded shop does not do, by second: each kind of record that is left."""
    stamp, sha = {"timestamp": START, "tenant": "default"}, base.sha256
    about = events.UserEvent(id="about", user="gone", fields={"country": "FI", "visits": 3}, **stamp)
    gone = events.UserEvent(id="gone", user="gone", op="delete", **stamp)
    same = events.IdentifyEvent(id="same", anonymous="s1", user="u1", **stamp)
    lamp = events.ItemEvent(id="lamp", item="i3", op="replace", fields={"title": "grüne Lampe", "tags": ["a", "b"],
                            "size": 2.5, "new": True}, available=False, **stamp)  # fmt: skip
    ended = events.ItemEvent(id="ended", item="i9", op="delete", **stamp)
    visit = events.InteractionEvent(id="visit", type="cart", item="i4", session="s1", **stamp)
    clicks = [
        events.InteractionEvent(id=f"own-{k}", timestamp=START + 1_000 + 7 * k, type=kind, item=f"i{k % 5}", user="u1",
                                fields={"price": 2.5})
        for k, kind in enumerate(("click", "favourite", "purchase") * 3)
    ]  # fmt: skip
    skip = {"from": {"event/0": 3}, "to": {"event/0": 5}}
    return {
        0: [("event", event_record(one)) for one in (about, same, lamp, ended, visit)],
        1: [("event", event_record(one)) for one in clicks],
        2: [("control", control("pin", version=2)), ("control", control("settings", learning_rate=0.9))],
        3: [("control", control("unpin", version=2)), ("control", control("skip", applies_to="counters", **skip))],
        4: [("control", control("base-stage", sha256=sha, url="")), ("control", control("base-revert"))],
        5: [("control", control("base-promote", sha256=sha, percent=100)),
            ("control", control("rollback", to=3, skip=None, applies_to="weights"))],
        6: [("event", event_record(gone)), ("event", NewRecord("ranking", "default", START, "k", b"no event"))],
    }  # fmt: skip


def live(place: Path, base: Artifact) -> None:
    """Some seconds of a shop, learned as they come; then a last ranking and its click that no cut covers yet."""
    clock, due = Clock(), marks(base)
    with closing(open_log(settings_of(place, base.dir), clock)) as log, closing(open_weight_store(place)) as store:
        log.append("event", [event_record(one) for one in items_of(10)])
        trainer = trainer_of(log, store, base, place, clock)
        trainer.start()
        for second in range(SECONDS):
            for stream, record in due.get(second, []):
                log.append(stream, [record])  # type: ignore[arg-type]
            for t, stream, records in shop_records(base, SECONDS, shown=4):
                if second == (t - START) // 1_000:
                    log.append(stream, records)  # type: ignore[arg-type]
            clock.now = START + (second + 1) * 1_000
            trainer.tick()
        store.pin(4)
        store.unpin(4)
        LocalCopy(place / "local-copy").write(store, "realtime/")


def served(place: Path, base: Artifact) -> dict[str, Any]:
    """What a ranker answers over this data directory; it leaves state.db and catalogue.db."""
    shop = ReplService(place, ManualClock(START + SECONDS * 1_000), **ranker_settings(base.dir))
    try:
        shop.settle()
        shown = shop.rank([f"i{k}" for k in range(9)], user="u3")
        click = {"event": "interaction", "type": "click", "user": "u3", "item": "i2", "ranking": shown["request_id"]}
        token = shop.events(
            {"event": "ranking", "id": shown["request_id"], "user": "u3",
             "items": [{"id": one, "position": k + 1} for k, one in enumerate(shown["ids"])]}, click,
        )["token"]  # fmt: skip
        after = shop.rank([f"i{k}" for k in range(9)], user="u3", after=token)
        shop.settle()
        return {"last_token": token, "answer": {name: after[name] for name in ("ids", "scores", "version", "base")}}
    finally:
        shop.stop()
        shutil.rmtree(place / "vectors", ignore_errors=True)
        (place / "admin.key").unlink(missing_ok=True)


def ranker_settings(base: Path) -> dict[str, Any]:
    """The part of the settings that the test kit does not choose."""
    return {"base_dir": base, "hold_ms": 1_000, "negative_after_ms": 3_000, "join_capacity": 200}


def go_on(place: Path, base: Artifact) -> dict[str, Any]:
    """Two more versions, and the chunks of a checkpoint at the end."""
    clock = Clock(START + (SECONDS + 1) * 1_000)
    with closing(open_log(settings_of(place, base.dir), clock)) as log, closing(open_weight_store(place)) as store:
        trainer = trainer_of(log, store, base, place, clock)
        trainer.start()
        stood = trainer.core.v
        for _ in range(2):
            trainer.tick()
            clock.now += 5_000
        found = [store.get(v) for v in (stood, stood + 1, stood + 2)]
        return {
            "versions": [{"v": one.v, "hash": one.hash, "weights": text(one.weights)} for one in found],
            "counters": trainer.core.realtime.digest(), "catalogue": trainer.core.catalogue.digest(),
            "counts": dict(trainer.core.learning.join.counts), "totals": dict(trainer.core.totals),
        }  # fmt: skip


def meaning(record: Record) -> Any:
    """A body as plain values."""
    if record.kind in ("blank",) or record.body == b"no event":
        return None
    if record.stream == "event":
        return msgspec.to_builtins(events.from_bytes(record.body))
    if record.stream == "served":
        found = ServedRecord.from_bytes(record.body)
        return msgspec.to_builtins(found) | {"z_rows": found.z_rows().tolist(), "score_row": found.score_row().tolist()}
    return msgspec.to_builtins(Cut.from_bytes(record.body)) if record.stream == "cut" else json.loads(record.body)


def messages(log: EventLog) -> list[dict[str, Any]]:
    """Every record as its Kafka message, with what it means."""
    found = []
    for stream in STREAMS:
        for record in log.read(stream, 0):
            new = NewRecord(record.kind, record.tenant, record.timestamp, record.key, record.body, record.imported)
            headers = [[name, text(value)] for name, value in headers_of(stream, new, record.append_time)]
            fields = msgspec.to_builtins(record._asdict() | {"body": text(record.body)})
            found.append({"headers": headers, "record": fields, "meaning": meaning(record)})
    return found


def former(key: int) -> bytes:
    """A user state as format 1 wrote it, which this code only reads."""
    items, times, kinds = [7, 8, 7], [START, START + 5, START + 9], [1, 3, 4]
    return struct.pack("<BQqI", 1, key, 12, 3) + struct.pack("<3Q3q3B", *items, *times, *kinds)


def plain(state: UserState) -> dict[str, Any]:
    """A user state as plain values."""
    columns = (("items", state.items), ("times", state.times), ("kinds", state.kinds))
    return {"key": state.key, "offset": state.offset, **{name: part.tolist() for name, part in columns}}


def user_states(place: Path) -> list[dict[str, Any]]:
    """Bytes of both formats, and what they mean."""
    with closing(EmbeddedFeatureStore(place / "state.db")) as store:
        known = [state for k in range(20) if (state := store.get(actor_key(f"u{k}", None))) is not None]
    bodies = [former(actor_key("former", None)), *(state.encode() for state in known)]
    return [{"body": text(body), **plain(UserState.decode(body))} for body in bodies]


def networked(place: Path, base: Artifact, scratch: Path) -> list[dict[str, Any]]:
    """The same shop with its stores in a Redis: every key."""
    server = Redis(scratch / "redis")
    server.start()
    try:
        given = {"weights_url": server.url, "user_states_url": server.url, "tenant": "made"}
        settings = msgspec_settings(settings_of(place, base.dir), given)
        clock = Clock(START + SECONDS * 1_000)
        with closing(open_log(settings, clock)) as log, closing(open_weight_store(settings, writer=True)) as store:
            trainer = trainer_of(log, store, base, place, clock)
            trainer.start()
            trainer._beat_at = 0
            trainer._housekeeping(clock.now)
            with closing(open_weight_store(place)) as embedded:
                assert store.get(trainer.core.v).hash == embedded.get(trainer.core.v).hash, "blanked records count?"
        with closing(EmbeddedFeatureStore(place / "state.db")) as known, closing(open_feature_store(settings)) as users:
            states = [state for k in range(20) if (state := known.get(actor_key(f"u{k}", None))) is not None]
            users.commit(states, [], known.offsets())
        with closing(redis.Redis.from_url(server.url)) as client:
            key = actor_key("former", None)
            client.set(f"repl:{{made}}:u:{key:016x}", seal_state(former(key)))
            return list(dumped(client, "repl:{made}"))
    finally:
        server.kill()


def msgspec_settings(settings: Any, given: dict[str, Any]) -> Any:
    return type(settings).model_validate(settings.model_dump(exclude_unset=True) | given)


def small_forms() -> dict[str, Any]:
    """Forms that no file of the fixture holds."""
    beside = Beside("ab" * 32, "s3://bucket/base", np.arange(3.0).tobytes(), 7, START, True, 12.5)
    return {
        "token": {"text": encode_token({"event/0": 12, "event/3": 4}), "offsets": {"event/0": 12, "event/3": 4}},
        "alongside": {"body": text(msgspec.msgpack.encode(("s3://bucket/base", beside))),
                      "beside": msgspec.to_builtins(beside)},
    }  # fmt: skip


def make(to: Path) -> None:
    """Write the fixture of this code into the directory `to`."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        whole = scratch / "fixture"
        base = small_base(whole / "base")
        live(whole / "shop", base)
        rules = msgspec.structs.asdict(Rules.of(settings_of(whole, base.dir)))
        with closing(open_log(settings_of(whole / "shop", base.dir))) as log:
            Sink(log, ArchiveStore(str(whole / "archive")), began=Began(base.sha256, rules), rows=10_000).catch_up()
        answers = served(whole / "shop", base)
        shutil.copytree(whole / "shop", scratch / "next")
        shutil.copytree(whole / "shop", scratch / "networked")
        with closing(open_log(settings_of(whole / "shop", base.dir))) as log:
            (whole / "kafka.json").write_text(json.dumps(messages(log)))
        expected = {
            "release": release(), "machine": machine(), "formats": FORMATS,
            "fields": {name: fields_of(kind) for name, (_, kind) in STRUCTS.items()},
            "next": go_on(scratch / "next", base), "users": user_states(whole / "shop"), **answers, **small_forms(),
        }  # fmt: skip
        (whole / "expected.json").write_text(json.dumps(expected, ensure_ascii=False))
        (whole / "redis.json").write_text(json.dumps(networked(scratch / "networked", base, scratch)))
        packed(whole, to)


if __name__ == "__main__":
    target = HERE / release()
    if target.exists() and "--again" not in sys.argv:
        raise SystemExit(f"{target.name} is there already; --again writes it anew (only before it is released)")
    shutil.rmtree(target, ignore_errors=True)
    make(target)
    print(f"{target.name}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file())} bytes")
