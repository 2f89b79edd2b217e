"""Where the served records lie: ranking key → place, bodies fetched by it. It joins nothing.

Bodies of the newest records are kept in memory, those of a cut until its end, only to spare a read: what is found does
not depend on it.
"""

from __future__ import annotations

from collections import OrderedDict

from features.errors import LogError
from features.event_log import EventLog
from features.hash_window import HashWindow
from features.keys import text_key
from features.records import Record, ServedRecord, partition_and_offset

ENTRIES = 500_000
AGE_MS = 3_600_000
CACHE_BYTES = 32 << 20


def ranking_key(tenant: str, id: str) -> int:
    """What a ranking and its served record meet by."""
    return text_key("ranking", f"{tenant}\0{id}")


class ServedIndex:
    """Served records of the last hour of event time, at most ENTRIES."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.window = HashWindow(ENTRIES, AGE_MS)
        self._bodies: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def add(self, key: int, record: Record) -> bool:
        """Remember where the record of this key lies; False when there is one already."""
        if not self.window.add(key, record.place, record.effective_time):
            return False
        self._bodies[record.place] = record.body
        self._bytes += len(record.body)
        return True

    def end_cut(self) -> None:
        """Let go of bodies beyond CACHE_BYTES, the oldest first. Not before: behind a backlog a cut brings more than
        that, in its batch anyway, and its first rankings ask for its first records."""
        while self._bytes > CACHE_BYTES:
            self._bytes -= len(self._bodies.popitem(last=False)[1])

    def get(self, key: int) -> ServedRecord | None:
        """The served record of this key; None where none is known, or the log has dropped it."""
        at = self.window.get(key)
        if at is None:
            return None
        body = self._bodies.get(at)
        if body is None:
            partition, offset = partition_and_offset(at)
            record = self._log.get("served", offset, partition)
            if record is None:
                return None
            body = record.body
        try:
            return ServedRecord.from_bytes(body)
        except LogError:
            return None
