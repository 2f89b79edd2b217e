"""Cuts: how far one step of the trainer goes in the log. It chooses them (live) and reads what they cover.

Live, the trainer's clock chooses; what was chosen is a record, and a replay follows the records. Nothing here
learns, and nothing but `choose` looks at a clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.errors import OffsetLost
from features.event_log import EventLog
from features.records import Cut, Many, Offsets, Record, Stream, offset_key, partitions_in, split_key

READ: tuple[Stream, ...] = ("event", "served", "control")
MAX_RECORDS = 20_000
Batch = dict[Stream, list[Record]]


def _read_available(log: EventLog, start: Offsets, limit: int) -> tuple[Many, bool]:
    """What can be read from `start` on, up to the bounds, and whether that was all there is. Raises OffsetLost where
    the log ends before `start`: then it is not the log that was learned from."""
    ends = log.end_offsets()
    for name, at in start.items():
        if ends.get(name, 0) < at:
            raise OffsetLost(
                f"{name} ends at offset {ends.get(name, 0)}, and has been learned from through {at}", field="offset",
                value=at, hint="was the topic made again, or an older copy restored? `learn --resume-at` goes on",
            )  # fmt: skip
    names = [name for stream in READ for name in partitions_in(stream, ends)]
    behind = {name: start.get(name, 0) for name in names if ends[name] > start.get(name, 0)}
    found = log.read_many(behind, ends, limit)
    truncated = [name for name, at in found.reached.items() if at < ends[name]]
    if truncated:
        _align(found, truncated)
    return found, not truncated


def _align(found: Many, truncated: list[str]) -> None:
    """Behind a backlog all partitions advance together, by append time: a ranking and its served record meet."""
    ahead = [found.records[name][-1].append_time for name in truncated if name in found.records]
    horizon = min(ahead, default=0)
    kept = {
        name: next((k for k, one in enumerate(records) if one.append_time > horizon), len(records))
        for name, records in found.records.items()
    }
    if not any(kept.values()):
        return
    for name, n in kept.items():
        records = found.records[name]
        if n < len(records):
            found.reached[name] = records[n].offset
            del records[n:]


def _batch(records: Mapping[str, list[Record]]) -> Batch:
    """By stream, one partition after the other: the same for the same records, however they were read."""
    found: Batch = {stream: [] for stream in READ}
    for stream, partition in sorted(map(split_key, records)):
        found[stream] += records[offset_key(stream, partition)]
    return found


def choose(
    log: EventLog, start: Offsets, watermark: int, now: int, due: int | None, limit: int = MAX_RECORDS
) -> tuple[Cut, Batch, bool] | None:
    """The next cut after `start`, what it covers, and whether it reaches the end of the log.

    watermark: of the cut before; now: the trainer's clock, ms; due: the watermark at which something held is
    due. None when there is nothing to do."""
    found, caught_up = _read_available(log, start, limit)
    offsets, batch = {**start, **found.reached}, _batch(found.records)
    if caught_up:
        if offsets == start and (due is None or due > now):
            return None
        return Cut(offsets, max(watermark, now)), batch, True
    times = [one.effective_time if one.imported else one.append_time for part in batch.values() for one in part]
    return Cut(offsets, max([watermark, *times])), batch, False


def cover(log: EventLog, start: Offsets, cut: Cut) -> Batch:
    """All records from `start` up to a cut that was recorded. Raises OffsetLost when some are gone."""
    found: dict[str, list[Record]] = {}
    left = {name: start.get(name, 0) for name, end in cut.offsets.items() if start.get(name, 0) < end}
    while left:
        part = log.read_many(left, cut.offsets, MAX_RECORDS)
        for name, records in part.records.items():
            found.setdefault(name, []).extend(one for one in records if one.offset < cut.offsets[name])
        after = {name: at for name, at in part.reached.items() if at < cut.offsets[name]}
        if after == left:
            raise OffsetLost(
                "records before a cut cannot be read", field="offset", value=after, hint="is this another log?"
            )
        left = after
    if "retains" in log.promises:
        _all_there(found, start, cut)
    return _batch(found)


def _all_there(found: Mapping[str, list[Record]], start: Offsets, cut: Cut) -> None:
    """Where a log's offsets are dense, what is missing has expired. (Served records may be thinned.)"""
    for name, end in cut.offsets.items():
        at = start.get(name, 0)
        if split_key(name)[0] != "served" and len(found.get(name, ())) < end - at:
            raise OffsetLost(f"records of {name} before {end} are gone", field=name, value=at)
