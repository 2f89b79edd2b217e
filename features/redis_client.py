"""What the stores see of Redis: a place by URL, its keys' prefix, its errors in this house's words.

It knows no key of a store: `feature_store_redis.py` here and `service/weight_redis_keys.py` name theirs; where the
primary of a Cluster or of sentinels is, `redis_primary.py` says. Connections are made at the first command, so that a
process starts while Redis is down and says so when it asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from redis import exceptions

from features.errors import SettingsError, StoreDown, StoreError
from features.redis_extra import masked
from features.redis_primary import NOT_PRIMARY, Primary
from features.redis_url import KINDS, read_url

__all__ = ["Pipeline", "RedisPlace"]

OLDEST = (7, 0)
TRIES = 5
T = TypeVar("T")
Pipeline: TypeAlias = Any
"""`redis.client.Pipeline`. The client's own types leave open whether answers are bytes or text; here they are bytes."""

MOVING = "the tenant's slot moves to another node: this process tries again until that is done"
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "check user and password in its URL"),
    (exceptions.NoPermissionError, "let its ACL user read, write and publish on keys and channels `repl:*`"),
    (exceptions.OutOfMemoryError, "it is full: raise its maxmemory, or keep less (redis_checkpoint_bytes, versions_…)"),
    (exceptions.BusyLoadingError, "it is still reading its data: wait, this process tries again"),
    (exceptions.ReadOnlyError, "it is a replica: name the primary"),
    (exceptions.MovedError, "its keys lie on another node now: this process tries again there"),
    (exceptions.AskError, MOVING),
    (exceptions.TryAgainError, MOVING),
    (exceptions.ClusterDownError, "the Cluster has no primary for these keys at the moment: this process tries again"),
    (exceptions.TimeoutError, "is it overloaded or stopped? The setting redis_timeout_ms says how long to wait"),
    (exceptions.ConnectionError, f"is it running, and do scheme ({', '.join(KINDS)}), TLS, host and port fit?"),
)  # fmt: skip
_PASSWORD = _HINTS[0][1]
_WORDS = {
    "MISCONF": "Redis cannot write its disk: free some, or see its own log",
    "NOAUTH": _PASSWORD,
    "WRONGPASS": _PASSWORD,
    "invalid username-password": _PASSWORD,
    "NOREPLICAS": "too few replicas follow it for its min-replicas-to-write: start them; this process tries again",
    "certificate verify failed": "let the option ssl_ca_certs=PATH of its URL name the CA that signed for this host",
    "No such master": "the path of its URL names the service, as `sentinel monitor` in the sentinels' settings does",
    "Timeout connecting": "is it overloaded or stopped, or is this TLS to a port without? It waited redis_timeout_ms",
}
"""Hints by what an error says, before those by its kind."""
_DOWN = (*NOT_PRIMARY, exceptions.AskError, exceptions.TryAgainError)


class RedisPlace:
    """One Redis and one tenant's keys in it. Safe from several threads; every command ends within bounded time."""

    def __init__(self, url: str, tenant: str, *, setting: str, timeout_ms: int = 2_000) -> None:
        """setting: the name under which the URL was given, for messages. timeout_ms: to connect, and for an answer.

        Raises SettingsError where the URL cannot be used; connects later.
        """
        at = read_url(url, setting)
        if not tenant or set(tenant) & set("{}"):
            raise SettingsError("a tenant in Redis needs a name without braces", field="tenant", value=tenant)
        self.where = masked(url)
        self.prefix = f"repl:{{{tenant}}}"
        self.service = at.service
        self._setting = setting
        self._checked: Any = None
        self._whole = threading.local()
        try:
            self._primary = Primary(at, self.prefix, timeout_ms / 1_000)
        except (ValueError, TypeError) as error:
            example = KINDS[url.partition("://")[0]][2]
            raise SettingsError(
                f"not a Redis URL: {error}", field=setting, value=self.where, hint=f"such as {example}"
            ) from error

    @contextmanager
    def errors(self, doing: str) -> Iterator[Any]:
        """The client; what goes wrong inside is raised as StoreError: `cannot DOING in URL: reason`."""
        try:
            client = self._primary.client()
            if self._checked is not client:
                self._check(client)
            self._same(client)
            yield client
        except (exceptions.RedisError, OSError) as error:
            if isinstance(error, NOT_PRIMARY):
                self._primary.lost()
            raise self._told(doing, error) from error

    @contextmanager
    def one_primary(self) -> Iterator[None]:
        """What this thread reads and writes inside goes to one primary; StoreDown where that changes in between.

        A new primary may lack the last writes of the one before, and the first steps of several are the last writes:
        who takes several steps begins them anew.
        """
        self._whole.client, self._whole.on = None, True
        try:
            yield
        finally:
            self._whole.on = False

    def _same(self, client: Any) -> None:
        if getattr(self._whole, "on", False):
            if self._whole.client not in (None, client):
                raise exceptions.ConnectionError("another server became the primary in between")
            self._whole.client = client

    def _told(self, doing: str, error: Exception, where: str = "") -> StoreError:
        text = str(error) or type(error).__name__
        kinds = (hint for kind, hint in _HINTS if isinstance(error, kind))
        hint = next((hint for words, hint in _WORDS.items() if words in text), next(kinds, None))
        kind = StoreDown if isinstance(error, _DOWN) else StoreError
        place = where or self.where
        return kind(f"cannot {doing} in {place}: {text}", field=self._setting, value=self.where, hint=hint)

    def maxmemory(self) -> int | None:
        """Bytes that this Redis may use; None where it has no bound, or INFO is not allowed. Raises StoreError."""
        with self.errors("read its memory") as client:
            try:
                return int(client.info("memory").get("maxmemory", 0)) or None
            except exceptions.NoPermissionError:
                return None

    def _check(self, client: Any) -> None:
        """Once a server: does it keep what it is given? Where INFO is not allowed, that is taken on trust."""
        client.ping()
        try:
            info = client.info()
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
        self._checked = client

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

        Others may write between them: a full Redis refuses MULTI, and what it holds must be readable all the same. What
        one node of a Cluster sends on to another is asked there.
        """
        with self.errors(doing) as client, client.pipeline(transaction=False) as pipe:
            ask(pipe)
            asked = list(pipe.command_stack)
            answers: list[Any] = pipe.execute(raise_on_error=False)
            for place, answer in enumerate(answers):
                if isinstance(answer, exceptions.AskError):
                    args, options = asked[place]
                    answers[place] = client.execute_command(*args, **options)
                elif isinstance(answer, Exception):
                    raise answer
            return answers

    @contextmanager
    def of_another(self, doing: str, where: str) -> Iterator[None]:
        """What goes wrong inside with one of `others` is raised as StoreError that names it."""
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            raise self._told(doing, error, where) from error

    def others(self) -> list[tuple[str, str, Any]]:
        """(`node`, `replica` or `sentinel`; `HOST:PORT`; a client to be closed) of each other server of a Cluster or of
        sentinels. Raises StoreError.
        """
        with self.errors("look for its other servers"):
            return [(what, f"{host}:{port}", client) for what, (host, port), client in self._primary.others()]

    def close(self) -> None:
        """Close all connections."""
        self._primary.close()
