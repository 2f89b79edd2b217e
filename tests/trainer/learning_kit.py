"""What the tests of the online trainer share: a base of this code's layout, a manual clock, a seeded shop log."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from features.event_log import EventLog, open_log
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent, ShownItem
from features.layout import ZLayout
from features.realtime import RealtimeConfig
from features.records import NewRecord, ServedRecord, event_record
from features.schema import Schema
from service.artifact import Artifact, load_artifact, write_artifact
from service.settings import Settings
from service.weight_store import WeightStore, open_weight_store
from trainer.online import OnlineTrainer

START = 1_750_000_000_000
SMALL = RealtimeConfig(max_items=2_000, max_categories=256, max_lists=1_000, neighbours=16)
TESTKIT_BASE = Path(__file__).resolve().parents[2] / "service" / "testkit_base"


def make_base(place: Path, variance: float = 0.02, seed: int = 3, *, other: bool = False) -> Artifact:
    """The untrained graphs of the test kit, with the layout of this code and a random prior; other: with tables of
    its own, so that its hidden vectors are others, and the same prior but for less weight on them."""
    from features.attached import Attached
    from service.artifact import _read, _tensors, read_manifest

    manifest, _ = read_manifest(TESTKIT_BASE)
    layout = ZLayout(manifest.hidden, Schema.default())
    rng = np.random.default_rng(seed)
    manifest = msgspec.structs.replace(
        manifest, layout=list(layout.names), layout_fingerprint=layout.fingerprint,
        schema=Schema.default().to_dict(), schema_fingerprint=Schema.default().fingerprint,
        origin={"data": "tests", "seed": seed},
    )  # fmt: skip
    tables = _tensors(TESTKIT_BASE / "tables.safetensors", _read(TESTKIT_BASE / "tables.safetensors"))
    if other:
        tables = {name: table[::-1].copy() for name, table in tables.items()}
    graphs = {name: (TESTKIT_BASE / f"{name}.onnx").read_bytes() for name in ("item", "user", "query", "fine")}
    prior = {head: (rng.normal(0, 0.05, layout.d), np.eye(layout.d) * variance) for head in ("click", "purchase")}
    if other:
        for mean, _ in prior.values():
            mean[: layout.hidden] *= 0.1
    write_artifact(place, manifest, tables=tables, attached=Attached.empty(), prior=prior, graphs=graphs)
    return load_artifact(place)


@dataclass
class Clock:
    """A clock that moves when told."""

    now: int = START

    def __call__(self) -> int:
        return self.now


@dataclass
class Desk:
    """A data directory with log, store and clock, and trainers over them."""

    data_dir: Path
    artifact: Artifact
    overrides: dict[str, object] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.settings = Settings(
            **{"data_dir": self.data_dir, "max_items": 2_000, "join_capacity": 2_000, **self.overrides}  # type: ignore[arg-type]
        )
        self.log: EventLog = open_log(self.settings, self.clock)
        self.store: WeightStore = open_weight_store(self.data_dir)

    def trainer(self, **more: object) -> OnlineTrainer:
        """A trainer that has started."""
        made = OnlineTrainer(
            self.log, self.store, self.artifact, self.settings,
            clock=self.clock, realtime=SMALL, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        made.start()
        return made

    def add(self, *events: Event) -> None:
        """Append events."""
        self.log.append("event", [event_record(event) for event in events])

    def serve(self, ranking: str, items: list[str], user: str | None, **more: object) -> np.ndarray:
        """Append a served record; returns its z, f16 (n, d)."""
        record, z = served(self.artifact, ranking, items, user, self.clock.now, **more)
        self.log.append("served", [record])
        return z

    def run(self, trainer: OnlineTrainer, ms: int, every: int = 200) -> None:
        """Let time pass, with a tick at each step."""
        for _ in range(ms // every):
            self.clock.now += every
            trainer.tick()

    def close(self) -> None:
        """Close log and store."""
        self.log.close()
        self.store.close()


def served(
    artifact: Artifact, ranking: str, items: list[str], user: str | None, t: int, **more: object
) -> tuple[NewRecord, np.ndarray]:
    """A served record with z seeded by the ranking's id."""
    h, d = artifact.manifest.hidden, len(artifact.layout_names)
    z = np.zeros((len(items), d), np.float16)
    z[:, h] = 1
    rng = np.random.default_rng(abs(hash_text(ranking)))
    z[:, h + 1 : h + 21] = rng.normal(0, 0.5, (len(items), 20))
    fields = {"tenant": "default", "base": artifact.sha256, "version": 1, "objective": "click", **more}
    body = ServedRecord(
        request_id=ranking, t=t, items=items, scores=np.zeros(len(items), np.float32).tobytes(),
        hidden=h, z=z.tobytes(), user=user, **fields,  # type: ignore[arg-type]
    ).to_bytes()  # fmt: skip
    return NewRecord("served", "default", t, user or items[0], body), z


def hash_text(text: str) -> int:
    """A number of a text that is the same in every run."""
    return int.from_bytes(text.encode()[-7:], "little")


def items_of(count: int, t: int = START) -> list[Event]:
    """Item events."""
    return [
        ItemEvent(id=f"item-{k}", timestamp=t, item=f"i{k}",
                  fields={"title": f"red lamp {k}", "category": f"c{k % 7}", "price": float(k + 1)})
        for k in range(count)
    ]  # fmt: skip


def shop_records(
    artifact: Artifact, seconds: int, seed: int = 1, a_second: int = 4, shown: int = 6
) -> Iterator[tuple[int, str, list[NewRecord]]]:
    """(clock, stream, records) of a seeded shop: served records, rankings, clicks that come late, purchases."""
    rnd = random.Random(seed)
    yield START, "event", [event_record(event) for event in items_of(60)]
    late: list[tuple[int, Event]] = []
    for k in range(seconds * a_second):
        t = START + 1_000 + k * 1_000 // a_second
        ranking, user = f"r{seed}-{k}", f"u{rnd.randrange(20)}"
        chosen = [f"i{n}" for n in rnd.sample(range(60), shown)]
        event = RankingEvent(
            id=ranking, timestamp=t, user=user, items=tuple(ShownItem(i, p + 1) for p, i in enumerate(chosen))
        )
        answer = [served(artifact, ranking, chosen, user, t)[0]] if rnd.random() < 0.9 else []
        shows = [event_record(event)]
        order = [("served", answer), ("event", shows)]
        if rnd.random() < 0.2:
            order.reverse()  # the served record comes after its ranking
        for stream, records in order:
            if records:
                yield t, stream, records
        for _ in range(rnd.choice((0, 0, 1, 1, 2))):
            at = t + int(rnd.expovariate(1 / 15_000))
            kind = rnd.choice(("click", "click", "click", "cart", "purchase"))
            act = InteractionEvent(
                id=f"a{seed}-{k}-{rnd.random():.9f}", timestamp=at, type=kind, item=rnd.choice(chosen),
                user=user, ranking=ranking if rnd.random() < 0.9 else None,
            )  # fmt: skip
            late.append((at + int(rnd.random() * 1_500), act))
        due = sorted((one for one in late if one[0] <= t), key=lambda one: one[0])
        late = [one for one in late if one[0] > t]
        for at, act in due:
            yield max(at, t), "event", [event_record(act)]


END = START + 400_000


def control(kind: str, **body: object) -> NewRecord:
    """A control record."""
    return NewRecord(kind, "default", 0, "control", msgspec.json.encode({"v": 1, "by": "test", **body}))


def rollout_marks(seconds: int, other: Artifact) -> list[tuple[int, NewRecord]]:
    """A rollout of another base, by time: staged, begun behind the log, refused, promoted, taken back, promoted to
    some, then to all."""
    sha = other.sha256
    return [
        (START + seconds * share * 10, record)
        for share, record in (
            (10, control("base-stage", sha256=sha, url="")),
            (12, control("base-begin", sha256=sha, **{"from": {"event/0": 0, "served/0": 0}})),
            (13, control("base-promote", sha256=sha, percent=100)),
            (62, control("base-promote", sha256=sha, percent=100)),
            (66, control("base-revert")),
            (70, control("base-promote", sha256=sha, percent=30)),
            (74, control("base-promote", sha256=sha, percent=100)),
        )
    ]


def crash_log(data_dir: Path, artifact: Artifact, seconds: int, other: Artifact | None = None) -> None:
    """A log with all that can go wrong in it: late and unknown records, a rollback, a pin, a flood of clicks; with
    another base, its rollout too."""
    from features.records import NewRecord as New

    clock = Clock()
    settings = Settings(data_dir=data_dir, max_items=2_000, join_capacity=2_000)
    log = open_log(settings, clock)
    flood = START + seconds * 1_000 * 4 // 5
    marks = [
        (START + seconds * 300, New("rollback", "default", 0, "c", b'{"v":1,"to":12,"skip":null,"by":"test"}')),
        (START + seconds * 320, New("pin", "default", 0, "c", b'{"v":1,"version":14,"by":"test"}')),
        (START + seconds * 330, New("rollback", "default", 0, "c", b'{"v":1,"to":99999,"by":"test"}')),
    ]
    marks = sorted(marks + ([] if other is None else rollout_marks(seconds, other)), key=lambda mark: mark[0])
    for t, stream, records in shop_records(artifact, seconds):
        clock.now = max(clock.now, t)
        while marks and marks[0][0] <= t:
            log.append("control", [marks.pop(0)[1]])
        log.append(stream, records)
        if stream == "event" and t > flood and records[0].kind == "ranking":
            log.append("event", _clicks_on_all(records[0], t))
    log.append("event", [New("ranking", "default", clock.now, "k", b"not an event at all")])
    log.close()


def _clicks_on_all(ranking: NewRecord, t: int) -> list[NewRecord]:
    shown = msgspec.json.decode(ranking.body)
    return [
        event_record(
            InteractionEvent(
                id=f"flood-{shown['id']}-{item['id']}", timestamp=t + 500, type="click", item=item["id"],
                user=shown["user"], ranking=shown["id"],
            )
        )
        for item in shown["items"]
    ]  # fmt: skip
