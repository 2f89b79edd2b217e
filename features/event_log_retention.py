"""What the embedded log lets go of: by age, by size, and with a user who is deleted. It opens and appends nothing.

Every step is a short transaction of its own, so that appends of this and other processes go on between them.
"""

from __future__ import annotations

import sqlite3
from itertools import takewhile

import msgspec

from features.errors import LogError
from features.event_log_sqlite import StreamFile, table
from features.records import Offsets, ServedRecord

_STEP = 2_000
_THIN_ROUNDS = 6
_DAY = 86_400_000
_CUT_DAYS = 30


def retain(file: StreamFile, now: int, keep: Offsets) -> dict[str, int]:
    """Expire each stream of the file by append time (imports never), then thin `served` by request hash.

    Offsets at or past `keep[stream/0]` stay; a stream that `keep` does not name loses nothing, but for dead letters,
    which nobody resumes. Cuts live as long as the versions that they made (30 days), control records as events.
    """
    limits = file.limits
    ages = {
        "event": limits.event_age_ms,
        "served": limits.served_age_ms,
        "dead-letter": limits.event_age_ms,
        "cut": min(limits.event_age_ms, _CUT_DAYS * _DAY),
        "control": limits.event_age_ms,
    }
    counts: dict[str, int] = {}
    for stream in file.streams:
        below = keep.get(f"{stream}/0", 0) if stream != "dead-letter" else file.ends("next")["dead-letter/0"]
        counts[f"expired_{stream}"] = _expire(file, stream, below, now - ages[stream])
    if "served" in file.streams:
        counts["thinned_served"] = _thin(file, keep.get("served/0", 0))
        file.prune_ids_if_many(now)
        with file.reading() as connection:
            counts["bytes"] = used_bytes(connection)
    return counts


def _expire(file: StreamFile, stream: str, below: int, bound: int) -> int:
    """Delete what was appended before `bound` (ms), imports excepted, from where the last call ended; how many."""
    mark, deleted, more = f"expired {stream}", 0, True
    query = (
        f"SELECT offset, append_time, imported FROM {table(stream)}"
        " WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
    )
    while more:
        with file.reading() as connection:
            start = connection.execute("SELECT value FROM log_meta WHERE name = ?", (mark,)).fetchone()
            rows = connection.execute(query, (start[0] if start else 0, below, _STEP)).fetchall()
        old = list(takewhile(lambda row: row[1] < bound, rows))
        more = len(old) == _STEP
        if old:
            offsets = [(offset,) for offset, _, imported in old if not imported]
            with file.lock, file.transaction() as w:
                deleted += _delete(w, stream, offsets)
                w.execute("INSERT OR REPLACE INTO log_meta VALUES(?, ?)", (mark, old[-1][0] + 1))
    return deleted


def _delete(w: sqlite3.Connection, stream: str, offsets: list[tuple[int]]) -> int:
    if not offsets:
        return 0
    count = w.executemany(f"DELETE FROM {table(stream)} WHERE offset = ?", offsets).rowcount
    w.execute(
        f"UPDATE log_ends SET first = coalesce((SELECT min(offset) FROM {table(stream)}), next) WHERE stream = ?",
        (stream,),
    )
    return count


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold records."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {p}").fetchone()[0])
        for p in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _thin(file: StreamFile, below: int) -> int:
    """Keep a half, then a quarter … of the served records, the same requests every time, until the file fits."""
    thinned = 0
    for round_ in range(1, _THIN_ROUNDS + 1):
        with file.reading() as connection:
            if used_bytes(connection) <= file.limits.max_bytes:
                break
        thinned += _thin_once(file, below, (1 << round_) - 1)
    return thinned


def _thin_once(file: StreamFile, below: int, mask: int) -> int:
    query = (  # hash 0: whoever wrote it gave none
        "SELECT offset FROM log_served WHERE offset > ? AND offset < ?"
        " AND ((CASE hash WHEN 0 THEN offset ELSE hash END) & ?) != 0 ORDER BY offset LIMIT ?"
    )
    after, deleted = -1, 0
    while True:
        with file.reading() as connection:
            offsets = connection.execute(query, (after, below, mask, _STEP)).fetchall()
        if not offsets:
            return deleted
        after = offsets[-1][0]
        with file.lock, file.transaction() as w:
            deleted += _delete(w, "served", offsets)


def blank_user(file: StreamFile, tenant: str, user: str, before: int | None) -> int:
    """Blank what the user did and was shown before event offset `before` (None: all); how many records.

    Deletions stay readable: state that is rebuilt from the log must meet them.
    """
    end = file.ends("next")["event/0"] if before is None else before
    blanked = _blank(file, "event", tenant, user, ("offset < ?", end), b"{}")
    with file.reading() as connection:
        found = connection.execute("SELECT append_time FROM log_event WHERE offset = ?", (end,)).fetchone()
    until = file.clock() if found is None or before is None else found[0]
    return blanked + _blank(file, "served", tenant, user, ("append_time <= ?", until), b"")


def _blank(
    file: StreamFile, stream: str, tenant: str, user: str, bound: tuple[str, int], empty: bytes
) -> int:
    query = (
        f"SELECT offset, kind, body FROM {table(stream)} WHERE offset > ? AND tenant = ? AND key = ?"
        f" AND kind IN ('interaction', 'ranking', 'identify', 'user', 'served') AND {bound[0]}"
        " ORDER BY offset LIMIT ?"
    )
    after, blanked = -1, 0
    while True:
        with file.reading() as connection:
            rows = connection.execute(query, (after, tenant, user, bound[1], _STEP)).fetchall()
        if not rows:
            return blanked
        after = rows[-1][0]
        hers = [(empty, offset) for offset, kind, body in rows if is_hers(kind, body, user)]
        with file.lock, file.transaction() as w:
            w.execute("PRAGMA secure_delete=ON")
            blanked += (
                w.executemany(
                    f"UPDATE {table(stream)} SET kind = 'blank', key = '', body = ? WHERE offset = ?", hers
                ).rowcount
                if hers
                else 0
            )
            w.execute("PRAGMA secure_delete=FAST")


class _Who(msgspec.Struct):
    user: str | None = None
    op: str | None = None


def is_hers(kind: str, body: bytes, user: str) -> bool:
    """Whether a record under her key is hers, not a session's of that name, and no deletion. A damaged one goes."""
    try:
        if kind == "served":
            return ServedRecord.from_bytes(body).user == user
        who = msgspec.json.decode(body, type=_Who)
    except (LogError, msgspec.MsgspecError, UnicodeDecodeError):
        return True
    return who.user == user and not (kind == "user" and who.op == "delete")
