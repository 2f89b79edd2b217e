"""The embedded event log: SQLite files in WAL mode, log.db (event, served, dead-letter), trainer.db (cut, control).

A commit survives `kill -9`; with `fsync` also power loss, else a thread makes all of it durable once a second, and
moves it from the write-ahead log into the file, so that no append waits for the disk.
Appends of many threads share a transaction (group commit); several processes may append, each in its turn. How a file
is written stands in `event_log_sqlite.py`, what it lets go of in `event_log_retention.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.durable import sync_directory
from features.errors import LogError, OffsetLost
from features.event_log import EVERY_PROMISE, Clock, Promise, system_clock
from features.event_log_each import MOST_BYTES, EachPartition
from features.event_log_identity import StoredIdentity
from features.event_log_retention import blank_user, retain
from features.event_log_sqlite import LogLimits, StreamFile, distinct, table
from features.records import NewRecord, Offsets, Record, Stream

__all__ = ["EmbeddedEventLog", "LogLimits"]

log = logging.getLogger(__name__)

FILES: dict[str, tuple[Stream, ...]] = {
    "log.db": ("event", "served", "dead-letter"),
    "trainer.db": ("cut", "control"),
}
_SELECT = "SELECT offset, kind, tenant, timestamp, append_time, imported, key, body FROM"
_FETCH = 500
_VACUUM_PAGES = 4_096


class EmbeddedEventLog(EachPartition):
    """`EventLog` on two SQLite files of `data_dir`, one partition each stream. See the module's docstring."""

    promises: frozenset[Promise] = EVERY_PROMISE

    def __init__(self, data_dir: Path, limits: LogLimits | None = None, clock: Clock = system_clock) -> None:
        """Open or make the files. Raises LogError."""
        self.limits = limits or LogLimits()
        self.data_dir = data_dir
        self._files: dict[Stream, StreamFile] = {}
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            for name, streams in FILES.items():
                file = StreamFile(data_dir / name, streams, self.limits, clock)
                self._files.update(dict.fromkeys(streams, file))
            sync_directory(data_dir)
        except (OSError, LogError) as error:
            for file in distinct(self._files.values()):
                file.close()
            if isinstance(error, LogError):
                raise
            raise LogError(
                f"cannot use the data directory: {error}", field="data_dir", value=data_dir
            ) from error
        self._distinct = distinct(self._files.values())
        self._closed = threading.Event()
        self._syncer = threading.Thread(target=self._sync_each_second, name="log-sync", daemon=True)
        if not self.limits.fsync:
            self._syncer.start()

    def _sync_each_second(self) -> None:
        while not self._closed.wait(1.0):
            try:
                self.sync()
            except LogError as error:
                log.error("the log is not durable", extra={"reason": error.message})

    def identity(self) -> StoredIdentity:
        """Which log this is: the number that each stream's file drew when it was made."""
        return StoredIdentity({stream: file.identity() for stream, file in self._files.items()})

    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        """See `EventLog.append`."""
        return self._files[stream].append(stream, records) if records else []

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = MOST_BYTES
    ) -> list[Record]:
        """See `EventLog.read`."""
        if partition != 0:
            return []
        query = f"{_SELECT} {table(stream)} WHERE offset >= ? ORDER BY offset LIMIT ?"
        found: list[Record] = []
        with self._files[stream].reading() as connection:
            cursor = connection.execute(query, (start, limit))
            while max_bytes > 0 and (rows := cursor.fetchmany(_FETCH)):
                found += [_record(stream, row) for row in rows]
                max_bytes -= sum(len(row[7]) for row in rows)
            cursor.close()
        if not found or found[0].offset > start:
            self._check_start(stream, start)
        return found

    def _check_start(self, stream: Stream, start: int) -> None:
        first = self._files[stream].ends("first")[f"{stream}/0"]
        if start < first:
            raise OffsetLost(
                f"{stream}/0 begins at offset {first}: what lies before has expired",
                field="offset",
                value=start,
                hint="resume from the first offset, or restore an older copy of the data directory",
            )

    def get(self, stream: Stream, offset: int, partition: int = 0) -> Record | None:
        """See `EventLog.get`."""
        with self._files[stream].reading() as connection:
            row = connection.execute(f"{_SELECT} {table(stream)} WHERE offset = ?", (offset,)).fetchone()
        return _record(stream, row) if row is not None and partition == 0 else None

    def end_offsets(self) -> Offsets:
        """See `EventLog.end_offsets`."""
        return {name: at for file in self._distinct for name, at in file.ends("next").items()}

    def start_offsets(self) -> Offsets:
        """See `EventLog.start_offsets`."""
        return {name: at for file in self._distinct for name, at in file.ends("first").items()}

    def blank_user(self, tenant: str, user: str, before: int | None = None) -> int:
        """See `EventLog.blank_user`. Reads beside the appends; writes in steps."""
        return blank_user(self._files["event"], tenant, user, before)

    def retain(self, now: int, keep: Offsets) -> Mapping[str, int]:
        """See `EventLog.retain`. Works in steps, so that appends go on."""
        counts: dict[str, int] = {}
        for file in self._distinct:
            counts.update(retain(file, now, keep))
            file.vacuum(_VACUUM_PAGES)
        return counts

    def sync(self) -> None:
        """See `EventLog.sync`."""
        for file in self._distinct:
            file.sync()

    def close(self) -> None:
        """Stop the thread, make all durable, close the files."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._syncer.is_alive():
            self._syncer.join()
        self.sync()
        for file in self._distinct:
            file.close()


def _record(stream: str, row: tuple[Any, ...]) -> Record:
    offset, kind, tenant, timestamp, append_time, imported, key, body = row
    return Record(stream, 0, offset, kind, tenant, timestamp, append_time, imported != 0, key, body)
