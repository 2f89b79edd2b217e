"""The weight store in `trainer.db` (SQLite, WAL): several processes may read while one writes.

Its methods are those of `WeightStore` (`weight_store.py`), where they are described. What is kept is
`weight_keeping.py`'s matter.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from features.errors import StoreError, UnknownVersion
from service.weight_flags import check_flags
from service.weight_keeping import Keeping, checkpoints_over, keep_versions
from service.weight_version import (
    FORMAT,
    Checkpoint,
    CheckpointWrite,
    Heartbeat,
    Version,
    read_alongside,
    read_checkpoint,
)

_TABLES = """
CREATE TABLE IF NOT EXISTS store_meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions(v INTEGER PRIMARY KEY, base TEXT NOT NULL, kind TEXT NOT NULL,
  weights_version INTEGER NOT NULL, weights BLOB NOT NULL, offsets BLOB NOT NULL, watermark INTEGER NOT NULL,
  counters_through INTEGER NOT NULL, held TEXT, hash TEXT NOT NULL, created INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS alongside(v INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pins(v INTEGER PRIMARY KEY, place INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS kept(v INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS flags(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes(v INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints(v INTEGER PRIMARY KEY, manifest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks(sha TEXT PRIMARY KEY, refs INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS chunks_unused ON chunks(refs) WHERE refs = 0;
CREATE TABLE IF NOT EXISTS trainer_states(key INTEGER NOT NULL, checkpoint INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(key, checkpoint)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trainer_states_checkpoint ON trainer_states(checkpoint);
"""
_WRITTEN = "v, base, kind, weights_version, weights, offsets, watermark, counters_through, held, hash, created"
_COLUMNS = (
    f"{_WRITTEN}, v IN (SELECT v FROM pins), (SELECT body FROM alongside WHERE alongside.v = versions.v)"
)
_SIGNED = 1 << 63


def _signed(key: int) -> int:
    return key - (1 << 64) if key >= _SIGNED else key


class EmbeddedWeightStore:
    """The weight store in one SQLite file. Safe from several threads; one process writes (see `Fence`)."""

    def __init__(
        self, path: Path, *, fsync: bool = False, max_bytes: int = 8 << 30, keeping: Keeping | None = None
    ) -> None:
        """Open or make the file; keeping, max_bytes: what `thin` leaves, what old checkpoints may take.

        Raises StoreError."""
        self._lock = threading.RLock()
        self._keeping = keeping or Keeping()
        self._max_bytes = max_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
            self._db.executescript(_TABLES)
            self._db.execute("INSERT OR IGNORE INTO store_meta VALUES ('format', ?)", (str(FORMAT).encode(),))
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the weight store {path}: {error}") from error
        found = int(self._meta("format") or b"0")
        if found > FORMAT:
            raise StoreError(
                f"the weight store {path} has format {found}, this program knows {FORMAT}", value=found,
                hint="update this process",
            )  # fmt: skip

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is written, or nothing."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreError(f"the weight store could not be written: {error}") from error

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"the weight store could not be read: {error}") from error

    def _meta(self, name: str) -> bytes | None:
        rows = self._rows("SELECT value FROM store_meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def commit(
        self,
        version: Version,
        changes: bytes | None,
        checkpoint: CheckpointWrite | None = None,
        *,
        pins: Mapping[int, bool] | None = None,
        keep: Iterable[int] = (),
    ) -> None:
        row = (version.v, version.base, version.kind, version.weights_version, version.weights,
               msgspec.json.encode(version.offsets), version.watermark, version.counters_through,
               version.held, version.hash, version.created)  # fmt: skip
        with self._transaction() as db:
            db.execute(f"INSERT INTO versions({_WRITTEN}) VALUES ({','.join('?' * len(row))})", row)
            if version.alongside():
                db.execute("INSERT OR REPLACE INTO alongside VALUES (?, ?)", (version.v, version.alongside()))
            if changes is not None:
                db.execute("INSERT INTO changes VALUES (?, ?)", (version.v, changes))
            for v, wanted in (pins or {}).items():
                _set_pin(db, v, wanted)
            db.executemany("INSERT OR IGNORE INTO kept VALUES (?)", [(v,) for v in keep])
            if checkpoint is not None:
                _write_checkpoint(db, checkpoint)

    def put_chunks(self, chunks: Mapping[str, bytes]) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, 0, ?)", chunks.items())

    def latest(self) -> Version | None:
        found = self.versions(1)
        return found[0] if found else None

    def get(self, v: int) -> Version:
        rows = self._rows(f"SELECT {_COLUMNS} FROM versions WHERE v = ?", v)
        if not rows:
            raise UnknownVersion(
                f"version {v} is not in the store",
                value=v,
                hint="`repl-ranker versions list` shows those kept",
            )
        return _version(rows[0])

    def versions(self, limit: int = 100, before: int | None = None) -> list[Version]:
        below = (1 << 62) if before is None else before
        query = f"SELECT {_COLUMNS} FROM versions WHERE v < ? ORDER BY v DESC LIMIT ?"
        return [_version(row) for row in self._rows(query, below, limit)]

    def versions_after(self, v: int, limit: int = 1_000) -> list[Version]:
        query = f"SELECT {_COLUMNS} FROM versions WHERE v > ? ORDER BY v LIMIT ?"
        return [_version(row) for row in self._rows(query, v, limit)]

    def pin(self, v: int) -> None:
        self.get(v)
        with self._transaction() as db:
            _set_pin(db, v, True)

    def unpin(self, v: int) -> None:
        with self._transaction() as db:
            _set_pin(db, v, False)

    def pinned(self) -> int | None:
        rows = self._rows("SELECT v FROM pins ORDER BY place DESC LIMIT 1")
        return rows[0][0] if rows else None

    def keep(self, v: int) -> None:
        self.get(v)
        if not self._rows("SELECT v FROM kept WHERE v = ?", v):
            with self._transaction() as db:
                db.execute("INSERT OR IGNORE INTO kept VALUES (?)", (v,))

    def flags(self) -> dict[str, str]:
        return dict(self._rows("SELECT name, value FROM flags"))

    def set_flags(self, changes: Mapping[str, str | None]) -> None:
        with self._transaction() as db:
            check_flags([row[0] for row in db.execute("SELECT name FROM flags")], changes)
            for name, value in changes.items():
                if value is None:
                    db.execute("DELETE FROM flags WHERE name = ?", (name,))
                else:
                    db.execute("INSERT OR REPLACE INTO flags VALUES (?, ?)", (name, value))

    def changes_since(self, v: int) -> list[tuple[int, bytes]] | None:
        rows = self._rows(
            "SELECT c.v, c.body, (SELECT max(v) FROM versions) FROM changes c WHERE c.v > ? ORDER BY c.v", v
        )
        if not rows:
            newest = self._rows("SELECT max(v) FROM versions")[0][0]
            return [] if newest is None or newest <= v else None
        if rows[0][0] != v + 1 or len(rows) != rows[0][2] - v:
            return None
        return [(row[0], row[1]) for row in rows]

    def latest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        below = (1 << 62) if before is None else before
        query = "SELECT manifest FROM checkpoints WHERE v <= ? ORDER BY v DESC LIMIT 1"
        rows = self._rows(query, below)
        return read_checkpoint(rows[0][0], "the weight store") if rows else None

    def chunk(self, sha: str) -> bytes:
        rows = self._rows("SELECT body FROM chunks WHERE sha = ?", sha)
        if not rows:
            raise StoreError(f"chunk {sha} is not in the weight store", value=sha)
        return rows[0][0]  # type: ignore[no-any-return]

    def load_chunks(self, checkpoint: Checkpoint, prefix: str = "") -> dict[str, bytes]:
        wanted = {name: sha for name, sha in checkpoint.chunks.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): self.chunk(sha) for name, sha in wanted.items()}

    def user_states(self, keys: Sequence[int], checkpoint: int) -> list[bytes | None]:
        query = (
            "SELECT body FROM trainer_states WHERE key = ? AND checkpoint <= ? "
            "ORDER BY checkpoint DESC LIMIT 1"
        )
        found = [self._rows(query, _signed(key), checkpoint) for key in keys]
        return [rows[0][0] if rows else None for rows in found]

    def thin(self, now: int, keep: Collection[int] = ()) -> dict[str, int]:
        ages = self._rows("SELECT v, created, v IN (SELECT v FROM checkpoints) FROM versions ORDER BY v")
        pins = {row[0] for row in self._rows("SELECT v FROM pins UNION SELECT v FROM kept")}
        rows = [(v, created, bool(point)) for v, created, point in ages]
        kept = keep_versions(rows, pins.union(keep), now, self._keeping)
        drop = [v for v, _, _ in ages if v not in kept]
        points = [row[0] for row in self._rows("SELECT v FROM checkpoints ORDER BY v")]
        over = self._over_budget([v for v in points if v in kept], pins)
        old = [v for v in points if v not in kept or v in over]
        oldest_change = points[-2] if len(points) > 1 else 0
        with self._transaction() as db:
            dropped = [_drop_checkpoint(db, v) for v in old]
            db.executemany("DELETE FROM versions WHERE v = ?", [(v,) for v in drop])
            db.executemany("DELETE FROM alongside WHERE v = ?", [(v,) for v in drop])
            recent = [v for v, created, _ in ages if created >= now - 60_000]
            late = min(recent, default=ages[-1][0] + 1 if ages else 0)
            changes = db.execute("DELETE FROM changes WHERE v <= ?", (min(oldest_change, late - 1),)).rowcount
            unused = db.execute("DELETE FROM chunks WHERE refs = 0").rowcount
        return {"versions": len(drop), "checkpoints": len(dropped), "changes": changes, "chunks": unused}

    def _over_budget(self, points: list[int], pins: set[int]) -> set[int]:
        """Checkpoints to drop, oldest first, so that the chunks of the rest take at most max_bytes."""
        sizes = dict(self._rows("SELECT sha, length(body) FROM chunks"))
        if sum(sizes.values()) <= self._max_bytes:
            return set()
        manifests = {v: self.latest_checkpoint(v) for v in points}
        named = {v: set(found.chunks.values()) for v, found in manifests.items() if found is not None}
        return checkpoints_over(named, sizes, pins, self._max_bytes)

    def beat(self, heartbeat: Heartbeat, status: Mapping[str, Any] | None = None) -> None:
        rows = [("heartbeat", msgspec.json.encode(heartbeat))]
        if status is not None:
            rows.append(("status", msgspec.json.encode(status)))
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO store_meta VALUES (?, ?)", rows)

    def heartbeat(self) -> Heartbeat | None:
        found = self._meta("heartbeat")
        return msgspec.json.decode(found, type=Heartbeat) if found else None

    def status(self) -> dict[str, Any]:
        found = self._meta("status")
        return msgspec.json.decode(found, type=dict[str, Any]) if found else {}

    def follow(self, wake: Callable[[], None]) -> bool:
        return False

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _version(row: tuple[Any, ...]) -> Version:
    v, base, kind, of, weights, offsets, watermark, through, held, digest, created, pinned, more = row
    places = msgspec.json.decode(offsets, type=dict[str, int])
    is_pinned = bool(pinned)
    url, beside = read_alongside(more)
    return Version(
        v, base, kind, of, weights, places, watermark, through, held, digest, created, is_pinned, url, beside
    )


def _set_pin(db: sqlite3.Connection, v: int, wanted: bool) -> None:
    if wanted:
        db.execute("INSERT OR REPLACE INTO pins SELECT ?, 1 + coalesce(max(place), 0) FROM pins", (v,))
    else:
        db.execute("DELETE FROM pins WHERE v = ?", (v,))


def _write_checkpoint(db: sqlite3.Connection, write: CheckpointWrite) -> None:
    """The manifest, its references to chunks, and the states of the users that changed."""
    manifest = write.manifest
    db.execute("INSERT INTO checkpoints VALUES (?, ?)", (manifest.version, msgspec.json.encode(manifest)))
    for sha in sorted(set(manifest.chunks.values())):
        if db.execute("UPDATE chunks SET refs = refs + 1 WHERE sha = ?", (sha,)).rowcount != 1:
            raise StoreError(f"checkpoint {manifest.version} names chunk {sha}, which was not put")
    kept = [(_signed(key), manifest.version, body) for key, body in write.states if body is not None]
    gone: Iterable[tuple[int]] = [(_signed(key),) for key, body in write.states if body is None]
    db.executemany("DELETE FROM trainer_states WHERE key = ?", gone)
    db.executemany("INSERT OR REPLACE INTO trainer_states VALUES (?, ?, ?)", kept)


def _drop_checkpoint(db: sqlite3.Connection, v: int) -> int:
    """Drop checkpoint v; the user states it wrote pass to the next one unless that has newer ones."""
    (found,) = db.execute("SELECT manifest FROM checkpoints WHERE v = ?", (v,)).fetchone()
    manifest = read_checkpoint(found, "the weight store")
    shas = [(sha,) for sha in set(manifest.chunks.values())]
    db.executemany("UPDATE chunks SET refs = refs - 1 WHERE sha = ?", shas)
    db.execute("DELETE FROM checkpoints WHERE v = ?", (v,))
    (after,) = db.execute("SELECT min(v) FROM checkpoints WHERE v > ?", (v,)).fetchone()
    db.execute("UPDATE OR IGNORE trainer_states SET checkpoint = ? WHERE checkpoint = ?", (after, v))
    db.execute("DELETE FROM trainer_states WHERE checkpoint = ?", (v,))
    return v
