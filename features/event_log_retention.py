"""What the embedded log lets go of, and when: age, then size. It only deletes; opening and reading are elsewhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from features.records import Offsets

if TYPE_CHECKING:
    from features.event_log_file import LogLimits

_THIN_ROUNDS = 6


def retain(
    w: sqlite3.Connection, limits: LogLimits, now: int, keep: Offsets, table: Callable[[str], str]
) -> dict[str, int]:
    """Inside a transaction: expire by append time (imports never), then thin `served` by request hash.

    Offsets at or past `keep[stream/0]` stay; a stream that `keep` does not name loses nothing.
    """
    counts: dict[str, int] = {}
    for stream, age in (("event", limits.event_age_ms), ("served", limits.served_age_ms)):
        below = keep.get(f"{stream}/0", 0)
        counts[f"expired_{stream}"] = w.execute(
            f"DELETE FROM {table(stream)} WHERE offset < ? AND append_time < ? AND imported = 0",
            (below, now - age),
        ).rowcount
    counts["thinned_served"] = _thin(w, limits.max_bytes, keep.get("served/0", 0), table("served"))
    for stream in ("event", "served"):
        w.execute(
            f"UPDATE log_ends SET first = coalesce((SELECT min(offset) FROM {table(stream)}), next) WHERE stream = ?",
            (stream,),
        )
    counts["bytes"] = used_bytes(w)
    return counts


def used_bytes(w: sqlite3.Connection) -> int:
    """Bytes of the file that hold records."""
    pages, free, size = (
        int(w.execute(f"PRAGMA {p}").fetchone()[0]) for p in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _thin(w: sqlite3.Connection, max_bytes: int, below: int, table: str) -> int:
    """Drop a half, then three quarters … of the served records by request hash until the file fits."""
    thinned = 0
    for round_ in range(1, _THIN_ROUNDS + 1):
        if used_bytes(w) <= max_bytes:
            break
        mask = (1 << round_) - 1
        thinned += w.execute(
            f"DELETE FROM {table} WHERE offset < ? AND (hash & ?) != 0", (below, mask)
        ).rowcount
    return thinned
