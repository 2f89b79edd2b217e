"""Cuts: how far one step of the trainer goes in the log. It chooses them (live) and reads what they cover.

Live, the trainer's clock chooses; what was chosen is a record, and a replay follows the records. Nothing here
learns, and nothing but `choose` looks at a clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.errors import OffsetLost
from features.event_log import EventLog
from features.records import Cut, Offsets, Record, Stream, offset_key

READ: tuple[Stream, ...] = ("event", "served", "control")
MAX_RECORDS = 20_000
MAX_BYTES = 64 << 20
Batch = dict[Stream, list[Record]]


def _read_available(log: EventLog, start: Offsets, limit: int) -> tuple[Batch, bool]:
    """What can be read from `start` on, up to the bounds, and whether that was all there is."""
    ends = log.end_offsets()
    found: Batch = {}
    truncated: list[Stream] = []
    for stream in READ:
        name = offset_key(stream)
        at, records = start.get(name, 0), []
        if ends.get(name, 0) > at:
            records = log.read(stream, at, limit, 0, MAX_BYTES)
        found[stream] = records
        reached = records[-1].offset + 1 if records else at
        if records and reached < ends.get(name, 0):
            truncated.append(stream)
    if truncated:
        _align(found, truncated)
    return found, not truncated


def _align(found: Batch, truncated: list[Stream]) -> None:
    """Behind a backlog the streams advance together, by append time: a ranking and its served record meet."""
    horizon = min(found[stream][-1].append_time for stream in truncated)
    kept = {
        stream: next((k for k, one in enumerate(records) if one.append_time > horizon), len(records))
        for stream, records in found.items()
    }
    if any(kept.values()):
        for stream, n in kept.items():
            del found[stream][n:]


def choose(
    log: EventLog, start: Offsets, watermark: int, now: int, due: int | None, limit: int = MAX_RECORDS
) -> tuple[Cut, Batch, bool] | None:
    """The next cut after `start`, what it covers, and whether it reaches the end of the log.

    watermark: of the cut before; now: the trainer's clock, ms; due: the watermark at which something held is
    due. None when there is nothing to do."""
    found, caught_up = _read_available(log, start, limit)
    offsets = dict(start)
    for stream, records in found.items():
        if records:
            offsets[offset_key(stream)] = records[-1].offset + 1
    if caught_up:
        if offsets == start and (due is None or due > now):
            return None
        return Cut(offsets, max(watermark, now)), found, True
    times = [one.effective_time if one.imported else one.append_time for part in found.values() for one in part]
    return Cut(offsets, max([watermark, *times])), found, False


def cover(log: EventLog, start: Mapping[str, int], cut: Cut) -> Batch:
    """All records from `start` up to a cut that was recorded. Raises OffsetLost when some are gone."""
    found: Batch = {}
    for stream in READ:
        name = offset_key(stream)
        at, end, records = start.get(name, 0), cut.offsets.get(name, 0), []
        while at < end:
            part = [one for one in log.read(stream, at, min(MAX_RECORDS, end - at)) if one.offset < end]
            if not part:
                break
            records += part
            at = part[-1].offset + 1
        if stream != "served" and sum(1 for _ in records) < end - start.get(name, 0):
            raise OffsetLost(f"records of {name} before {end} are gone", field=name, value=at)
        found[stream] = records
    return found
