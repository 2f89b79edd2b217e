"""Follows the log into an archive, each record once. It merges no parts (`trainer/archive/tidy.py`) and reads none.

The steps of a flush, each a point where a crash test kills the process:

  1. the records from the manifest's offsets on are read, up to the bounds, and written as parts, named by content
  2. a manifest that names these parts and the offsets behind them is created: from here on they are archived
  3. manifests that nobody needs any more are deleted

Killed before 2, the same records are read again: parts of the same content get the same names, others stay orphans,
which no reader sees and `sweep` deletes. The sink keeps no place of its own beside the archive.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from features import events
from features.errors import LogError, OffsetLost, ReplError
from features.event_log import Clock, EventLog, system_clock
from features.event_log_archive_manifest import (
    KEPT,
    Began,
    Deletion,
    Gap,
    LogId,
    Manifest,
    Part,
    date_of,
    part_path,
)
from features.event_log_archive_parquet import encode
from features.event_log_archive_store import ArchiveStore
from features.event_log_identity import identity_of
from features.records import Offsets, Record, Stream, offset_key, split_key

log = logging.getLogger(__name__)

ROWS = 200_000
BYTES = 64 << 20
_READ = 20_000
TIDY_SECONDS = 3_600.0
RETRY_SECONDS = 5.0
Chunk = tuple[str, str, str]  # stream, tenant, date


def _no_step(number: int) -> None:
    """Nothing happens between the steps."""


class Sink:
    """One log into one archive; `flush` again and again. Raises LogError, Fenced."""

    def __init__(
        self,
        log: EventLog,
        store: ArchiveStore,
        *,
        began: Began | None = None,
        clock: Clock = system_clock,
        accept_gaps: bool = False,
        rows: int = ROWS,
        max_bytes: int = BYTES,
        steps: Callable[[int], None] = _no_step,
    ) -> None:
        """began: what the trainer learns with, for a new archive; rows, max_bytes: of one flush, which bounds memory;
        accept_gaps: go on where the log has lost records that were not archived, and remember that."""
        self._log, self.store, self._clock, self._steps = log, store, clock, steps
        self._accept_gaps, self._rows, self._bytes = accept_gaps, rows, max_bytes
        self._id = LogId(*identity_of(log))
        self.manifest = store.latest() or self._fresh(began)
        self._check_identity()

    def _fresh(self, began: Began | None) -> Manifest:
        starts = self._kept(self._log.start_offsets())
        return Manifest(number=0, log=self._id, starts=starts, offsets=dict(starts), parts=[], began=began)

    def _kept(self, offsets: Offsets) -> Offsets:
        return {name: at for name, at in offsets.items() if split_key(name)[0] in KEPT}

    def _check_identity(self) -> None:
        if self.manifest.log != self._id:
            raise LogError(
                "the archive is of another log: its topics have other ids", field="archive",
                value=f"archive: {self.manifest.log}; log: {self._id}",
                hint="was a topic made again? Archive the new log to another URL, or name the log of this archive",
            )  # fmt: skip

    def reload(self) -> None:
        """Go on from the newest manifest: a write that failed may have arrived. Raises LogError."""
        self.manifest = self.store.latest() or self.manifest

    def behind(self) -> int:
        """How many offsets of the log are not archived yet."""
        ends = self._kept(self._log.end_offsets())
        return sum(max(0, end - self.manifest.offsets.get(name, 0)) for name, end in ends.items())

    def catch_up(self) -> int:
        """Archive all that is on the log at this moment; how many records."""
        ends, total = self._kept(self._log.end_offsets()), 0
        while any(self.manifest.offsets.get(name, 0) < end for name, end in ends.items()) or not self.manifest.number:
            before, count = self.manifest.offsets, self.flush()
            total += count
            if not count and self.manifest.offsets == before:
                break  # what is left of the offsets holds no record
        return total

    def flush(self) -> int:
        """Archive the next records, up to the bounds; how many. 0: nothing was left."""
        starts, offsets, gaps = dict(self.manifest.starts), dict(self.manifest.offsets), list(self.manifest.gaps)
        self._meet_partitions(starts, offsets)
        records = self._read(offsets, gaps)
        if not records and offsets == self.manifest.offsets and self.manifest.number:
            return 0
        parts = [self._write(key, rows) for key, rows in _by_chunk(records).items()]
        self._steps(1)
        self._commit(parts, starts=starts, offsets=offsets, gaps=gaps, deletions=_deletions(records))
        self._steps(2)
        self.store.drop_old()
        self._steps(3)
        return len(records)

    def _meet_partitions(self, starts: Offsets, offsets: Offsets) -> None:
        """Partitions that the log was given since begin where they begin."""
        for name, at in self._kept(self._log.start_offsets()).items():
            if name not in offsets:
                starts[name] = offsets[name] = at

    def _read(self, offsets: Offsets, gaps: list[Gap]) -> list[Record]:
        """The next records of all streams; moves `offsets` behind them."""
        found: list[Record] = []
        rows, size, ends = self._rows, self._bytes, self._log.end_offsets()
        for name in sorted(offsets):
            stream, partition = split_key(name)
            while offsets[name] < ends.get(name, 0) and rows > 0 and size > 0:
                part = self._read_part(stream, partition, offsets, gaps, min(_READ, rows), size)
                if not part:
                    break
                found += part
                rows -= len(part)
                size -= sum(len(record.body) for record in part)
                offsets[name] = part[-1].offset + 1
        return found

    def _read_part(
        self, stream: Stream, partition: int, offsets: Offsets, gaps: list[Gap], limit: int, size: int
    ) -> list[Record]:
        name = offset_key(stream, partition)
        try:
            return self._log.read(stream, offsets[name], limit, partition, size)
        except OffsetLost as error:
            first = self._log.start_offsets().get(name, 0)
            if not self._accept_gaps or first <= offsets[name]:
                error.hint = (
                    f"the archive stands at {offsets[name]}: go on without what lies between with --accept-gaps, "
                    "or archive to another URL"
                )
                raise
            gaps.append(Gap(name, offsets[name], first))
            offsets[name] = first
            return self._log.read(stream, first, limit, partition, size)

    def _write(self, key: Chunk, records: list[Record]) -> Part:
        stream, tenant, date = key
        return write_part(self.store, stream, tenant, date, records, self._id.topics[stream])

    def _commit(self, parts: list[Part], *, deletions: list[Deletion], **more: object) -> None:
        found = msgspec.structs.replace(
            self.manifest, number=self.manifest.number + 1, parts=[*self.manifest.parts, *parts],
            deletions=[*self.manifest.deletions, *deletions], written=self._clock(), **more,
        )  # fmt: skip
        self.manifest = self.store.commit(found, [part.path for part in parts])


def write_part(
    store: ArchiveStore, stream: str, tenant: str, date: str, records: list[Record], topic: str
) -> Part:
    """Write records as a part, which no manifest names yet. Raises LogError."""
    records.sort(key=lambda record: (record.partition, record.offset))
    spans: dict[str, tuple[int, int]] = {}
    for record in records:
        name = offset_key(stream, record.partition)
        spans[name] = (spans[name][0] if name in spans else record.offset, record.offset)
    data = encode(records, topic)
    sha256 = hashlib.sha256(data).hexdigest()
    path = part_path(tenant, date, stream, spans, sha256)
    store.place.put(path, data)
    body = sum(len(record.body) for record in records)
    return Part(path, stream, tenant, date, len(records), len(data), body, sha256, spans)


def _by_chunk(records: Iterable[Record]) -> dict[Chunk, list[Record]]:
    found: dict[Chunk, list[Record]] = {}
    for record in records:
        found.setdefault((record.stream, record.tenant, date_of(record)), []).append(record)
    return found


def _deletions(records: Iterable[Record]) -> list[Deletion]:
    """Users who were deleted by these records. What cannot be read deletes nobody."""
    found = []
    for record in records:
        if record.stream != "event" or record.kind != "user":
            continue
        try:
            event = events.from_bytes(record.body)
        except ReplError:
            continue
        if isinstance(event, events.UserEvent) and event.op == "delete":
            found.append(Deletion(record.tenant, event.user, record.partition, record.offset, record.append_time))
    return found


def follow(sink: Sink, stop: threading.Event, every_seconds: float, tidy: Callable[[], None]) -> None:
    """Archive all there is whenever `every_seconds` have passed, and tidy once an hour, until `stop`.

    A log or an archive that does not answer is tried again. Raises Fenced, OffsetLost; nothing is half done then.
    """
    tidied: float | None = None
    sound = True
    while not stop.is_set():
        try:
            if not sound:
                sink.reload()
            sink.catch_up()
            if tidied is None or time.monotonic() - tidied >= TIDY_SECONDS:
                tidy()
                tidied = time.monotonic()
            sound = True
        except OffsetLost:
            raise
        except LogError as error:
            log.error("log or archive does not answer; trying again", extra={"reason": error.message})
            sound = False
        stop.wait(every_seconds if sound else min(every_seconds, RETRY_SECONDS))
