"""Records of several streams and any number of partitions in one order of time, streamed. It keeps no offsets.

Each partition is read from its first record to where it ended when this began, a page at a time; so memory is one page
a partition. Within a partition the log's own order stays, also where times go back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from features.errors import LogError
from features.event_log import EventLog
from features.records import Record, Stream, partitions_in, split_key

PAGE = 2_000
_RETRIES = 3


def partitions(log: EventLog, stream: Stream) -> dict[int, tuple[int, int]]:
    """By partition: the first offset that can be read, and the one after the last."""
    starts, ends = log.start_offsets(), log.end_offsets()
    return {split_key(name)[1]: (starts.get(name, 0), ends[name]) for name in partitions_in(stream, ends)}


def records(log: EventLog, stream: Stream, partition: int, start: int, end: int) -> Iterator[Record]:
    """Those of one partition with start ≤ offset < end; what expires meanwhile is passed over."""
    lost = 0
    while start < end:
        try:
            page = log.read(stream, start, PAGE, partition)
        except LogError:  # retention overtook the reader
            lost += 1
            first = log.start_offsets().get(f"{stream}/{partition}", 0)
            if lost > _RETRIES or first <= start:
                raise
            start = first
            continue
        if not page:
            return
        yield from (record for record in page if record.offset < end)
        start = page[-1].offset + 1


def merged(log: EventLog, leads: Mapping[Stream, int]) -> Iterator[Record]:
    """All records of these streams by effective time; a stream comes so many ms earlier than its records say."""

    def timed(stream: Stream, partition: int, start: int, end: int, lead: int) -> Iterator[tuple[int, Record]]:
        for record in records(log, stream, partition, start, end):
            yield record.effective_time - lead, record

    parts = [
        timed(stream, number, start, end, lead)
        for stream, lead in leads.items()
        for number, (start, end) in sorted(partitions(log, stream).items())
    ]
    return (record for _, record in heapq.merge(*parts, key=lambda pair: pair[0]))
