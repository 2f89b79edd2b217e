"""Where a tenant's keys lie now: one server, the node of a Cluster that serves their slot, the primary of sentinels.

A tenant lies in one slot, and a slot on one node: so the client is that of one server everywhere, with its WATCH,
MULTI/EXEC and scripts. `lost` says that it did not answer as a primary does; the next `client` asks the nodes (or the
sentinels) anew, within bounded time, each time another one first. A client of another server is another object: who
wrote to the one before sees it by that. A primary that sentinels replace by hand goes on for some ten seconds: so a
thread asks them, too; one that is behind is not believed. This module writes nothing to Redis, tries nothing twice.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from features.redis_url import MAX_NODES, Address, RedisUrl

NOT_PRIMARY = (
    exceptions.ConnectionError, exceptions.TimeoutError, OSError, exceptions.ReadOnlyError,
    exceptions.MovedError, exceptions.ClusterDownError,
)  # fmt: skip
"""What says that the primary may be another one by now."""
WATCH_SECONDS = 1.0


class Primary:
    """The client of the primary, asked for where needed. Safe from several threads."""

    def __init__(self, at: RedisUrl, key: str, seconds: float) -> None:
        """key: one of the tenant's keys. seconds: to connect, and for an answer.

        Raises ValueError or TypeError for options that the client does not know; connects later.
        """
        self._at, self._seconds = at, seconds
        self._slot = int(key_slot(key.encode()))
        self._lock = threading.Lock()
        self._lost = True
        self._turn = 0
        self._failed: tuple[float, Exception] = (0.0, exceptions.ConnectionError("not asked"))
        self._known: list[Address] = []  # nodes of the Cluster, as it said last
        self._address: Address | None = None
        self._epoch = 0  # of the newest state that a sentinel named
        self._elsewhere: tuple[Address, Any] | None = None
        self._closed = threading.Event()
        self._watching: threading.Thread | None = None
        self._client: Any = None
        if at.kind == "server":
            self._client, self._lost = connected(at.url, seconds), False
        else:
            self._open(at.nodes[0]).close()

    def client(self) -> Any:
        """The primary's client; of a server always the same. Raises RedisError or OSError."""
        if not self._lost:
            return self._client
        began = time.monotonic()
        with self._lock:
            if not self._lost:
                return self._client
            if self._failed[0] >= began:  # another thread has asked while this one waited
                raise exceptions.ConnectionError(str(self._failed[1]))
            try:
                self._become(self._find())
            except (exceptions.RedisError, OSError) as error:
                self._failed = (time.monotonic(), error)
                raise
        return self._client

    def lost(self) -> None:
        """The primary may be another one by now: the next `client` asks. A server stays what it is."""
        if self._at.kind != "server":
            self._lost = True

    def _become(self, address: Address) -> None:
        if address != self._address:
            former, self._client = self._client, self._open(address)
            self._address = address
            if former is not None:  # connections in use stay with those that use them
                former.connection_pool.disconnect(inuse_connections=False)
        self._lost = False
        if self._at.kind == "sentinel" and self._watching is None:
            self._watching = threading.Thread(target=self._watch, name="redis-primary", daemon=True)
            self._watching.start()

    def _watch(self) -> None:
        """Ask the sentinels now and then whether the primary is another one: the former may not know it yet."""
        while not self._closed.wait(WATCH_SECONDS):
            with contextlib.suppress(exceptions.RedisError, OSError):
                if self._find() != self._address:
                    self._lost = True

    def _open(self, address: Address) -> Any:
        client = connected(self._at.of_server(address), self._seconds, _Node, redis_connect_func=_greet)
        client.passed_on = self._pass_on
        return client

    def _find(self) -> Address:
        """Asks one after the other, until one says it or the time is over."""
        nodes = list(dict.fromkeys([*self._known, *self._at.nodes]))[:MAX_NODES]
        self._turn += 1
        deadline, why, behind = time.monotonic() + self._seconds, list[str](), list[tuple[int, Address]]()
        for k in range(len(nodes)):
            host, port = nodes[(self._turn + k) % len(nodes)]
            try:
                with self._asking((host, port)) as client:
                    epoch, found = self._named(client, host)
                if epoch >= self._epoch:
                    self._epoch = epoch
                    return found
                behind.append((epoch, found))
            except (exceptions.RedisError, OSError) as error:
                why.append(f"{host}:{port}: {error}")
            if time.monotonic() > deadline:
                break
        if behind and not why:  # all of them were set up anew
            self._epoch, found = max(behind)
            return found
        what = "sentinel" if self._at.kind == "sentinel" else "node of the Cluster"
        raise exceptions.ConnectionError(f"no {what} says where the primary is ({'; '.join(why[:3])})")

    def _asking(self, at: Address) -> contextlib.closing[Any]:
        return contextlib.closing(connected(self._at.of_asked(at), self._seconds / 2))

    def _named(self, client: Any, asked: str) -> tuple[int, Address]:
        """The primary by one node or sentinel, and of which epoch that is. Raises RedisError where it knows none."""
        if self._at.kind == "sentinel":
            state = client.sentinel_master(self._at.service)
            return int(state["config-epoch"]), (str(state["ip"]), int(state["port"]))
        ranges = client.execute_command("CLUSTER SLOTS")
        rows = [[_address(node, asked) for node in row[2:]] for row in ranges]
        self._known = list(dict.fromkeys(node for row in rows for node in row))
        for (first, last, *_), nodes in zip(ranges, rows, strict=True):
            if first <= self._slot <= last:
                return 0, nodes[0]
        raise exceptions.ConnectionError(f"no node serves the tenant's slot {self._slot}")

    def _pass_on(self, error: exceptions.AskError, args: Any, options: Any) -> Any:
        """The answer of the node that a command was sent on to: for good, or while the slot moves there."""
        if isinstance(error, exceptions.MovedError):
            self.lost()
        address = (error.host or (self._address or ("", 0))[0], error.port)
        held = self._elsewhere
        if held is None or held[0] != address:
            held = self._elsewhere = (address, self._open(address))
        with held[1].pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*args, **options)
            return pipe.execute()[1]

    def others(self) -> list[tuple[str, Address, Any]]:
        """("node", "replica" or "sentinel"; its address; a client that the caller closes) of each other server.

        Call it where `client` has answered. Raises RedisError, OSError.
        """
        if self._at.kind == "cluster":
            found = [("node", at) for at in self._known[:MAX_NODES] if at != self._address]
        elif self._at.kind == "sentinel":
            found = [("replica", at) for at in self._replicas()] + [("sentinel", at) for at in self._at.nodes]
        else:
            found = []
        urls = [self._at.of_asked(at) if what == "sentinel" else self._at.of_server(at) for what, at in found]
        return [(what, at, connected(url, self._seconds)) for (what, at), url in zip(found, urls, strict=True)]

    def _replicas(self) -> list[Address]:
        for node in self._at.nodes:
            with contextlib.suppress(exceptions.RedisError, OSError), self._asking(node) as client:
                rows = client.sentinel_slaves(self._at.service)
                return [(str(row["ip"]), int(row["port"])) for row in rows][:MAX_NODES]
        return []

    def close(self) -> None:
        """Close all connections, and end the thread."""
        self._closed.set()
        for client in (self._client, self._elsewhere and self._elsewhere[1]):
            if client is not None:
                client.close()


class _Node(redis.Redis):
    """The client of one node of a Cluster: a command that this node does not serve is given to the one that does."""

    passed_on: Callable[[exceptions.AskError, Any, Any], Any]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except exceptions.AskError as error:
            return self.passed_on(error, args, options)


def connected(url: str, seconds: float, kind: type[redis.Redis] = redis.Redis, **more: Any) -> Any:
    """The client of one server, which connects at its first command and tries nothing twice.

    Raises ValueError or TypeError for options that it does not know.
    """
    client = kind.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **more,
    )
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)  # an option that it does not know is said here
    return client


def _greet(connection: Any) -> None:
    """Log in, and refuse a server that says that it is a replica. Raises ConnectionError."""
    connection.on_connect()
    role = (connection.handshake_metadata or {}).get(b"role", b"master")
    if role != b"master":
        raise exceptions.ConnectionError(f"{connection.host}:{connection.port} is a {role.decode()} now")


def _address(node: Any, asked: str) -> Address:
    """Of one node of CLUSTER SLOTS; one that does not know its own host is the one that was asked."""
    host = _text(node[0] or b"")
    return host if host not in ("", "?") else asked, int(node[1])


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)
