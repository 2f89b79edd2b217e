"""Counters, i2i and the trainer's user states anew, without a range of events: `versions rollback --skip … --counters`.

A second core goes from the newest checkpoint before the range over the recorded cuts to where the first one stands, and
counts nothing of the range. Its counters, its held events, and the states of the users of the range then take the place
of the first one's. What comes out is a function of the log, not of the checkpoint that was at hand: a replay of the cut
meets the same bits. It moves no weights, writes nothing, and is repeated from its start after a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import msgspec

from features import events
from features.errors import ArtifactError, OffsetLost, ReplError
from features.event_log import EventLog
from features.keys import actor_key
from features.records import Cut, Offsets, Record, offset_key, partition_and_offset
from features.user_state import UserState
from service.artifact import Artifact
from service.skip_range import ARCHIVE_FORM
from service.weight_store import Checkpoint, WeightStore
from trainer.checkpoint import meta_of, restore
from trainer.core import BaseOf, Core, Outcome, Ranges
from trainer.cuts import cover
from trainer.hold import EVENT
from trainer.meta import Meta
from trainer.publish import merge
from trainer.rules import Rules

log = logging.getLogger(__name__)
SPILL = 50_000
"""Changed user states in memory from which on they are kept as bytes."""
_READ = 10_000
Make = Callable[[Artifact, Rules], Core]


def _nobody_waits() -> None:
    """Nobody is told."""


class Rebuild:
    """See the module; a core calls it (`Core.rebuild`) at the start of the cut that covers the control record."""

    def __init__(
        self, event_log: EventLog, store: WeightStore, make: Make, base_of: BaseOf,
        alive: Callable[[], None] = _nobody_waits, *, refuses: bool = True,
    ) -> None:  # fmt: skip
        """make: a fresh core over this log and store; alive: called after each cut that was followed. refuses: a log
        that does not reach back, or a base that is gone, refuses the wish; a replay of one that was done raises it."""
        self._log, self._store, self._make, self._base_of, self._alive = event_log, store, make, base_of, alive
        self._refuses = refuses

    def __call__(self, core: Core, skipped: Ranges, outcome: Outcome) -> None:
        """Leave these places out of what the core counts, from the first of them on. Raises ValueError where that
        cannot be done (nothing has changed then), LogError and StoreError where log or store fail."""
        left_out = merge([*core.arrivals.left_out, *(one for one in skipped if one[1] > one[0])])
        outcome.replaced = True
        if left_out != merge(core.arrivals.left_out):
            try:
                outcome.keep.append(self._replace(core, left_out))
            except (OffsetLost, ArtifactError) as error:
                if not self._refuses:
                    raise
                raise ValueError(f"{error.message}: counters cannot be rebuilt; {ARCHIVE_FORM}") from error
        core.arrivals.leave_out(left_out)

    def _replace(self, core: Core, left_out: Ranges) -> int:
        actors = sorted(self._actors(core, lacking(left_out, core.arrivals.left_out)))
        checkpoint, meta = self._before(core, left_out)
        log.warning("counters are rebuilt", extra={"from_version": meta.v, "to_version": core.v, "skipped": left_out})
        fresh = self._at(checkpoint, meta)
        fresh.arrivals.leave_out(left_out)
        for record in self._cuts(fresh, core.v):
            cut = Cut.from_bytes(record.body)
            fresh.step(fresh.v + 1, cut, cover(self._log, fresh.offsets, cut), 0)
            if fresh.users.dirty >= SPILL:
                fresh.users.spill()
            self._alive()
        core.realtime.become(fresh.realtime)
        core.learning.hold.exchange(fresh.learning.hold, EVENT)
        for actor in actors:
            core.users.put(fresh.users.get(actor) or UserState(actor, core.users.history))
        log.warning("counters are rebuilt: done", extra={"cuts": core.v - meta.v})
        return meta.v

    def _before(self, core: Core, left_out: Ranges) -> tuple[Checkpoint, Meta]:
        """The newest checkpoint before every place that is to be left out and was not when it was written."""
        at_most = core.v
        while (found := self._store.latest_checkpoint(at_most)) is not None:
            meta = meta_of({"meta/state": self._store.chunk(found.chunks["meta/state"])})
            if meta.generation != core.generation or self._resumed(meta.v, core.v):
                raise ValueError(f"the log was changed after version {meta.v}: its events cannot be counted again")
            if _is_before(meta.offsets, lacking(left_out, meta.left_out)):
                return found, meta
            at_most = found.version - 1
        raise ValueError(f"no checkpoint from before the range is kept: counters cannot be rebuilt; {ARCHIVE_FORM}")

    def _resumed(self, after: int, v: int) -> bool:
        """Did an operator go on elsewhere in the log, `learn --resume-at`, since?"""
        while after < v and (found := self._store.versions_after(after)):
            if any(one.kind == "resume" and one.v <= v for one in found):
                return True
            after = found[-1].v
        return False

    def _at(self, checkpoint: Checkpoint, meta: Meta) -> Core:
        base = self._base_of(meta.base)
        if base is None:
            raise ValueError(f"the base of version {meta.v} is not here: repl-ranker base fetch, then ask again")
        fresh = self._make(base, msgspec.convert(meta.rules, Rules))
        restore(fresh, self._store.load_chunks(checkpoint), learned=True)
        fresh.adopt(meta, learned=True)
        return fresh

    def _cuts(self, core: Core, v: int) -> Iterator[Record]:
        """The records of the cuts after the core's version, up to version v."""
        while core.v < v:
            at = core.v - core.first_cut
            found = self._log.read("cut", at, min(1_000, v - core.v))
            if not found or found[0].offset != at:
                raise OffsetLost(f"the cut of version {core.v + 1} is not on the log any more", field="cut", value=at)
            yield from found

    def _actors(self, core: Core, left_out: Ranges) -> set[int]:
        """Who did something in these places, as far as the core has read: their states differ."""
        found = set()
        for first, last in left_out:
            (partition, at), (_, end) = partition_and_offset(first), partition_and_offset(last)
            end = min(end, core.offsets.get(offset_key("event", partition), 0))
            while at < end and (records := self._log.read("event", at, min(_READ, end - at), partition)):
                found |= {_actor(record) for record in records if record.offset < end}
                at = records[-1].offset + 1
        return found - {0}


def lacking(wanted: Ranges, there: Ranges) -> Ranges:
    """The parts of `wanted` that lie in none of the ranges that are there."""
    found = []
    for start, end in wanted:
        for first, last in merge(there):
            if start < last and first < end:
                found += [(start, first)] if start < first else []
                start = last
        found += [(start, end)] if start < end else []
    return found


def _actor(record: Record) -> int:
    if record.kind != "interaction":
        return 0
    try:
        event = events.from_bytes(record.body)
    except ReplError:
        return 0
    return actor_key(event.user, event.session) if isinstance(event, events.InteractionEvent) else 0


def _starts(left_out: Ranges) -> Offsets:
    """The first place of each partition that is left out."""
    found: Offsets = {}
    for first, _ in left_out:
        partition, offset = partition_and_offset(first)
        name = offset_key("event", partition)
        found[name] = min(found.get(name, offset), offset)
    return found


def _is_before(offsets: Offsets, ranges: Ranges) -> bool:
    """Has nothing of these ranges been read at these offsets?"""
    return all(offsets.get(name, 0) <= at for name, at in _starts(ranges).items())
