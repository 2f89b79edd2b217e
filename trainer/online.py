"""The online trainer: follows the log cut by cut, learns, and commits versions, each exactly once.

The steps of a cut, each a point where a crash test kills the process:

  1. the cut record is appended to the log (from here on a replay repeats this cut)
  2. what it covers is learned, in memory
  3. the changed chunks of a checkpoint are put, where one is due; dead letters are written
  4. version, changes, checkpoint, user states and pins are committed in one transaction
  5. a rollback that the gate asks for is appended as a control record, unless it is there already
  6. records of deleted users are blanked, heartbeat and status written, old versions thinned out

After a crash the newest checkpoint is restored and the recorded cuts are followed; every version published since
must be met with its hash. Only the choice of cuts and of checkpoints looks at a clock; neither moves the learner
but through the cut's record. docs/exactly-once.md says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec

from features.errors import LogError, OffsetLost
from features.event_log import EventLog, dead_letter, system_clock
from features.realtime import RealtimeConfig
from features.records import (
    MAX_PARTITIONS,
    UNREADABLE,
    Cut,
    NewRecord,
    Offsets,
    Record,
    offset_key,
    partition_and_offset,
    partitions_in,
)
from service.artifact import Artifact
from service.settings import Settings
from service.weight_store import CheckpointWrite, Heartbeat, Kind, WeightStore
from trainer.base_begin import Beginner
from trainer.blas import single_thread
from trainer.checkpoint import Checkpoints, meta_of, restore, rollout_of
from trainer.core import BaseOf, Core, Fetch, Outcome
from trainer.cuts import MAX_RECORDS, READ, Batch, choose, cover
from trainer.learner_status import Report
from trainer.log_identity import HINT, check_log, resume
from trainer.rebuild import Rebuild
from trainer.rollout import base_needed
from trainer.rules import Rules
from trainer.states import TrainerStates
from trainer.thinning import Pace

log = logging.getLogger(__name__)

CONTROL = "control/0"
BEAT_MS = 1_000
THIN_MS = 10_000
BACKLOG_CHECKPOINT_MS = 10_000
Clock = Callable[[], int]


def no_base(sha256: str) -> Artifact | None:
    """No other base than the one at hand."""
    return None


def _no_step(number: int) -> None:
    """Nothing happens between the steps."""


class OnlineTrainer:
    """One trainer over a log and a store that are open; `start`, then `tick` again and again."""

    def __init__(
        self,
        event_log: EventLog,
        store: WeightStore,
        artifact: Artifact,
        settings: Settings,
        *,
        clock: Clock = system_clock,
        cadence: Clock | None = None,
        realtime: RealtimeConfig | None = None,
        base_of: BaseOf = no_base,
        fetch: Fetch | None = None,
        steps: Callable[[int], None] = _no_step,
        max_records: int = MAX_RECORDS,
    ) -> None:
        """base_of: an artifact by sha256 (after a change of base); fetch: a staged one, by sha256 and url;
        steps: called after each numbered step; cadence: the clock of checkpoints, heartbeats and thinning, where it
        is not that of the cuts."""
        single_thread()
        self._log, self._store, self._artifact, self._settings = event_log, store, artifact, settings
        self._clock, self._steps, self._max_records = clock, steps, max_records
        self._realtime = realtime or RealtimeConfig(max_items=settings.max_items)
        self._other_base = base_of
        self._beginner, self._fetch = Beginner(event_log, fetch), fetch
        self._checkpoints = Checkpoints(store)
        self._report = Report(clock)
        self._pace = Pace(settings.negatives_kept, settings.thin_to, settings.thin_after_ms)
        self._cadence = cadence or clock
        self._checkpoint_at = self._beat_at = self._thin_at = self._cadence()
        self._gap = False  # versions since the last checkpoint that replicas cannot follow
        self._held: str | None = None  # why the gate held the last version
        self.caught_up = False
        self.differing: list[int] = []  # versions whose replay did not meet their hash

    def _base_of(self, sha256: str) -> Artifact | None:
        for known in (self._artifact, self._beginner.ready):
            if known is not None and known.sha256 == sha256:
                return known
        return self._other_base(sha256)

    # start: restore, then follow the recorded cuts

    def start(self, resume_at: str | None = None) -> None:
        """Restore the newest checkpoint and replay what was cut since. Raises LogError, StoreError.

        resume_at: go on from there instead, whatever log this is (`trainer/log_identity.py`)."""
        self.core = self._restored()
        replayed = 0
        if resume_at is not None and self.core.v:
            self._resume(resume_at)
        else:
            check_log(self.core, self._log)
            for record in self._recorded_cuts():
                self._replay(record)
                replayed += 1
        if self.core.v == 0:
            self._take(Cut(self._first_offsets(), 0), None)
        for kind, body in self._changes_of_setup():
            self._append_control(kind, body)
        if self.differing:
            log.error(
                "versions could not be repeated to the bit: a new one is published",
                extra={"versions": self.differing[:20]},
            )
            self._take(Cut(dict(self.core.offsets), self.core.watermark), None, kind="start")
        log.info("trainer started", extra={"version": self.core.v, "cuts_replayed": replayed})

    def _first_offsets(self) -> Offsets:
        starts = self._log.start_offsets()
        return {name: starts[name] for stream in READ for name in partitions_in(stream, starts)}

    def _restored(self) -> Core:
        checkpoint = self._store.latest_checkpoint()
        settings = self._settings
        if checkpoint is None:
            return self._core(self._artifact, Rules.of(settings))
        chunks = self._checkpoints.load(checkpoint)
        meta = meta_of(chunks)
        base = self._base_of(meta.base)
        if base is None and meta.configured not in ("", meta.base):
            base = self._promoted(chunks, meta.base)
        if base is None:
            log.error("the base of the newest checkpoint is not here: its weights are left", extra={"base": meta.base})
        core = self._core(base or self._artifact, msgspec.convert(meta.rules, Rules))
        restore(core, chunks, learned=base is not None)
        core.adopt(meta, learned=base is not None)
        return core

    def _promoted(self, chunks: Mapping[str, bytes], sha256: str) -> Artifact:
        """The base that answers since it was promoted, fetched again. Raises ArtifactError."""
        url = rollout_of(chunks).urls.get(sha256, "")
        return base_needed(self._fetch(sha256, url, (self._artifact.sha256,)) if self._fetch and url else None, sha256)

    def _core(self, artifact: Artifact, rules: Rules) -> Core:
        users = TrainerStates(self._store, self._settings.users_in_memory, rules.history)
        made = Core(
            self._log, users, artifact, rules,
            realtime=self._realtime, weights_of=self._store.get, base_of=self._base_of,
        )  # fmt: skip
        made.fetch = self._fetch
        made.rebuild = Rebuild(self._log, self._store, self._core, self._base_of, self._still_here)
        return made

    def _still_here(self) -> None:
        """A heartbeat in the middle of a long cut: what is served is as old as it was, and the trainer is at work."""
        at = self._cadence()
        if at - self._beat_at >= BEAT_MS:
            self._beat_at, through = at, self.core.watermark
            self._store.beat(Heartbeat(through, through - self.core.rules.hold_ms, self._clock()))

    def _resume(self, at: str) -> None:
        latest = self._store.latest()
        resume(self.core, self._log, max(self.core.v, latest.v if latest else 0), at)
        offsets = dict(self.core.offsets)
        log.warning("going on with the log that is there", extra={"from": at, "version": self.core.v + 1})
        self._take(Cut(offsets, self.core.watermark), None, kind="resume")

    def _recorded_cuts(self) -> Iterator[Record]:
        """Cut records after the core's version, in order; version v is cut at offset v − 1 (− `first_cut`)."""
        at = self.core.v - self.core.first_cut
        while True:
            records = self._log.read("cut", at, 1_000)
            yield from records
            if not records:
                return
            at = records[-1].offset + 1

    def _replay(self, record: Record) -> None:
        """Follow a recorded cut: meet the version that was published, or publish it now."""
        cut, v = Cut.from_bytes(record.body), record.offset + 1 + self.core.first_cut
        outcome = self.core.step(v, cut, cover(self._log, self.core.offsets, cut), self._clock())
        found = self._store.versions_after(v - 1, 1)
        published = found[0] if found and found[0].v == v else None
        latest = self._store.latest()
        if published is None and latest is not None and latest.v >= v:
            return  # thinned out since
        if published is None:
            self._commit(outcome)
        elif published.hash != outcome.version.hash:
            self.differing.append(v)
        self._gap = self._gap or outcome.changes is None

    def _changes_of_setup(self) -> Iterator[tuple[str, dict[str, object]]]:
        """Control records for a base or for settings that are not those learned with so far."""
        if self._artifact.sha256 != self.core.configured:
            yield "base", {"sha256": self._artifact.sha256}
        rules, known = Rules.of(self._settings), self.core.rules
        changed = {
            name: getattr(rules, name)
            for name in Rules.__struct_fields__
            if getattr(rules, name) != getattr(known, name)
        }
        if changed:
            yield "settings", changed

    def _append_control(self, kind: str, body: dict[str, object]) -> None:
        text = msgspec.json.encode({"v": 1, "by": "trainer", **body})
        self._log.append("control", [NewRecord(kind, self._settings.tenant, self._clock(), "control", text)])

    # live

    def tick(self) -> bool:
        """Choose the next cut and take it. False when there was nothing to do (then only the heartbeat beats)."""
        core, now = self.core, self._clock()
        begun = self._beginner.look(core, now)
        if begun is not None:
            self._append_control("base-begin", begun)
        chosen = choose(self._log, core.offsets, core.watermark, now, core.due(), self._max_records)
        if chosen is None:
            self.caught_up = True
            self._housekeeping(now)
            return False
        cut, batch, self.caught_up = chosen
        self._take(msgspec.structs.replace(cut, kept=self._kept(batch, now)), batch)
        return True

    def _kept(self, batch: Batch, now: int) -> float:
        """The share of negatives that the next cut learns: how far its newest event lies behind the clock has a say."""
        newest = max((one.append_time for one in batch["event"]), default=now)
        behind = None if self.caught_up else now - newest
        return self._pace.next(self.core.learning.join.kept, behind)

    def _take(self, cut: Cut, batch: Batch | None, kind: Kind | None = None) -> None:
        """Steps 1 to 6 of a new cut."""
        record = NewRecord("cut", self._settings.tenant, cut.watermark, "cut", cut.to_bytes())
        (offset,) = self._log.append("cut", [record])
        if offset is None or offset + self.core.first_cut != self.core.v:
            self._not_ours(offset)
        self._steps(1)
        covered = cover(self._log, self.core.offsets, cut) if batch is None else batch
        outcome = self.core.step(self.core.v + 1, cut, covered, self._clock())
        if kind is not None:
            outcome.version = msgspec.structs.replace(outcome.version, kind=kind)
            outcome.changes, outcome.checkpoint = None, True
        self._steps(2)
        self._commit(outcome)
        self._report.add(len(covered["event"]))

    def _not_ours(self, offset: int | None) -> None:
        """A cut stands elsewhere than it had to. Cuts that somebody else wrote are followed like our own: the one whose
        token the store still accepts goes on, the other is told so at its next commit."""
        due = self.core.v - self.core.first_cut
        if offset is None or offset < due:
            raise OffsetLost(
                f"the stream of cuts ends at {offset}, and version {self.core.v} was cut at {due - 1}", field="offset",
                value=offset, hint=HINT,
            )  # fmt: skip
        raise LogError(f"cut {offset} was written where {due} was due: another trainer wrote cuts, too")

    def _commit(self, outcome: Outcome) -> None:
        """Steps 3 to 6."""
        at = self._cadence()
        self._gap = self._gap or outcome.changes is None
        write = self._checkpoint(outcome, at)
        self._letters(outcome)
        self._steps(3)
        self._store.commit(outcome.version, outcome.changes, write, pins=outcome.pins, keep=outcome.keep)
        if write is not None:
            self._checkpoints.committed(self.core, outcome.version.v)
            self._checkpoint_at, self._gap = at, False
        self._steps(4)
        self._tell_hold(outcome.version.held)
        if outcome.wanted is not None and not self._asked():
            log.warning("the gate rolls back", extra={"to": outcome.wanted["to"], "reason": outcome.wanted["reason"]})
            self._append_control("rollback", self._rollback_body(outcome))
        self._steps(5)
        for tenant, user, offset in outcome.deleted:
            self._log.blank_user(tenant, user, partition_and_offset(offset)[1])
        self._housekeeping(self._clock())
        self._steps(6)

    def _tell_hold(self, held: str | None) -> None:
        """One line when the gate begins to hold pushes, one when it lets them go."""
        if held is not None and self._held is None:
            log.warning("the gate holds the weights: the last good ones stay", extra={"reason": held})
        elif held is None and self._held is not None:
            log.warning("the gate lets weights go again", extra={"reason": self._held})
        self._held = held

    def _checkpoint(self, outcome: Outcome, now: int) -> CheckpointWrite | None:
        """A checkpoint where one is due: by the clock, after a rollback or another base, at a backlog's end."""
        waited = now - self._checkpoint_at
        due = waited >= (self._settings.checkpoint_every_ms if self.caught_up else BACKLOG_CHECKPOINT_MS)
        if not (due or outcome.checkpoint or (self._gap and self.caught_up)):
            return None
        return self._checkpoints.prepare(self.core, self.core.meta())

    def _asked(self) -> bool:
        """Does a rollback by the gate wait on the control stream already?"""
        start = self.core.offsets.get(CONTROL, 0)
        waiting = self._log.read("control", start) if self._log.end_offsets().get(CONTROL, 0) > start else []
        return any(one.kind == "rollback" and b'"by":"gate"' in one.body for one in waiting)

    def _rollback_body(self, outcome: Outcome) -> dict[str, object]:
        wanted = outcome.wanted or {}
        to = dict(outcome.version.offsets)
        skip = {"from": {name: wanted["from"].get(name, 0) for name in partitions_in("event", to)}, "to": to}
        told = {"by": "gate", "base": outcome.version.base, "reason": wanted["reason"]}
        return {"to": wanted["to"], "skip": skip, "applies_to": "weights", **told}

    def _letters(self, outcome: Outcome) -> None:
        for record, reason in outcome.dead:
            source = offset_key(record.stream, record.partition % MAX_PARTITIONS)
            log.error("a record could not be read", extra={"source": source, "offset": record.offset})
            tenant = record.tenant or self._settings.tenant
            if record.kind == UNREADABLE:  # the log has made the letter already, with what it saw
                self._log.append("dead-letter", [NewRecord("dead-letter", tenant, self._clock(), source, record.body)])
            else:
                dead_letter(self._log, source, record.offset, reason, record.body, tenant, self._clock())

    def _housekeeping(self, now: int) -> None:
        at = self._cadence()
        if at - self._beat_at >= BEAT_MS or at < self._beat_at:
            self._beat_at = at
            through = max(self.core.watermark, now if self.caught_up else 0)
            beat = Heartbeat(through, through - self.core.rules.hold_ms, now)
            status = self._report.status(self.core, now, self.differing)
            status["bases"]["fetch_failed"] = self._beginner.failure
            self._store.beat(beat, status)
        if at - self._thin_at >= THIN_MS:
            self._thin_at = at
            check_log(self.core, self._log)
            # what the gate may go back to stays, however long ago it was pushed
            kept = [one.v for one in self.core.learning.gate.state.snapshots]
            self._store.thin(now, kept + self.core.rollout.kept())
