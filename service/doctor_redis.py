"""The examination of a Redis: version, clock, memory, persistence, rights. What it writes are keys that it deletes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from features.errors import StoreError
from service.doctor import Finding, Verdict, clock_finding, failed, size
from service.settings import SecretUrl, Settings, require_beside

SLOW_MS = 5.0
FULL, TIGHT = 0.95, 0.8


def check_weights(settings: Settings) -> Iterator[Finding]:
    """The Redis of `weights_url`, if any."""
    yield from _check(settings, "weights_url", settings.weights_url)


def check_user_states(settings: Settings) -> Iterator[Finding]:
    """The Redis of `user_states_url`, if any; once where it is that of the weights. Whether anybody keeps user states
    there, where they are to be kept beside the ranker."""
    if settings.user_states == "beside":
        require_beside(settings)
        yield _kept(settings)
    here, there = settings.user_states_url, settings.weights_url
    if here is not None and there is not None and here.get_secret_value() == there.get_secret_value():
        yield Finding("PASS", "user states", "user_states_url is the Redis of weights_url")
        return
    yield from _check(settings, "user_states_url", here)


def _kept(settings: Settings) -> Finding:
    """Raises StoreError."""
    from features.redis_extra import require_redis

    require_redis("user_states_url")
    from service.states_share import members

    count = len(members(settings))
    if count:
        return Finding("PASS", "user states", f"{count} `repl-ranker states` keep them")
    return Finding("FAIL", "user states", "nobody keeps them: no `repl-ranker states` is at work", "start one")


def _check(settings: Settings, setting: str, url: SecretUrl | None) -> Iterator[Finding]:
    part = {"weights_url": "weights", "user_states_url": "user states"}[setting]
    if url is None:
        yield Finding("PASS", part, f"{setting} is not set: they lie in {settings.data_dir}")
        return
    from features.redis_extra import require_redis

    require_redis(setting)
    from features.redis_client import RedisPlace

    place = RedisPlace(url.get_secret_value(), settings.tenant, setting=setting, timeout_ms=settings.redis_timeout_ms)
    try:
        yield from _reach(place, part)
        yield from _info(place, part)
        yield from _rights(place, part, publishes=setting == "weights_url")
        if setting == "weights_url":
            yield from _trainer(place, part)
    finally:
        place.close()


def _trainer(place: Any, part: str) -> Iterator[Finding]:
    """Who trains now; whether anybody does is said by the age of the heartbeat."""
    from service.weight_redis_lease import holder

    with place.errors("ask who trains") as client:
        who = holder(client, place.prefix)
    if who is not None:
        yield Finding("PASS", part, f"{who} (host, process) is at work as its trainer")


def _reach(place: Any, part: str) -> Iterator[Finding]:
    """Raises StoreError where it does not answer, is too old, or evicts."""
    with place.errors("look at it") as client:
        client.ping()
        began, before = time.perf_counter(), time.time()
        seconds, micros = client.time()
        took = time.perf_counter() - began
    verdict: Verdict = "WARN" if took * 1e3 > SLOW_MS else "PASS"
    hint = "a request may cost one such round trip: bring them nearer" if verdict == "WARN" else ""
    yield Finding(verdict, part, f"{place.where} answers in {took * 1e3:.1f} ms", hint)
    yield clock_finding(part, "the clock of Redis", (seconds + micros / 1e6 - before - took / 2) * 1e3)


def _info(place: Any, part: str) -> Iterator[Finding]:
    try:
        with place.errors("ask INFO") as client:
            info = client.info("everything")
    except StoreError as error:
        hint = "allow +info: version, memory and persistence are not known"
        yield Finding("WARN", part, f"INFO is refused: {error.message}", hint)
        return
    yield Finding("PASS", part, f"Redis {info['redis_version']}, {info.get('role', '?')}")
    if info.get("role") == "slave":
        yield Finding("FAIL", part, "it is a replica: it cannot be written", "name the primary")
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


def _rights(place: Any, part: str, *, publishes: bool) -> Iterator[Finding]:
    """Every kind of command that the stores use, on keys of its own that live for half a minute."""
    key, channel = f"{place.prefix}:doctor-{secrets.token_hex(4)}", f"{place.prefix}:doctor"

    def transaction(client: Any) -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(key)
            pipe.multi()
            pipe.set(key, "2", ex=30)
            pipe.execute()

    trials: list[tuple[str, Callable[[Any], object]]] = [
        ("write a key", lambda client: (client.set(key, "1", ex=30), client.zadd(f"{key}:z", {"a": 1}))),
        ("read a key", lambda client: (client.get(key), client.zrange(f"{key}:z", 0, 1))),
        ("write in a transaction", transaction),
        ("delete a key", lambda client: client.unlink(key, f"{key}:z")),
    ]
    if publishes:
        trials.append(("announce a version", lambda client: client.publish(channel, "0")))
    refused = False
    for doing, trial in trials:
        try:
            with place.errors(doing) as client:
                trial(client)
        except StoreError as error:
            refused = True
            yield failed(part, error)
    if not refused:
        what = "keys of this tenant can be read, written and deleted" + ", versions announced" * publishes
        yield Finding("PASS", part, what)
