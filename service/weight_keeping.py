"""Which versions and checkpoints are kept: a pure rule over their times. It deletes nothing itself.

All for 10 minutes, one a minute for a day, one an hour for 30 days (three settings), all pinned; of a minute or an
hour the first version that has a checkpoint, else the first. The newest version and the two newest checkpoints always
stay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from service.settings import Settings

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Keeping(NamedTuple):
    """How long versions are kept, ms: every one, one a minute, one an hour."""

    every: int = 10 * MINUTE
    minutely: int = DAY
    hourly: int = 30 * DAY

    @classmethod
    def of(cls, settings: Settings) -> Keeping:
        """That of the effective settings."""
        return cls(
            int(settings.versions_all_minutes * MINUTE),
            int(settings.versions_minutely_hours * HOUR),
            int(settings.versions_hourly_days * DAY),
        )

    def bucket(self, age: int, created: int) -> tuple[int, int] | None:
        """The minute or hour that a version of this age competes in; None when it is too old to be kept."""
        if age <= self.minutely:
            return MINUTE, created // MINUTE
        return (HOUR, created // HOUR) if age <= self.hourly else None


def keep_versions(
    rows: Sequence[tuple[int, int, bool]], pins: Collection[int], now: int, keeping: Keeping
) -> set[int]:
    """The versions to keep. rows: (version, created ms, has a checkpoint), ascending; now: wall clock ms."""
    keep = {v for v, created, _ in rows if v in pins or now - created <= keeping.every}
    best: dict[tuple[int, int], tuple[bool, int]] = {}
    for v, created, point in rows:
        bucket = keeping.bucket(now - created, created)
        if v not in keep and bucket is not None:
            best[bucket] = min(best.get(bucket, (True, v)), (not point, v))
    keep.update(v for _, v in best.values())
    keep.update(v for v, _, point in rows[-1:])
    keep.update([v for v, _, point in rows if point][-2:])
    return keep


def checkpoints_over(
    named: Mapping[int, set[str]], sizes: Mapping[str, int], pins: Collection[int], max_bytes: int
) -> set[int]:
    """Checkpoints to drop, oldest first, until the chunks that the rest name fit into max_bytes.

    named: checkpoint → chunks it names; sizes: chunk → bytes. Pinned ones and the two newest always stay.
    """
    users: dict[str, int] = {}
    for chunks in named.values():
        for sha in chunks:
            users[sha] = users.get(sha, 0) + 1
    total = sum(sizes.get(sha, 0) for sha in users)
    dropped: set[int] = set()
    for v in sorted(named)[:-2]:
        if total <= max_bytes:
            break
        if v in pins:
            continue
        dropped.add(v)
        for sha in named[v]:
            users[sha] -= 1
            total -= sizes.get(sha, 0) if users[sha] == 0 else 0
    return dropped
