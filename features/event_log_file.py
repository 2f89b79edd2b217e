"""The embedded event log: SQLite files in WAL mode, log.db (event, served, dead-letter), trainer.db (cut, control).

A commit survives `kill -9`; with `fsync` also power loss, else a thread makes all of it durable once a second.
Appends of many threads share a transaction (group commit); several processes may append, each in its turn.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from features.errors import LogError, OffsetLost
from features.event_log import Clock, system_clock
from features.records import STREAMS, NewRecord, Offsets, Record, Stream

FILES: dict[str, tuple[Stream, ...]] = {
    "log.db": ("event", "served", "dead-letter"),
    "trainer.db": ("cut", "control"),
}
BUSY_SECONDS = 30.0
_LOOKUP = 5_000
_BLANK_STEP = 50_000
_PRUNE_EVERY = 50_000
_COLUMNS = "offset, kind, tenant, timestamp, append_time, imported, key, body"


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


def _table(stream: str) -> str:
    return '"log_' + stream.replace("-", "_") + '"'


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = (
            "free disk space"
            if "full" in str(error)
            else "is the disk full, the file damaged or the volume gone?"
        )
        raise LogError(f"{path.name}: {error}", field="data_dir", value=path.parent, hint=hint) from error


class _File:
    """One SQLite file of streams: a writing connection behind a lock, a reading one a thread."""

    def __init__(self, path: Path, streams: tuple[Stream, ...], limits: LogLimits, clock: Clock) -> None:
        self.path, self.streams, self.limits, self.clock = path, streams, limits, clock
        self._lock = threading.Lock()
        self._pending_lock = threading.Lock()
        self._pending: list[_Waiting] = []
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._since_prune = 0
        with _explained(path):
            self._writer = self._connect()
            self._writer.execute(f"PRAGMA synchronous={'FULL' if limits.fsync else 'NORMAL'}")
            self._create()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
        self._connections.append(connection)
        return connection

    def _create(self) -> None:
        w = self._writer
        w.execute("BEGIN IMMEDIATE")
        w.execute("CREATE TABLE IF NOT EXISTS log_ends(stream TEXT PRIMARY KEY, first INTEGER, next INTEGER)")
        w.execute(
            "CREATE TABLE IF NOT EXISTS log_ids(hash INTEGER PRIMARY KEY, append_time INTEGER NOT NULL)"
        )
        w.execute("CREATE INDEX IF NOT EXISTS log_ids_time ON log_ids(append_time)")
        for stream in self.streams:
            w.execute(
                f"CREATE TABLE IF NOT EXISTS {_table(stream)}(offset INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
                " tenant TEXT NOT NULL, timestamp INTEGER NOT NULL, append_time INTEGER NOT NULL,"
                " imported INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, hash INTEGER NOT NULL)"
            )
            w.execute("INSERT OR IGNORE INTO log_ends VALUES(?, 0, 0)", (stream,))
        w.execute("COMMIT")

    def reader(self) -> sqlite3.Connection:
        """This thread's reading connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            with _explained(self.path):
                found = self._local.connection = self._connect()
        return found

    # appending: whoever holds the lock commits for all who wait
    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        mine = _Waiting(stream, records)
        with self._pending_lock:
            self._pending.append(mine)
        with self._lock:
            if not mine.done:
                self._commit_pending()
        if mine.error is not None:
            raise mine.error
        return mine.offsets

    def _commit_pending(self) -> None:
        with self._pending_lock:
            batch, self._pending = self._pending, []
        error: LogError | None = None
        try:
            with self.transaction() as writer:
                for waiting in batch:
                    waiting.offsets = self._insert(writer, waiting.stream, waiting.records)
        except LogError as failed:
            error = failed
        for waiting in batch:
            waiting.error, waiting.done = error, True

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; the caller holds the lock. All or nothing."""
        with _explained(self.path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _insert(
        self, w: sqlite3.Connection, stream: Stream, records: Sequence[NewRecord]
    ) -> list[int | None]:
        now = self.clock()
        known = self._known(w, [r.id_hash for r in records if r.id_hash]) if stream == "event" else set()
        start = int(w.execute("SELECT next FROM log_ends WHERE stream = ?", (stream,)).fetchone()[0])
        rows: list[tuple[object, ...]] = []
        hashes: list[tuple[int, int]] = []
        offsets: list[int | None] = []
        for r in records:
            if r.id_hash and stream == "event":
                if r.id_hash in known:
                    offsets.append(None)
                    continue
                known.add(r.id_hash)
                hashes.append((r.id_hash, now))
            offset = start + len(rows)
            rows.append((offset, r.kind, r.tenant, r.timestamp, now, r.imported, r.key, r.body, r.id_hash))
            offsets.append(offset)
        w.executemany(f"INSERT INTO {_table(stream)} VALUES(?,?,?,?,?,?,?,?,?)", rows)
        w.executemany("INSERT INTO log_ids VALUES(?,?)", hashes)
        w.execute("UPDATE log_ends SET next = ? WHERE stream = ?", (start + len(rows), stream))
        self._since_prune += len(hashes)
        if self._since_prune >= _PRUNE_EVERY:
            self._prune_ids(w, now)
        return offsets

    def _known(self, w: sqlite3.Connection, hashes: list[int]) -> set[int]:
        known: set[int] = set()
        for at in range(0, len(hashes), _LOOKUP):
            part = hashes[at : at + _LOOKUP]
            marks = ",".join("?" * len(part))
            known.update(
                row[0] for row in w.execute(f"SELECT hash FROM log_ids WHERE hash IN ({marks})", part)
            )
        return known

    def _prune_ids(self, w: sqlite3.Connection, now: int) -> None:
        self._since_prune = 0
        w.execute("DELETE FROM log_ids WHERE append_time < ?", (now - self.limits.dedup_age_ms,))
        over = int(w.execute("SELECT count(*) FROM log_ids").fetchone()[0]) - self.limits.dedup_ids
        if over > 0:
            w.execute(
                "DELETE FROM log_ids WHERE hash IN (SELECT hash FROM log_ids ORDER BY append_time LIMIT ?)",
                (over,),
            )

    def ends(self, column: str) -> Offsets:
        with _explained(self.path):
            rows = self.reader().execute(f"SELECT stream, {column} FROM log_ends").fetchall()
        return {f"{stream}/0": int(offset) for stream, offset in rows if stream in self.streams}

    def sync(self) -> None:
        """Make all commits durable, and move the WAL into the file while nobody waits for it."""
        for path in (self.path.with_name(self.path.name + "-wal"), self.path):
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()


class EmbeddedEventLog:
    """`EventLog` on two SQLite files of `data_dir`, one partition each stream. See the module's docstring."""

    def __init__(self, data_dir: Path, limits: LogLimits | None = None, clock: Clock = system_clock) -> None:
        self.limits = limits or LogLimits()
        self.data_dir = data_dir
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(
                f"cannot make the data directory: {error}", field="data_dir", value=data_dir
            ) from error
        self._files = {
            stream: file
            for name, streams in FILES.items()
            for file in [_File(data_dir / name, streams, self.limits, clock)]
            for stream in streams
        }
        self._closed = threading.Event()
        self._syncer = threading.Thread(target=self._sync_each_second, name="log-sync", daemon=True)
        if not self.limits.fsync:
            self._syncer.start()

    def _distinct(self) -> Iterable[_File]:
        return {id(file): file for file in self._files.values()}.values()

    def _sync_each_second(self) -> None:
        while not self._closed.wait(1.0):
            self.sync()

    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        """See `EventLog.append`."""
        return self._files[stream].append(stream, records) if records else []

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = 64 << 20
    ) -> list[Record]:
        """See `EventLog.read`."""
        file = self._files[stream]
        with _explained(file.path):
            cursor = file.reader().execute(
                f"SELECT '{stream}', 0, {_COLUMNS} FROM {_table(stream)} WHERE offset >= ? ORDER BY offset LIMIT ?",
                (start, limit if partition == 0 else 0),
            )
            found: list[Record] = []
            size = 0
            while size < max_bytes and (rows := cursor.fetchmany(1_000)):
                found.extend(map(Record._make, rows))
                size += sum(len(row[9]) for row in rows)
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
        found = self.read(stream, offset, 1, partition) if self._holds(stream, offset) else []
        return found[0] if found and found[0].offset == offset else None

    def _holds(self, stream: Stream, offset: int) -> bool:
        return offset >= self._files[stream].ends("first")[f"{stream}/0"]

    def end_offsets(self) -> Offsets:
        """See `EventLog.end_offsets`."""
        return {name: at for file in self._distinct() for name, at in file.ends("next").items()}

    def start_offsets(self) -> Offsets:
        """See `EventLog.start_offsets`."""
        return {name: at for file in self._distinct() for name, at in file.ends("first").items()}

    def blank_user(self, tenant: str, user: str) -> int:
        """See `EventLog.blank_user`. Works in steps, so that appends go on."""
        blanked = 0
        for stream, empty in (("event", b"{}"), ("served", b"")):
            file = self._files[stream]  # type: ignore[index]
            end = file.ends("next")[f"{stream}/0"]
            for at in range(0, end, _BLANK_STEP):
                with file._lock, file.transaction() as w:
                    blanked += w.execute(
                        f"UPDATE {_table(stream)} SET kind = 'blank', key = '', body = ?"
                        " WHERE offset >= ? AND offset < ?"
                        " AND tenant = ? AND key = ?"
                        " AND kind IN ('interaction', 'ranking', 'identify', 'user', 'served')",
                        (empty, at, min(at + _BLANK_STEP, end), tenant, user),
                    ).rowcount
        return blanked

    def retain(self, now: int, keep: Offsets) -> Mapping[str, int]:
        """See `EventLog.retain`."""
        from features.event_log_retention import retain

        file = self._files["event"]
        with file._lock, file.transaction() as w:
            counts = retain(w, self.limits, now, keep, _table)
        with _explained(file.path), file._lock:
            file._writer.execute("PRAGMA incremental_vacuum(4096)").fetchall()
        return counts

    def sync(self) -> None:
        """See `EventLog.sync`."""
        for file in self._distinct():
            file.sync()

    def close(self) -> None:
        """Stop the thread, make all durable, close the files."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._syncer.is_alive():
            self._syncer.join()
        self.sync()
        for file in self._distinct():
            file.close()


assert {stream for streams in FILES.values() for stream in streams} == set(STREAMS)
