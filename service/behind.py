"""How far the trainer is behind the log: what it has not read, and for how long that has waited. It asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from features.event_log import EventLog
from features.records import Stream, offset_key

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
    for stream in LEARNED:
        name = offset_key(stream)
        start, end = read_through.get(name, 0), ends.get(name, 0)
        if end > start:
            records += end - start
            longest = max(longest, now - _written(log, stream, start, now))
    return Behind(records, longest)


def _written(log: EventLog, stream: Stream, start: int, now: int) -> int:
    """When the first record from `start` on was appended, ms; now where it is gone (or just being written)."""
    first = max(start, log.start_offsets().get(offset_key(stream), 0))
    found = log.read(stream, first, 1)
    return found[0].append_time if found else now
