"""What one Redis server says of itself: memory, what it evicts, what it writes to its disk. It writes nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from features.errors import StoreError
from service.doctor import Finding, Verdict, size

FULL, TIGHT = 0.95, 0.8


def asked(place: Any) -> dict[str, Any] | StoreError:
    """INFO, or why not."""
    try:
        with place.errors("ask INFO") as client:
            found: dict[str, Any] = client.info("everything")
            return found
    except StoreError as error:
        return error


def kept(place: Any, info: dict[str, Any], part: str) -> Iterator[Finding]:
    """What memory, eviction and disk leave of what is written."""
    yield _memory(info, part)
    yield _policy(info, part)
    yield from _persistence(place, info, part)


def _memory(info: dict[str, Any], part: str) -> Finding:
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not most:
        what = f"it has no maxmemory, and uses {size(used)}"
        return Finding("WARN", part, what, "set one (repl-ranker size says how much): else the kernel ends Redis")
    share = used / most
    verdict: Verdict = "FAIL" if share >= FULL else "WARN" if share >= TIGHT else "PASS"
    hint = "raise maxmemory, or keep less (redis_checkpoint_bytes, versions_…)" if share >= TIGHT else ""
    return Finding(verdict, part, f"it uses {size(used)} of {size(most)} ({share:.0%})", hint)


def _policy(info: dict[str, Any], part: str) -> Finding:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return Finding("PASS", part, "maxmemory-policy is noeviction")
    goes = "keys of ours" if policy.startswith("allkeys") else "user states (they have a time to live)"
    return Finding("WARN", part, f"maxmemory-policy is {policy}: when it is full, {goes} go", "set it to noeviction")


def _persistence(place: Any, info: dict[str, Any], part: str) -> Iterator[Finding]:
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            what = f"{name} is {info[name]}: it cannot write its disk"
            yield Finding("FAIL", part, what, "free some; its own log says more")
    snapshots, fsync = _config(place, "save"), _config(place, "appendfsync")
    if info.get("aof_enabled"):
        slow = fsync == "no"
        what = f"it keeps an append-only file{f', appendfsync {fsync}' if fsync else ''}"
        hint = "set appendfsync everysec: else a power loss takes what the kernel had not written" if slow else ""
        yield Finding("WARN" if slow else "PASS", part, what, hint)
        return
    lost = "everything" if snapshots == "" else "everything since its last snapshot"
    hint = "appendonly yes: what is lost is learned anew from the log, which takes its time (docs/redis.md)"
    yield Finding("WARN", part, f"it keeps no append-only file: a crash takes {lost}", hint)


def _config(place: Any, name: str) -> str | None:
    """A setting of Redis; None where CONFIG is not ours to ask."""
    try:
        with place.errors("ask CONFIG") as client:
            found = client.config_get(name)
    except StoreError:
        return None
    value = next(iter(found.values()), None)
    return value.decode() if isinstance(value, bytes) else value
