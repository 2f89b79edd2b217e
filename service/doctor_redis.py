"""The examination of a Redis: version, clock, memory, persistence, rights. What it writes are keys that it deletes.

Of a Cluster and behind sentinels it looks at the tenant's primary so, and then at each other server: whoever may become
the primary has to keep as much as the one that is.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from features.errors import StoreError
from service.doctor import Finding, Verdict, clock_finding, failed
from service.doctor_redis_server import asked, kept
from service.settings import SecretUrl, Settings, require_beside

SLOW_MS = 5.0


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
        yield from _others(place, part)
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
    info = asked(place)
    if isinstance(info, StoreError):
        hint = "allow +info: version, memory and persistence are not known"
        yield Finding("WARN", part, f"INFO is refused: {info.message}", hint)
        return
    yield Finding("PASS", part, f"Redis {info['redis_version']}, {info.get('role', '?')}")
    if info.get("role") == "slave":
        yield Finding("FAIL", part, "it is a replica: it cannot be written", "name the primary")
    yield from kept(place, info, part)


def _others(place: Any, part: str) -> Iterator[Finding]:
    """The other servers of a Cluster or of sentinels: a line each where all is well, else what is wrong with it."""
    found = place.others()
    replicas, sentinels = 0, 0
    for what, where, client in found:
        with closing(client):
            other = _Other(place, client, f"{what} {where}")
            sentinels += what == "sentinel"
            if what == "sentinel":
                yield _sentinel(other, place.service, part)
                continue
            info = asked(other)
            if isinstance(info, StoreError):
                yield failed(part, info)
                continue
            replicas += info.get("role") == "slave"
            yield from _other(other, info, part)
    if found and not replicas:
        what = "no replica was found: nothing takes over when the primary dies"
        yield Finding("WARN", part, what, "add replicas, or name a single redis:// server")
    if 0 < sentinels < 3:
        what = f"weights_url and user_states_url name {sentinels} of the sentinels"
        yield Finding("WARN", part, what, "name all (three or more): one that dies must not hide the primary")


def _other(other: _Other, info: dict[str, Any], part: str) -> Iterator[Finding]:
    bad = [one for one in kept(other, info, part) if one.verdict != "PASS"]
    if tuple(int(number) for number in info["redis_version"].split(".")[:2]) < (7, 0):
        bad.append(Finding("FAIL", part, f"it is Redis {info['redis_version']}", "7.0 is the oldest that will do"))
    if str(info.get("maxmemory_policy")).startswith("allkeys") and info.get("maxmemory"):
        bad.append(Finding("FAIL", part, "it throws keys away when it is full", "set maxmemory-policy to noeviction"))
    if info.get("role") == "slave" and info.get("master_link_status") != "up":
        bad.append(Finding("FAIL", part, "it does not follow its primary", "see its own log; check its masterauth"))
    for one in bad:
        yield one._replace(what=f"{other.where}: {one.what}")
    if not bad:
        yield Finding("PASS", part, f"{other.where}: Redis {info['redis_version']}, {info.get('role', '?')}")


def _sentinel(other: _Other, service: str, part: str) -> Finding:
    """Does it answer, and would enough of them agree on a failover?"""
    try:
        with other.errors("ask it") as client:
            client.sentinel_ckquorum(service)
    except StoreError as error:
        return failed(part, error)
    return Finding("PASS", part, f"{other.where}: enough sentinels agree on {service!r} for a failover")


class _Other:
    """One more server, asked as a RedisPlace is."""

    def __init__(self, place: Any, client: Any, where: str) -> None:
        self.where, self._place, self._client = where, place, client

    @contextmanager
    def errors(self, doing: str) -> Iterator[Any]:
        """The client; what goes wrong is raised as StoreError, and names the server."""
        with self._place.of_another(doing, self.where):
            yield self._client


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
