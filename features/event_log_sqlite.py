"""One SQLite file of log streams: group commit, reading, making durable. What is kept how long stands elsewhere
(`event_log_retention.py`), which ids count once in `event_log_ids.py`, how processes wait for each other in
`event_log_connection.py`.

The file must never be opened and closed here beside SQLite's own connections: closing any descriptor of it drops the
locks that SQLite holds on it in this process. `sync` therefore touches the write-ahead log only.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from features import event_log_ids
from features.errors import LogError
from features.event_log import Clock
from features.event_log_connection import begin, connect, explained
from features.records import NewRecord, Offsets, Stream

FORMAT = 1
_CACHE_KIB = 8 << 10
_VACUUM_STEP = 256  # pages
_PAGES = 64  # about what a transaction writes, and one for each record
_COPY_PAGES = 4_000
_WAL_PAGES = 64_000  # 256 MB: should nobody else copy them, an append does
_COLUMNS = (
    "offset, kind, tenant, timestamp, append_time, imported, key, hash, body"  # body last: it may be long
)


@dataclass(frozen=True)
class LogLimits:
    """Bounds of the embedded log (`service/settings.py`)."""

    fsync: bool = False
    event_age_ms: int = 90 * 86_400_000
    served_age_ms: int = 48 * 3_600_000
    max_bytes: int = 4 << 30
    dedup_age_ms: int = 86_400_000
    dedup_ids: int = 1_000_000


@dataclass
class _Waiting:
    stream: Stream
    records: Sequence[NewRecord]
    offsets: list[int | None] = field(default_factory=list)
    error: LogError | None = None
    done: bool = False


def table(stream: str) -> str:
    """The table of a stream, quoted."""
    return '"log_' + stream.replace("-", "_") + '"'


class StreamFile:
    """A writing connection behind `lock`, and a pool of reading ones."""

    def __init__(self, path: Path, streams: tuple[Stream, ...], limits: LogLimits, clock: Clock) -> None:
        self.path, self.streams, self.limits, self.clock = path, streams, limits, clock
        self.lock = threading.Lock()
        self._pending_lock = threading.Lock()
        self._pending: list[_Waiting] = []
        self._readers: list[sqlite3.Connection] = []
        self._ids = event_log_ids.EventIds(limits)
        self._to_copy = 0
        self._closed = False
        with explained(path):
            self._writer = connect(self.path)
            try:
                self._writer.execute(f"PRAGMA synchronous={'FULL' if limits.fsync else 'NORMAL'}")
                self._writer.execute(f"PRAGMA journal_size_limit={64 << 20}")
                self._writer.execute(f"PRAGMA cache_size={-_CACHE_KIB}")
                self._writer.execute("PRAGMA busy_timeout=0")  # `begin` waits
                if not limits.fsync:  # else every commit waits for the disk anyway
                    self._writer.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
                self._create()
            except BaseException:
                self._writer.close()
                raise

    def _create(self) -> None:
        with self.transaction() as w:
            w.execute("CREATE TABLE IF NOT EXISTS log_meta(name TEXT PRIMARY KEY, value INTEGER)")
            w.execute("INSERT OR IGNORE INTO log_meta VALUES('format', ?)", (FORMAT,))
            w.execute("INSERT OR IGNORE INTO log_meta VALUES('identity', random() & 0x7fffffffffffffff)")
            found = int(w.execute("SELECT value FROM log_meta WHERE name = 'format'").fetchone()[0])
            if found > FORMAT:
                raise LogError(
                    f"{self.path.name} has format {found}, this code knows {FORMAT}",
                    hint="update this process",
                )
            w.execute(
                "CREATE TABLE IF NOT EXISTS log_ends(stream TEXT PRIMARY KEY, first INTEGER, next INTEGER)"
            )
            w.execute(event_log_ids.TABLE)
            for stream in self.streams:
                w.execute(
                    f"CREATE TABLE IF NOT EXISTS {table(stream)}(offset INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
                    " tenant TEXT NOT NULL, timestamp INTEGER NOT NULL, append_time INTEGER NOT NULL,"
                    " imported INTEGER NOT NULL, key TEXT NOT NULL, hash INTEGER NOT NULL, body BLOB NOT NULL)"
                )
                w.execute("INSERT OR IGNORE INTO log_ends VALUES(?, 0, 0)", (stream,))

    def identity(self) -> str:
        """The number that this file drew when it was made, in hex."""
        with self.reading() as connection:
            found = connection.execute("SELECT value FROM log_meta WHERE name = 'identity'").fetchone()
        return f"{found[0]:016x}"

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with; nobody else has it meanwhile. Its cursors are to be read to the end or closed."""
        with explained(self.path):
            try:
                connection = self._readers.pop()
            except IndexError:
                if self._closed:
                    raise LogError(f"{self.path.name} is closed") from None
                connection = connect(self.path)
            try:
                yield connection
            finally:
                self._readers.append(connection)
                if self._closed:
                    self._close_readers()

    # appending: whoever holds the lock commits for all who wait
    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        """Offsets, None for a duplicate; returns after the commit."""
        mine = _Waiting(stream, records)
        with self._pending_lock:
            self._pending.append(mine)
        with self.lock:
            if not mine.done:
                self._commit_pending()
        if mine.error is not None:
            raise mine.error
        return mine.offsets

    def _commit_pending(self) -> None:
        with self._pending_lock:
            batch, self._pending = self._pending, []
        if self._commit(batch) is None or len(batch) == 1:
            return
        for waiting in batch:  # one of them is bad, or all of them fail: each gets its own answer
            self._commit([waiting])

    def _commit(self, batch: list[_Waiting]) -> LogError | None:
        error: LogError | None = None
        try:
            with self.transaction() as writer:
                for waiting in batch:
                    waiting.offsets = self._insert(writer, waiting.stream, waiting.records)
                    self._to_copy += len(waiting.records)
        except LogError as failed:
            error = failed
        except Exception as failed:  # a record that SQLite cannot hold: whoever sent it is told, nobody else
            error = LogError(
                f"a record cannot be stored: {failed}", hint="times are 64-bit, bodies are bytes"
            )
        for waiting in batch:
            waiting.error, waiting.done = error, True
        return error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; the caller holds the lock. All or nothing."""
        with explained(self.path):
            begin(self._writer)
            try:
                yield self._writer
                self._writer.execute("COMMIT")
                self._to_copy += _PAGES
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _insert(
        self, w: sqlite3.Connection, stream: Stream, records: Sequence[NewRecord]
    ) -> list[int | None]:
        now = self.clock()
        dedup = stream == "event"
        known = self._ids.known(w, [r.id_hash for r in records if r.id_hash], now) if dedup else set()
        start = int(w.execute("SELECT next FROM log_ends WHERE stream = ?", (stream,)).fetchone()[0])
        rows: list[tuple[object, ...]] = []
        hashes: list[int] = []
        offsets: list[int | None] = []
        for r in records:
            if dedup and r.id_hash:
                if r.id_hash in known:
                    offsets.append(None)
                    continue
                known.add(r.id_hash)
                hashes.append(r.id_hash)
            offset = start + len(rows)
            rows.append((offset, r.kind, r.tenant, r.timestamp, now, r.imported, r.key, r.id_hash, r.body))
            offsets.append(offset)
        w.executemany(f"INSERT INTO {table(stream)}({_COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?)", rows)
        w.execute("UPDATE log_ends SET next = ? WHERE stream = ?", (start + len(rows), stream))
        self._ids.remember(w, hashes, now)
        return offsets

    def prune_ids_if_many(self, now: int) -> None:
        """Forget old event ids where they are a quarter more than need be remembered."""
        with self.reading() as connection:
            many = self._ids.over(connection) > self.limits.dedup_ids // 4
        for part in self._ids.slices() if many else ():
            with self.lock, self.transaction() as w:
                self._ids.forget(w, part, now)

    def ends(self, column: str) -> Offsets:
        """`first` or `next` of each stream of this file."""
        with self.reading() as connection:
            rows = connection.execute(f"SELECT stream, {column} FROM log_ends").fetchall()
        return {f"{stream}/0": int(offset) for stream, offset in rows if stream in self.streams}

    def vacuum(self, pages: int) -> None:
        """Give at most `pages` free pages back to the file system, in steps: appends go on between them."""
        for _ in range(0, pages, _VACUUM_STEP):
            with self.lock, self.transaction() as w:
                w.execute(f"PRAGMA incremental_vacuum({_VACUUM_STEP})").fetchall()
                if not w.execute("PRAGMA freelist_count").fetchone()[0]:
                    return

    def sync(self) -> None:
        """Make all commits durable: those that SQLite has not synced itself lie in the write-ahead log. Where
        they are many, copy them into the file, beside readers and appends: else an append would, and wait for the disk.
        """
        try:
            handle = os.open(self.path.with_name(self.path.name + "-wal"), os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(handle)
        except OSError as error:
            raise LogError(
                f"{self.path.name} cannot be synced: {error}", hint="is the volume gone?"
            ) from error
        finally:
            os.close(handle)
        if self._to_copy < _COPY_PAGES:
            return
        with self.reading() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._to_copy = 0

    def close(self) -> None:
        """Close the connections; the last one to the file empties the write-ahead log."""
        with self.lock:
            self._closed = True
            self._close_readers()
            self._writer.close()

    def _close_readers(self) -> None:
        while self._readers:
            self._readers.pop().close()


def distinct(files: Iterable[StreamFile]) -> list[StreamFile]:
    """Each file once."""
    return list({id(file): file for file in files}.values())
