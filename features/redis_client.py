"""The one module that imports the Redis client: a place by URL, its keys' prefix, its errors in this house's words.

It knows no key of a store: `feature_store_redis.py` here and `service/weight_redis_keys.py` name theirs. Connections
are made at the first command, so that a process starts while Redis is down and says so when it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from features.errors import SettingsError, StoreDown, StoreError
from features.redis_extra import masked

__all__ = ["Pipeline", "RedisPlace"]

SCHEMES = ("redis", "rediss")
OLDEST = (7, 0)
TRIES = 5
T = TypeVar("T")
Pipeline: TypeAlias = Any
"""`redis.client.Pipeline`. The client's own types leave open whether answers are bytes or text; here they are bytes."""

_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "check user and password in its URL"),
    (exceptions.NoPermissionError, "let its ACL user read, write and publish on keys and channels `repl:*`"),
    (exceptions.OutOfMemoryError, "it is full: raise its maxmemory, or keep less (redis_checkpoint_bytes, versions_…)"),
    (exceptions.BusyLoadingError, "it is still reading its data: wait, this process tries again"),
    (exceptions.ReadOnlyError, "it is a replica: name the primary"),
    (exceptions.TimeoutError, "is it overloaded or stopped? The setting redis_timeout_ms says how long to wait"),
    (exceptions.ConnectionError, "is it running, and do scheme (redis, rediss), host and port fit?"),
)  # fmt: skip


def _refuse(url: str, tenant: str, setting: str) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        what = "is not built yet" if scheme in ("redis+cluster", "redis+sentinel") else "is not known"
        raise SettingsError(
            f"the scheme {scheme!r} {what}", field=setting, value=masked(url), hint="use redis:// or rediss://"
        )
    if not tenant or set(tenant) & set("{}"):
        raise SettingsError("a tenant in Redis needs a name without braces", field="tenant", value=tenant)


class RedisPlace:
    """One Redis and one tenant's keys in it. Safe from several threads; every command ends within bounded time."""

    def __init__(self, url: str, tenant: str, *, setting: str, timeout_ms: int = 2_000) -> None:
        """setting: the name under which the URL was given, for messages. timeout_ms: to connect, and for an answer.

        Raises SettingsError where the URL cannot be used; connects later.
        """
        _refuse(url, tenant, setting)
        self.where = masked(url)
        self.prefix = f"repl:{{{tenant}}}"
        self._setting = setting
        self._checked = False
        seconds = timeout_ms / 1_000
        try:
            self.client: Any = redis.Redis.from_url(
                url,
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
                retry=Retry(NoBackoff(), 0),
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
            )
        except ValueError as error:
            raise SettingsError(
                f"not a Redis URL: {error}", field=setting, value=self.where, hint="such as redis://HOST:6379/0"
            ) from error

    @contextmanager
    def errors(self, doing: str) -> Iterator[Any]:
        """The client; what goes wrong inside is raised as StoreError: `cannot DOING in URL: reason`."""
        try:
            if not self._checked:
                self._check()
            yield self.client
        except (exceptions.RedisError, OSError) as error:
            raise self._told(doing, error) from error

    def _told(self, doing: str, error: Exception) -> StoreError:
        hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), None)
        text = str(error) or type(error).__name__
        if text.startswith("MISCONF"):
            hint = "Redis cannot write its disk: free some, or see its own log"
        elif text.startswith(("NOAUTH", "WRONGPASS")):
            hint = _HINTS[0][1]
        down = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError)
        kind = StoreDown if down else StoreError
        return kind(f"cannot {doing} in {self.where}: {text}", field=self._setting, value=self.where, hint=hint)

    def maxmemory(self) -> int | None:
        """Bytes that this Redis may use; None where it has no bound, or INFO is not allowed. Raises StoreError."""
        with self.errors("read its memory") as client:
            try:
                return int(client.info("memory").get("maxmemory", 0)) or None
            except exceptions.NoPermissionError:
                return None

    def _check(self) -> None:
        """Once: is this a Redis that keeps what it is given? Where INFO is not allowed, that is taken on trust."""
        self.client.ping()
        try:
            info = self.client.info()
        except exceptions.NoPermissionError:
            info = {}
        version, policy = str(info.get("redis_version", "7.0")), str(info.get("maxmemory_policy", "noeviction"))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise StoreError(f"{self.where} is Redis {version}", value=version, hint="7.0 is the oldest that will do")
        if policy.startswith("allkeys") and info.get("maxmemory"):
            raise StoreError(
                f"{self.where} throws keys away when it is full (maxmemory-policy {policy})",
                value=policy,
                hint="set maxmemory-policy to noeviction, or to volatile-ttl (user states may then go)",
            )
        self._checked = True

    def transaction(
        self, doing: str, watched: tuple[str, ...], queue: Callable[[Pipeline], T], tries: int = TRIES
    ) -> T:
        """WATCH, `queue(pipe)` (it reads, calls `pipe.multi()` and queues its writes), EXEC: all of it or nothing.

        Begun anew where somebody changed a watched key meanwhile. Returns what `queue` returned. Raises StoreError.
        """
        for _ in range(tries):
            with self.errors(doing) as client, client.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(*watched)
                    answer = queue(pipe)
                    pipe.execute()
                except exceptions.WatchError:
                    continue
                return answer
        raise StoreError(
            f"cannot {doing} in {self.where}: others changed {watched[0]} {tries} times meanwhile",
            value=watched[0],
            hint="several processes write here: one writes weights of a tenant, one its user states",
        )

    def read(self, doing: str, ask: Callable[[Pipeline], Any]) -> list[Any]:
        """Answers to all that `ask(pipe)` queues, in that order, in one round trip.

        Others may write between them: a full Redis refuses MULTI, and what it holds must be readable all the same.
        """
        with self.errors(doing) as client, client.pipeline(transaction=False) as pipe:
            ask(pipe)
            return list(pipe.execute())

    def close(self) -> None:
        """Close all connections."""
        self.client.close()
