"""How far the trainer is behind the log: what it has not read, and for how long that has waited. It asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from features.event_log import EventLog
from features.records import Stream, partitions_in, split_key

LEARNED: tuple[Stream, ...] = ("event", "served", "control")
"""The streams that the trainer reads."""


class Behind(NamedTuple):
    """Records that wait, and for how long the oldest of them has lain in the log, ms."""

    records: int
    ms: int


def behind(log: EventLog, read_through: Mapping[str, int], now: int) -> Behind:
    """What of the trainer's streams lies past `read_through` (stream/partition → next offset). Raises LogError."""
    ends = log.end_offsets()
    records = longest = 0
    for name in (one for stream in LEARNED for one in partitions_in(stream, ends)):
        start, end = read_through.get(name, 0), ends[name]
        if end > start:
            records += end - start
            longest = max(longest, now - _written(log, name, start, now))
    return Behind(records, longest)


def _written(log: EventLog, name: str, start: int, now: int) -> int:
    """When the first record from `start` on was appended, ms; now where it is gone (or just being written)."""
    stream, partition = split_key(name)
    found = log.read(stream, max(start, log.start_offsets().get(name, 0)), 1, partition)
    return found[0].append_time if found else now
