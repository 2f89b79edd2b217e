"""Looks at everything a process of these settings needs, and says what is well, what is doubtful, what is broken, each
with the next step. It changes nothing but a key of its own in Redis, which goes again.

The parts: `doctor_settings.py`, `doctor_local.py`, `doctor_kafka.py`, `doctor_redis.py`, `doctor_stored.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from features.errors import ReplError
from service.settings import Settings

Verdict = Literal["PASS", "WARN", "FAIL"]


class Finding(NamedTuple):
    """One line: what was looked at, what was found, what to do (empty when nothing)."""

    verdict: Verdict
    part: str
    what: str
    next: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}  {self.part:<12}  {self.what}" + (f"\n      → {self.next}" if self.next else "")


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings, only: str | None = None) -> Iterator[Finding]:
    """Every finding, part by part (or of one part); one that cannot go on ends with a FAIL, and the next follows."""
    from service import doctor_kafka, doctor_local, doctor_redis, doctor_settings, doctor_stored

    parts: tuple[tuple[str, Check], ...] = (
        ("settings", doctor_settings.check),
        ("disk", doctor_local.check_disk),
        ("base", doctor_local.check_base),
        ("kafka", doctor_kafka.check),
        ("weights", doctor_redis.check_weights),
        ("user states", doctor_redis.check_user_states),
        ("log", doctor_stored.check_log),
        ("versions", doctor_stored.check_versions),
    )
    for part, check in parts:
        if only not in (None, part):
            continue
        try:
            yield from check(settings)
        except ReplError as error:
            yield failed(part, error)


def failed(part: str, error: ReplError) -> Finding:
    """An error of the tree as a finding."""
    where = f" ({error.field}: {error.value})" if error.field and error.value else ""
    return Finding("FAIL", part, error.message + where, error.hint or "")


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def clock_finding(part: str, whose: str, ahead_ms: float) -> Finding:
    """A clock that is so many ms ahead of this machine's (below 0: behind)."""
    way = "ahead of" if ahead_ms > 0 else "behind"
    what = f"{whose} is {abs(ahead_ms) / 1_000:.2f} s {way} this machine's clock"
    if abs(ahead_ms) <= 1_000:
        return Finding("PASS", part, f"{whose} agrees with this machine's clock within a second")
    verdict: Verdict = "FAIL" if abs(ahead_ms) > 60_000 else "WARN"
    return Finding(verdict, part, what, "synchronise both (NTP): ages, holds and windows go by clocks")
