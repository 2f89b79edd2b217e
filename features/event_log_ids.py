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
_SLICE = 4_096
_MARGIN = 256  # four standard deviations of how many of the newest ids fall into one slice
_HASHES = 1 << 63  # hashes are below


class EventIds:
    """The hashes (63 bits) of event ids with the time (ms) of their append.

    Old ones are forgotten slice by slice of the hashes' range, so that no transaction takes long: hashes are spread
    evenly, and so each slice keeps its part of `dedup_ids` newest.
    """

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._slices = max(1, limits.dedup_ids // _SLICE)
        self._every = max(1, limits.dedup_ids // 4 // self._slices)  # new ids a slice that is looked through
        self._since = 0
        self._next = 0

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
        """Remember new ones, and forget old ones as many come."""
        w.executemany("INSERT OR REPLACE INTO log_ids VALUES(?,?)", [(hash, now) for hash in sorted(hashes)])
        self._since += len(hashes)
        due, self._since = divmod(self._since, self._every)
        for _ in range(min(due, self._slices)):
            self.forget(w, self._next, now)
            self._next = (self._next + 1) % self._slices

    def slices(self) -> range:
        """What `forget` takes, one after the other, to look through all."""
        return range(self._slices)

    def forget(self, w: sqlite3.Connection, number: int, now: int) -> None:
        """Forget what lies in one slice beyond its age, and beyond the slice's part of the number."""
        first = _HASHES * number // self._slices
        last = _HASHES * (number + 1) // self._slices - 1
        within = "FROM log_ids WHERE hash BETWEEN ? AND ?"
        oldest = now - self._limits.dedup_age_ms
        w.execute(f"DELETE {within} AND append_time < ?", (first, last, oldest))
        keep = -(-self._limits.dedup_ids // self._slices) + (_MARGIN if self._slices > 1 else 0)
        over = int(w.execute(f"SELECT count(*) {within}", (first, last)).fetchone()[0]) - keep
        if over > 0:
            w.execute(
                f"DELETE FROM log_ids WHERE hash IN (SELECT hash {within} ORDER BY append_time LIMIT ?)",
                (first, last, over),
            )

    def over(self, connection: sqlite3.Connection) -> int:
        """How many more are remembered than need be."""
        return int(connection.execute("SELECT count(*) FROM log_ids").fetchone()[0]) - self._limits.dedup_ids
