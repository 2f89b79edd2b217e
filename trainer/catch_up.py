"""A pair that is new learns what the log still holds of the time since its base was trained, a bounded part a cut.

How far it reads in a cut follows from the log and from the cut alone, so that a replay reads the same. Rankings count
whose served record is there (`rest` as logged; `hidden` from the user's state, cut at the time of that answer); of the
others the counters of then are not known any more. It reads `event` and `served`, and moves nothing but that pair.
"""

from __future__ import annotations

import msgspec
import numpy as np

from features import events
from features.errors import OffsetLost, ReplError
from features.event_log import EventLog
from features.hash_window import HashWindow
from features.keys import actor_key, item_key
from features.records import Offsets, Record, ServedRecord, marked, partitions_in
from trainer.join_rows import JOIN_WAIT_MS
from trainer.served import ServedIndex, ranking_key
from trainer.shadow import Shadow

LEAST = 200
"""Records of a partition that a cut reads at least; it reads twice what the cut covers, or it would never arrive."""


class CatchUp:
    """Feeds one pair from the log behind the cuts."""

    def __init__(self, log: EventLog, shadow: Shadow, dedup: HashWindow) -> None:
        """dedup: the place at which each event counted."""
        self._log, self._shadow, self._dedup = log, shadow, dedup
        self.served = ServedIndex(log)
        shadow.use_served(self.served)

    def step(self, end: Offsets, budget: int, hold: int, generation: int) -> bool:
        """Read on, up to `end` at most; True when that is reached and the pair is live from the next cut on."""
        wanted = {name: end[name] for stream in ("event", "served") for name in partitions_in(stream, end)}
        found = {name: marked(records, generation) for name, records in self._part(wanted, budget).items()}
        shadow = self._shadow
        for record in (one for name in partitions_in("served", sorted(found)) for one in found[name]):
            self._take_served(record)
        mine = [one for name in partitions_in("event", found) for one in found[name]]
        for record in sorted(mine, key=lambda one: (one.effective_time, one.place)):
            self._take(record)
        times = [one.effective_time if one.imported else one.append_time for one in mine]
        shadow.watermark = max([shadow.watermark, *times])
        shadow.release(shadow.watermark - hold)
        self.served.end_cut()
        return all(shadow.cursor.get(name, 0) >= at for name, at in wanted.items())

    def _part(self, end: Offsets, budget: int) -> dict[str, list[Record]]:
        """Records by partition. Events reach as far as served records do, less the time a ranking waits for its own."""
        cursor, found = self._shadow.cursor, {}
        horizon: int | None = None
        for name, at in sorted(end.items()):
            records, reached = self._records(name, cursor.get(name, 0), at, budget)
            found[name], cursor[name] = records, max(cursor.get(name, 0), reached)
            if reached < at and records:
                last = records[-1].append_time - _lead(name)
                horizon = last if horizon is None else min(horizon, last)
        if horizon is not None:
            for name, records in found.items():
                kept = next((k for k, one in enumerate(records) if one.append_time > horizon + _lead(name)), None)
                if kept is not None:  # the next time
                    cursor[name] = records[kept].offset
                    del records[kept:]
        return found

    def _records(self, name: str, at: int, end: int, budget: int) -> tuple[list[Record], int]:
        """Up to `budget` records before `end`, and the offset that was reached."""
        try:
            found = self._read(name, at, end, budget)
        except OffsetLost:  # retention took them before they were needed
            found = self._read(name, min(end, self._log.start_offsets().get(name, end)), end, budget)
        return found

    def _read(self, name: str, at: int, end: int, budget: int) -> tuple[list[Record], int]:
        if at >= end:
            return [], end
        read = self._log.read_many({name: at}, {name: end}, budget)
        records = [one for one in read.records.get(name, []) if one.offset < end][:budget]
        if not records:
            return [], end
        last = records[-1].offset + 1
        whole = read.reached.get(name, last) >= end and len(records) < budget
        return records, end if whole else last

    def _take_served(self, record: Record) -> None:
        try:
            found = ServedRecord.from_bytes(record.body)
        except ReplError:  # a dead letter since its cut
            return
        self.served.add(ranking_key(record.tenant, found.request_id), record)

    def _take(self, record: Record) -> None:
        if record.kind not in ("ranking", "interaction"):
            return
        try:
            event = events.from_bytes(record.body)
        except ReplError:
            return
        first = self._dedup.get(events.event_hash(event))
        if first is not None and first != record.place:
            return
        if isinstance(event, events.InteractionEvent):
            kind = self._shadow.reconstruct.assembler.catalogue.schema.behaviours.get(event.type, -1)
            if kind >= 0 and event.ranking is not None:
                key = ranking_key(record.tenant, event.ranking)
                self._shadow.act(record.effective_time, kind, item_key(event.item), key, record.place)
        elif isinstance(event, events.RankingEvent):
            self._ranking(event, record)

    def _ranking(self, event: events.RankingEvent, record: Record) -> None:
        """As far as its served record reaches."""
        shadow = self._shadow
        join, found = shadow.learning.join, self.served.get(ranking_key(record.tenant, event.id))
        logged = set() if found is None else set(found.items)
        shown = [item for item in event.items if item.id in logged]
        join.count("not_logged", len(event.items) - len(shown))
        if found is None or not shown or not self._fits(found, record, event):
            return
        small = msgspec.structs.replace(event, items=tuple(shown))
        keys = np.fromiter((item_key(item.id) for item in shown), np.uint64, len(shown))
        positions = np.fromiter((min(item.position, 32_767) for item in shown), np.int16, len(shown))
        catalogue = shadow.reconstruct.assembler.catalogue
        rows = catalogue.rows_of_keys(keys)
        categories = np.zeros(len(shown), np.uint64)
        categories[rows >= 0] = catalogue.category[rows[rows >= 0]]
        shadow.show_logged(small, record, rows, keys, categories, positions)

    def _fits(self, found: ServedRecord, record: Record, event: events.RankingEvent) -> bool:
        """Is it this user's record, with this layout's `rest`?"""
        shadow = self._shadow
        rest = shadow.learning.join.d - shadow.artifact.manifest.hidden
        same = actor_key(found.user, found.session) == actor_key(event.user, event.session)
        return same and found.tenant == record.tenant and found.z_rows().shape[1] - found.hidden == rest


def _lead(name: str) -> int:
    """How far (ms) a partition is read ahead of the events."""
    return JOIN_WAIT_MS if name.startswith("served/") else 0
