"""Reading several partitions with one consumer: where it stands, what it is given, how far that goes.

It imports no client and opens none: `event_log_kafka.py` hands in the consumer, and turns its errors into ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from features.errors import LogError
from features.records import Record

POLL = 500
_POLL_MS = 200
Make = Callable[[Any, Any], Record]
"""The record of a message, given the partition it came from. Raises LogError for a newer format."""


@dataclass
class Taken:
    """Records by partition, the offset that each is read through, bytes so far, and whether that was all (`tail`)."""

    records: dict[Any, list[Record]] = field(default_factory=dict)
    reached: dict[Any, int] = field(default_factory=dict)
    bytes: dict[Any, int] = field(default_factory=dict)
    whole: bool = False


def stand(reader: Any, starts: Mapping[Any, int]) -> None:
    """Put the consumer where it shall go on; where it stands there already it keeps what it has fetched."""
    for at, start in starts.items():
        if reader.position(at) != start:
            reader.seek(at, start)


def take(taken: Taken, at: Any, messages: Sequence[Any], make: Make) -> bool:
    """Add a partition's messages; False where a record of a newer format stopped it. One that is the first to be read
    raises LogError: it is not passed over."""
    found = taken.records.setdefault(at, [])
    for message in messages:
        try:
            found.append(make(at, message))
        except LogError:
            if not found:
                raise
            taken.reached[at] = message.offset
            return False
        taken.bytes[at] = taken.bytes.get(at, 0) + len(message.value or b"")
    return True


def gather(
    reader: Any, ends: Mapping[Any, int], limit: int, max_bytes: int, seconds: float, make: Make
) -> Taken:
    """Poll until each partition is read to its end, to about `limit` records (exactly, where it is one) or `max_bytes`.

    Raises TimeoutError where nothing came for `seconds`."""
    taken, stopped, until = Taken(), set[Any](), time.monotonic() + seconds
    waiting = list(ends)
    while waiting := [at for at in waiting if _goes_on(reader, taken, at, ends[at], limit, max_bytes)]:
        most = POLL if len(ends) > 1 else min(POLL, limit - sum(map(len, taken.records.values())))
        parts = reader.poll(_POLL_MS, max_records=most)
        for at, messages in parts.items():
            if at not in stopped and not take(taken, at, messages, make):
                stopped.add(at)
        waiting = [at for at in waiting if at not in stopped]
        if parts:
            until = time.monotonic() + seconds
        elif time.monotonic() > until:
            raise TimeoutError(f"nothing came from {len(waiting)} of {len(ends)} partitions")
    for at in ends:
        taken.reached.setdefault(at, reader.position(at))
    return taken


def _goes_on(reader: Any, taken: Taken, at: Any, end: int, limit: int, max_bytes: int) -> bool:
    count = len(taken.records.get(at, ()))
    enough = count >= limit or (count > 0 and sum(taken.bytes.values()) >= max_bytes)
    return not enough and reader.position(at) < end


def tail(reader: Any, parts: Sequence[Any], limit: int, wait: float, make: Make) -> Taken:
    """What is there now, at most about `limit`; where there is nothing, the first within `wait` seconds."""
    taken, left, timeout = Taken(), limit, int(wait * 1_000)
    while left > 0:
        found = reader.poll(timeout, max_records=min(POLL, left))
        for at, messages in found.items():
            left = left - len(messages) if take(taken, at, messages, make) else 0
        timeout = 0
        if not found:
            break
    for at in parts:
        taken.reached.setdefault(at, reader.position(at))
    taken.whole = all((end := reader.highwater(at)) is not None and end <= taken.reached[at] for at in parts)
    return taken
