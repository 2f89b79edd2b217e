"""The trainer without log and store: a base, the state that events move, and one step a cut.

`step` is a function of the state, the records that the cut covers and the weights that a rollback names: the same
records and cuts give the same bits, whenever they are taken. It writes nothing (`trainer/online.py` does).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from features.assembler import Assembler, ZLayout
from features.catalogue import Catalogue
from features.errors import SchemaError
from features.event_log import EventLog
from features.hash_window import HashWindow
from features.ops import Ops
from features.realtime import RealtimeConfig, RealtimeState
from features.records import Cut, Offsets, Record, marked
from service.artifact import Artifact
from service.last_layer import term_bounds
from service.scorer import Scorer
from service.weight_store import Kind, Version
from trainer.arrivals import Arrivals
from trainer.control import Control
from trainer.cuts import Batch
from trainer.meta import Meta
from trainer.publish import TIMERS, Learning
from trainer.reconstruct import Reconstructor
from trainer.rollout import Rollout, base_needed
from trainer.rules import Rules
from trainer.served import ServedIndex
from trainer.states import TrainerStates

log = logging.getLogger(__name__)
MAX_CHANGES = 1 << 20  # bytes of ops that a version carries; replicas reload instead
WeightsOf = Callable[[int], Version]
BaseOf = Callable[[str], Artifact | None]
Ranges = list[tuple[int, int]]
"""Places of the event stream, [start, end) each."""
Fetch = Callable[[str, str, Collection[str]], Artifact]
"""(sha256, url, bases in use) → the base, checked and installed here; raises ReplError."""


@dataclass
class Outcome:
    """What a step gives to commit. changes None: replicas reload from a checkpoint."""

    version: Version
    changes: bytes | None
    checkpoint: bool  # at once, whatever the clock says
    pins: dict[int, bool] = field(default_factory=dict)
    keep: list[int] = field(default_factory=list)
    dead: list[tuple[Record, str]] = field(default_factory=list)
    deleted: list[tuple[str, str, int]] = field(default_factory=list)
    replaced: bool = False  # the counters are others than the changes lead to: replicas reload
    wanted: dict[str, Any] | None = None  # the rollback that the gate asks for


def version_hash(
    base: str, offsets: Mapping[str, int], watermark: int, weights: bytes, counters: str, alongside: bytes = b""
) -> str:
    """The content hash of a version (docs/formats.md §6)."""
    found = hashlib.sha256(base.encode())
    found.update(msgspec.json.encode(dict(sorted(offsets.items()))))
    found.update(str(watermark).encode() + b"\0" + weights + counters.encode() + alongside)
    return found.hexdigest()


class Core:
    """See the module. Members are the parts that a checkpoint holds."""

    def __init__(
        self,
        event_log: EventLog,
        users: TrainerStates,
        artifact: Artifact,
        rules: Rules,
        *,
        realtime: RealtimeConfig,
        weights_of: WeightsOf,
        base_of: BaseOf,
    ) -> None:
        """weights_of: a stored version (a rollback reads it); base_of: an artifact by sha256, None: not here."""
        self.rules = rules
        self.users = users
        self.realtime = RealtimeState(realtime)
        self.dedup = HashWindow(rules.dedup_ids, int(rules.dedup_hours * 3_600_000))
        self.served = ServedIndex(event_log)
        self.catalogue = Catalogue(artifact.schema, realtime.max_items)
        self.weights_of, self.base_of = weights_of, base_of
        self.v = 0
        self.weights_version = 0
        self.watermark = 0
        self.offsets: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self.log: dict[str, str] = {}
        self.generation = self.first_cut = 0
        self.event_log = event_log
        self.fetch: Fetch | None = None
        self.rebuild: Callable[[Core, Ranges, Outcome], None] = _no_rebuild
        self.configured = artifact.sha256
        self.learning = self.new_learning(artifact)
        self._use(artifact)
        self.rollout = Rollout(self)
        self.control = Control(self)

    def base(self, sha256: str, url: str) -> Artifact:
        """A base that records of the log speak of, fetched where it is not here. Raises ArtifactError."""
        found = self.base_of(sha256)
        if found is None and url and self.fetch is not None:
            found = self.fetch(sha256, url, (self.artifact.sha256, self.configured))
        return base_needed(found, sha256)

    def new_learning(self, artifact: Artifact) -> Learning:
        layout = ZLayout(artifact.manifest.hidden, artifact.schema)
        artifact.require_layout(layout.names, layout.fingerprint)
        rules = self.rules
        return Learning(
            artifact.prior,
            term_bounds(layout.terms()),
            rules.join(),
            noise=rules.process_noise,
            rate=rules.learning_rate,
        )

    def reconstructor(self, artifact: Artifact) -> Reconstructor:
        """What makes inputs by a base."""
        layout = ZLayout(artifact.manifest.hidden, artifact.schema)
        assembler = Assembler(layout, artifact.schema, self.catalogue, self.realtime)
        return Reconstructor(self.catalogue, Scorer(artifact), assembler)

    def answer_with(self, artifact: Artifact, learning: Learning, reconstruct: Reconstructor) -> None:
        """This pair answers from now on, and all arrivals teach it."""
        self.artifact, self.learning = artifact, learning
        self.arrivals.use(learning, reconstruct, artifact.sha256, artifact.manifest.hidden)
        self.set_infer()

    def _use(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.arrivals = Arrivals(
            self.catalogue, self.realtime, self.users, self.dedup, self.served, self.learning,
            self.reconstructor(artifact), artifact.sha256, artifact.manifest.hidden,
        )  # fmt: skip
        self.set_infer()

    def set_infer(self) -> None:
        """Whether answers without a `ranking` event are inferred, as the rules say."""
        self.learning.join.infer = self.arrivals.infer if self.rules.infer_shown else None

    def meta(self) -> Meta:
        """What a checkpoint says of where this core stands."""
        learning = self.learning
        return Meta(
            base=self.artifact.sha256,
            v=self.v,
            weights_version=self.weights_version,
            watermark=self.watermark,
            offsets=dict(self.offsets),
            last=learning.last,
            served={name: mean.astype("<f8").tobytes() for name, mean in learning.served.items()},
            skipped=list(learning.skipped),
            skips={name: list(ranges) for name, ranges in self.arrivals.skips.items()},
            totals=dict(self.totals),
            poisoned=[head.poisoned for head in learning.learner.heads.values()],
            rules=msgspec.structs.asdict(self.rules),
            log=dict(self.log),
            left_out=list(self.arrivals.left_out),
            generation=self.generation,
            first_cut=self.first_cut,
            configured=self.configured,
            kept=learning.join.kept,
        )

    def adopt(self, meta: Meta, *, learned: bool) -> None:
        """Stand where a checkpoint says; learned False: its weights are of a base that is not here."""
        self.v, self.weights_version, self.watermark = meta.v, meta.weights_version, meta.watermark
        self.offsets, self.totals = dict(meta.offsets), dict(meta.totals)
        self.log, self.generation, self.first_cut = dict(meta.log), meta.generation, meta.first_cut
        self.configured = meta.configured or meta.base
        self.learning.skipped, self.learning.join.kept = list(meta.skipped), meta.kept
        self.arrivals.skips = {name: list(ranges) for name, ranges in meta.skips.items()}
        self.arrivals.left_out = list(meta.left_out)
        if not learned:
            self.learning.hold.drop(TIMERS)
            return
        self.learning.last = meta.last
        self.learning.served = {name: np.frombuffer(data, "<f8").copy() for name, data in meta.served.items()}
        for head, poisoned in zip(self.learning.learner.heads.values(), meta.poisoned, strict=True):
            head.poisoned = poisoned

    def forget_served(self, fresh: ServedIndex) -> None:
        """Served records lie elsewhere from now on: those known so far cannot be read any more."""
        self.served = self.arrivals.served = self.arrivals.inputs.served = fresh
        self.rollout.forget_served(fresh)

    def due(self) -> int | None:
        """The watermark at which something held is due; None when nothing waits."""
        if self.rollout.reading is not None:
            return self.watermark
        found = [entry for hold in self.rollout.holds() if (entry := hold.next_due()) is not None]
        return min(found) + self.rules.hold_ms if found else None

    def step(self, v: int, cut: Cut, batch: Batch, created: int) -> Outcome:
        """Learn what cut v covers. created: wall clock, ms, for the version's row only.

        Order: control records; served records; events by (effective time, place); what the hold lets out;
        learner, gate and the weights to serve. A cut never goes back: one that an ousted trainer wrote does nothing."""
        outcome = Outcome(self._blank(v, cut), b"", False)
        kind: Kind = "start" if v == 1 else "push"
        self.learning.join.begin(v, cut.kept)
        batch = {stream: marked(records, self.generation) for stream, records in batch.items()}
        self.rollout.begin_cut(v, cut.kept)
        for record in batch["control"]:
            kind = self.control.obey(record, cut, outcome) or kind
        arrivals = self.arrivals
        arrivals.take_served(batch["served"])
        arrivals.take(sorted((record.effective_time, record.place, record) for record in batch["event"]))
        self.v, self.offsets = v, _farthest(self.offsets, cut.offsets)
        self.watermark = max(self.watermark, cut.watermark)
        arrivals.release(self.watermark - self.rules.hold_ms)
        arrivals.count_ops()
        push = self.learning.push(v, self.watermark, self.offsets)
        self.weights_version = v if push.changed or v == 1 else self.weights_version
        self.rollout.end_cut(v, sum(map(len, batch.values())))
        self._finish(outcome, kind, push.weights, push.held, arrivals.taken_ops(), created)
        self._total(batch)
        self.served.end_cut()
        return outcome

    def _blank(self, v: int, cut: Cut) -> Version:
        sha = self.artifact.sha256
        return Version(v, sha, "push", 0, b"", dict(cut.offsets), cut.watermark, 0, None, "", 0)

    def _finish(
        self, outcome: Outcome, kind: Kind, weights: bytes, held: str | None, ops: Ops | None, created: int
    ) -> None:
        outcome.version = self._version(kind, weights, held, created)
        body = b"" if ops is None else ops.to_bytes()
        reload = outcome.replaced or len(body) > MAX_CHANGES or kind == "start"
        outcome.changes = None if reload else body
        outcome.checkpoint = outcome.checkpoint or kind != "push"
        outcome.dead += self.arrivals.dead
        self.arrivals.dead = []
        outcome.deleted, self.arrivals.deleted = self.arrivals.deleted, []
        # what is blanked next cannot be replayed: a restart must not have to go back before it
        outcome.checkpoint = outcome.checkpoint or bool(outcome.deleted)
        outcome.wanted = self.learning.gate.state.wanted

    def _version(self, kind: Kind, weights: bytes, held: str | None, created: int) -> Version:
        sha, watermark, through = self.artifact.sha256, self.watermark, self.watermark - self.rules.hold_ms
        made = Version(
            self.v, sha, kind, self.weights_version, weights, self.offsets, watermark, through, held, "", created,
            url=self.rollout.urls.get(sha, ""), beside=self.rollout.beside(),
        )  # fmt: skip
        digest = version_hash(sha, self.offsets, watermark, weights, self.realtime.digest(), made.alongside())
        return msgspec.structs.replace(made, hash=digest)

    def standing(self) -> Version:
        """The version that this core stands at, as far as its hash goes."""
        return self._version("push", self.learning.last, None, 0)

    def _total(self, batch: Batch) -> None:
        for stream, records in batch.items():
            self.totals[stream] = self.totals.get(stream, 0) + len(records)

    # another base

    def require_schema(self, artifact: Artifact, which: str, field: str) -> None:
        """Raises SchemaError where a base was trained with another schema than that of this log's catalogue."""
        if artifact.schema.fingerprint != self.catalogue.schema.fingerprint:
            raise SchemaError(
                f"the {which} base was trained with another schema",
                field=field,
                value=artifact.schema.fingerprint,
                hint="serve it from a data directory of its own: replay the log there",
            )

    def change_base(self, artifact: Artifact) -> None:
        """Learn around another base from now on: its prior, no labels that wait; the rest goes on."""
        self.require_schema(artifact, "new", "base_dir")
        self.rollout.reset()
        learning, old = self.new_learning(artifact), self.learning
        old.hold.drop(TIMERS)
        learning.take_over(old)
        skips, left_out = self.arrivals.skips, self.arrivals.left_out
        self.learning = learning
        self._use(artifact)
        self.arrivals.skips, self.arrivals.left_out = skips, left_out


def _no_rebuild(core: Core, skipped: Ranges, outcome: Outcome) -> None:
    raise ValueError("counters cannot be rebuilt here")


def _farthest(before: Offsets, cut: Offsets) -> Offsets:
    """Of each partition the larger offset."""
    return {name: max(before.get(name, 0), cut.get(name, 0)) for name in sorted(before.keys() | cut.keys())}
