"""Counters, i2i, the trainer's user states and weights from an archive, up to where the live trainer goes on.

It is the online trainer over archive and log in one (`trainer/archive/seam.py`), with a store that writes few of the
versions (`trainer/archive/sparse_store.py`). Where the cuts of the trainer that was there before are to be had, they
are followed, and every version has its number and its bits again; else cuts are chosen by the times of the records and
appended to the live log, as behind any backlog, from its next number on.

A bootstrap that was killed goes on from its last checkpoint when it is called again. It writes no state of the ranker
(`trainer/archive/users.py` does) and follows nobody: `learn` goes on live.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import msgspec

from features.errors import ArtifactError, LogError
from features.event_log import EventLog, system_clock
from features.event_log_archive import ArchiveLog
from features.event_log_archive_manifest import KEPT
from features.records import Cut, NewRecord, Offsets, Record, Stream, partition_and_offset, split_key
from service.artifact import Artifact
from service.settings import Settings
from service.weight_keeping import Keeping
from service.weight_store import CheckpointWrite, WeightStore, open_weight_store
from trainer.archive.seam import CUTS, SeamedLog, check, follows_cuts
from trainer.archive.sparse_store import SparseStore
from trainer.bases import base_by_sha, current_base
from trainer.core import BaseOf, Core, Outcome
from trainer.cuts import READ, Batch
from trainer.fence import Fence
from trainer.log_identity import check_log
from trainer.online import CONTROL, OnlineTrainer, no_base
from trainer.rebuild import lacking
from trainer.rules import Rules

Progress = Callable[[int, int], None]
"""(events learned, events in the archive)."""

MANY_DIRTY = 100_000
"""Changed user states in memory from which on a checkpoint is due."""


class Bootstrap(OnlineTrainer):
    """The trainer of one bootstrap; `run` instead of `start` and `tick`. Raises LogError, StoreError, Fenced."""

    def __init__(
        self,
        archive: ArchiveLog,
        live: EventLog,
        store: WeightStore,
        artifact: Artifact,
        settings: Settings,
        *,
        progress: Progress = lambda done, total: None,
        base_of: BaseOf = no_base,
        rollback: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """artifact: the base that is served now; base_of: others, where the archive began with another; rollback: the
        body of a control record that is carried out behind the seam, once (`versions rollback --counters`)."""
        check(archive, live)
        self.follows = follows_cuts(archive, live)
        streams: tuple[Stream, ...] = KEPT if self.follows else tuple(one for one in KEPT if one != "cut")
        self._rollback = rollback
        self._rollback_at = -1 if rollback is None else asked_once(live, rollback, settings.tenant)
        self._seamed, self._archive, self._progress = SeamedLog(archive, live, streams), archive, progress
        self._sparse = SparseStore(store, set(named_versions(self._seamed)))
        super().__init__(self._seamed, self._sparse, artifact, settings, base_of=base_of, **more)
        self._sparse.gate = lambda: [one.v for one in self.core.learning.gate.state.snapshots]
        self.cuts = 0

    def run(self) -> dict[str, Any]:
        """Learn up to the seam (and what was cut behind it), with a checkpoint at the end; what was done."""
        began, total = time.monotonic(), self._archive.manifest.rows("event")
        self.core = self._restored()
        check_log(self.core, self._seamed)
        known = self.core.totals.get("event", 0)
        if self.core.v == 0 or not self.core.offsets:
            self._first()
        for record in self._recorded_cuts():
            self._replay(record)
            self._count(total)
        while not self._reached():
            if not self.tick():
                raise LogError(
                    "the log gives nothing more, and the seam is not reached", field="then", value=self.core.offsets,
                    hint=f"the archive ends at {self._seamed.seam}; is the log whole?",
                )  # fmt: skip
            self._count(total)
        self._check_left_out()
        self._last()
        seconds, events = time.monotonic() - began, self.core.totals.get("event", 0) - known
        return {
            "version": self.core.v, "hash": self._store.get(self.core.v).hash, "cuts": self.cuts,
            "follows_cuts": self.follows,
            "events": events, "seconds": round(seconds, 2), "events_per_second": round(events / max(seconds, 1e-9)),
            "offsets": dict(self.core.offsets), "differing": self.differing[:20],
        }  # fmt: skip

    def _restored(self) -> Core:
        """From the newest checkpoint of a bootstrap that was killed; at first with base and rules as they began."""
        began = self._archive.manifest.began
        if self._store.latest_checkpoint() is not None or began is None or not self.follows:
            return super()._restored()
        base = self._base_of(began.base)
        if base is None:
            raise ArtifactError(
                f"the archive began with base {began.base}, which is not here", field="base_dir",
                hint="put it back under DATA_DIR/base: cuts are repeated with the base that learned from them",
            )  # fmt: skip
        rules = msgspec.structs.asdict(Rules.of(self._settings)) | {"form": 1} | began.rules
        return self._core(base, msgspec.convert(rules, Rules))

    def _first(self) -> None:
        """Stand where the archive begins. Without the cuts of old, the first one is made: a version `start`."""
        if self.follows:
            return
        self.core.v = self._seamed.end_offsets().get(CUTS, 0)
        starts = self._first_offsets()
        self.core.offsets = dict(starts)
        nothing: Batch = {"event": [], "served": [], "control": []}
        self._take(Cut(starts, 0), nothing, kind="start")

    def _first_offsets(self) -> Offsets:
        return {name: at for name, at in self._seamed.start_offsets().items() if split_key(name)[0] in READ}

    def _replay(self, record: Record) -> None:
        self.cuts += 1
        super()._replay(record)

    def _kept(self, batch: Batch, now: int) -> float:
        """As far behind as it is, nobody waits for it: nothing is thinned for that."""
        return self._settings.negatives_kept

    def _count(self, total: int) -> None:
        self._progress(min(total, self.core.totals.get("event", 0)), total)

    def _reached(self) -> bool:
        offsets = self.core.offsets
        seam = all(offsets.get(name, 0) >= at for name, at in self._seamed.seam.items() if name != CUTS)
        return seam and offsets.get(CONTROL, 0) > self._rollback_at

    def _check_left_out(self) -> None:
        """Raises LogError where the rollback that was asked for was refused."""
        if self._rollback is None or not self._rollback.get("counters"):
            return
        asked = self.core.control.ranges(self._rollback["skip"])
        if lacking(asked, self.core.arrivals.left_out):
            raise LogError(
                "the range was not left out: the rollback was refused (the log above has the reason)", field="skip",
                value=self._rollback["skip"], hint="where no checkpoint from before it was kept: begin with an empty "
                "store, and with weights in Redis raise redis_checkpoint_bytes",
            )  # fmt: skip

    def _checkpoint(self, outcome: Outcome, now: int) -> CheckpointWrite | None:
        if self.core.users.dirty >= MANY_DIRTY:
            return self._checkpoints.prepare(self.core, self.core.meta())
        return super()._checkpoint(outcome, now)

    def _last(self) -> None:
        """The last version with a checkpoint, whenever the one before was."""
        v = self.core.v
        if self._sparse.holds(v):
            self._sparse.write(v, self._checkpoints.prepare(self.core, self.core.meta()))
            self._checkpoints.committed(self.core, v)


def asked_once(log: EventLog, body: Mapping[str, Any], tenant: str) -> int:
    """The offset of the rollback with this body on the control stream, appended where it is not there: a bootstrap that
    was killed does not ask twice."""
    text = msgspec.json.encode({"v": 1, "by": "bootstrap", **body})
    at = log.start_offsets().get(CONTROL, 0)
    while records := log.read("control", at):
        for record in records:
            if record.kind == "rollback" and record.body == text:
                return record.offset
        at = records[-1].offset + 1
    (place,) = log.append("control", [NewRecord("rollback", tenant, system_clock(), "control", text)])
    return -1 if place is None else partition_and_offset(place)[1]


def named_versions(log: EventLog) -> Iterator[int]:
    """The versions that control records name: of pins and rollbacks. What cannot be read names none."""
    at = log.start_offsets().get("control/0", 0)
    while records := log.read("control", at):
        for record in records:
            try:
                body = msgspec.json.decode(record.body, type=dict[str, Any])
                found = body.get("version" if record.kind in ("pin", "unpin") else "to")
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if isinstance(found, int) and record.kind in ("pin", "unpin", "rollback"):
                yield found
        at = records[-1].offset + 1


def bootstrap_weights(
    settings: Settings, url: str, live: EventLog, progress: Progress = lambda done, total: None,
    rollback: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Build the weight store of these settings from the archive at `url`, up to where `learn` goes on with the log.
    rollback: see `Bootstrap`.

    Raises Fenced where a trainer is at work, LogError, StoreError, ArtifactError with what to do.
    """
    with closing(Fence(settings.data_dir)), closing(ArchiveLog(url)) as archive:
        check(archive, live)  # before the store of a live trainer is taken over
        fsync, keeping = settings.durable == "fsync", Keeping.of(settings)
        with closing(open_weight_store(settings, fsync=fsync, keeping=keeping, writer=True)) as store:
            made = Bootstrap(
                archive, live, store, current_base(settings), settings,
                base_of=lambda sha256: base_by_sha(settings, sha256), progress=progress, rollback=rollback,
            )  # fmt: skip
            gc.freeze()
            gc.set_threshold(500_000, 20, 100)  # cuts hold many small objects and no cycles
            return made.run()
