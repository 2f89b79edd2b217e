"""The ranker's catalogue on disk (`catalogue.db`): chunks, the offsets they were read through, rows to encode.

One transaction a save, so that chunks and offsets belong together after a kill. It does not know what is in a chunk.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.errors import StoreError

_FORMAT = "1"


class CatalogueStore:
    """Chunks by name with offsets. Used by one thread at a time."""

    def __init__(self, path: Path, base: str) -> None:
        """Open or make the file; base: sha256 of the model that encodes the items. Raises StoreError."""
        self._path = path
        self._base = base.encode()
        try:
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS chunk (name TEXT PRIMARY KEY, body BLOB NOT NULL)")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)")
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (_FORMAT.encode(),))
            found = self._meta("format", b"")
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the catalogue {path}: {error}") from error
        if found != _FORMAT.encode():
            hint = "delete the file: it is rebuilt from the log"
            raise StoreError(f"catalogue {path} has format {found!r}, this code reads {_FORMAT}", hint=hint)

    def _meta(self, name: str, default: bytes) -> bytes:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else bytes(row[0])

    def load(self) -> tuple[dict[str, bytes], dict[str, int], npt.NDArray[np.int64] | None]:
        """(chunks, offsets, rows that waited for encoding); all empty at first. Raises StoreError.

        The rows are None when another base was served last: any vector of this base may be out of date.
        """
        try:
            chunks = {name: bytes(body) for name, body in self._db.execute("SELECT name, body FROM chunk")}
            offsets = {str(k): int(v) for k, v in json.loads(self._meta("offsets", b"{}")).items()}
            waiting = np.frombuffer(self._meta("waiting", b""), np.int64)
            return chunks, offsets, waiting if self._meta("base", self._base) == self._base else None
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"cannot read the catalogue {self._path}: {error}") from error

    def save(
        self, chunks: Mapping[str, bytes], offsets: Mapping[str, int], waiting: npt.NDArray[np.int64]
    ) -> None:
        """Write changed chunks, offsets and the waiting rows: all or nothing. Raises StoreError."""
        places = json.dumps(dict(offsets)).encode()
        meta = [("offsets", places), ("waiting", waiting.tobytes()), ("base", self._base)]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO chunk VALUES (?, ?)", chunks.items())
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreError(f"cannot write the catalogue {self._path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()
