"""Which event ids count once: a table of the embedded log, bounded by age and number. It opens no file and appends no
event; whoever calls it stands in a transaction of `event_log_sqlite.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from features.event_log_sqlite import LogLimits

TABLE = "CREATE TABLE IF NOT EXISTS log_ids(hash INTEGER PRIMARY KEY, append_time INTEGER NOT NULL)"
_LOOKUP = 5_000
_PRUNE_EVERY = 250_000


class EventIds:
    """The hashes (i64) of event ids with the time (ms) of their append."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._since_prune = 0

    def known(self, w: sqlite3.Connection, hashes: Sequence[int], now: int) -> set[int]:
        """Those of `hashes` that are remembered."""
        known: set[int] = set()
        for at in range(0, len(hashes), _LOOKUP):
            part = hashes[at : at + _LOOKUP]
            marks = ",".join("?" * len(part))
            query = f"SELECT hash FROM log_ids WHERE hash IN ({marks}) AND append_time >= ?"
            known.update(row[0] for row in w.execute(query, (*part, now - self._limits.dedup_age_ms)))
        return known

    def remember(self, w: sqlite3.Connection, hashes: Sequence[int], now: int) -> None:
        """Remember new ones; now and then forget old ones."""
        w.executemany("INSERT OR REPLACE INTO log_ids VALUES(?,?)", [(hash, now) for hash in sorted(hashes)])
        self._since_prune += len(hashes)
        if self._since_prune >= _PRUNE_EVERY:
            self.prune(w, now)

    def prune(self, w: sqlite3.Connection, now: int) -> None:
        """Forget event ids beyond their age and number."""
        self._since_prune = 0
        w.execute("DELETE FROM log_ids WHERE append_time < ?", (now - self._limits.dedup_age_ms,))
        over = self.over(w)
        if over > 0:
            w.execute(
                "DELETE FROM log_ids WHERE hash IN (SELECT hash FROM log_ids ORDER BY append_time LIMIT ?)",
                (over,),
            )

    def over(self, connection: sqlite3.Connection) -> int:
        """How many more are remembered than need be."""
        return int(connection.execute("SELECT count(*) FROM log_ids").fetchone()[0]) - self._limits.dedup_ids
