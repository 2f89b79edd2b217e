"""Connections to a SQLite file that several processes write: how they are opened, wait for each other, and fail.

They know no table: that is `event_log_sqlite.py`'s.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import LogError

BUSY_SECONDS = 30.0
_ASK_AGAIN = 0.001


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as LogError with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        hint = "is the disk full, or the volume gone?"
        if "full" in text:
            hint = "free disk space"
        elif "not a database" in text or "malformed" in text:
            hint = "the file is damaged: move it away, or restore a copy of the data directory"
        elif "locked" in text:
            hint = "another process holds the file for long: end it, or try again"
        raise LogError(f"{path.name}: {error}", field="data_dir", value=path.parent, hint=hint) from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode, without transactions of Python's own, that any thread may use."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _use_wal(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switching a new file to WAL does not wait for others who do the same: try again."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def begin(connection: sqlite3.Connection) -> None:
    """Begin to write; ask every millisecond while another process does. The connection's busy timeout is 0:
    SQLite's own waiting asks at last each 100 ms only, and so misses an import's pauses for seconds.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(_ASK_AGAIN)
