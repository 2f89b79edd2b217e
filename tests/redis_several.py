"""Several real Redis servers as one: a Cluster of three primaries and a replica, and a primary that sentinels watch.

They start, are looked at and are killed here; the starter of each process is `deploy/local/servers.py`. The clients are
redis-py's own for a Cluster and for sentinels: a way to the data that the product does not take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.sentinel import Sentinel

from deploy.local.servers import FORGETFUL, Redis, ServerError, free_ports, program
from tests.conftest import fresh_tenant, unavailable

PATIENCE = 30.0
QUICK = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
SLOTS = 16_384
SERVICE = "shop"
DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


def until(done: Callable[[], bool], what: str, seconds: float = PATIENCE) -> float:
    """Seconds until it was done; servers that do not answer meanwhile are asked again."""
    began = time.monotonic()
    while True:
        with suppress(redis.RedisError, OSError):
            if done():
                return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise ServerError(f"{what}: not within {seconds:g} s")
        time.sleep(0.03)


class Several:
    """Servers that end together. `url` is what the product is given."""

    url: str

    def __init__(self) -> None:
        self.servers: list[Redis] = []

    def __enter__(self) -> Any:
        try:
            with ExitStack() as stack:
                stack.callback(self.end)
                self._start()
                stack.pop_all()
        except ServerError as error:
            unavailable(str(error))
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        for server in self.servers:
            server.kill()  # their data go anyway

    def _start(self) -> None:
        raise NotImplementedError

    def at(self, address: tuple[str, int]) -> Redis:
        """The server of a port."""
        return next(server for server in self.servers if server.port == address[1])


class Cluster(Several):
    """Three primaries; `servers[3]` is the replica of `servers[0]`. Fails over about two seconds after a kill."""

    def __init__(self, home: Path, options: Sequence[str] = FORGETFUL, node_timeout_ms: int = 1_000) -> None:
        super().__init__()
        ports = free_ports(8)
        for k, (port, bus) in enumerate(zip(ports[:4], ports[4:], strict=True)):
            own = ("--cluster-enabled", "yes", "--cluster-port", str(bus), *QUICK)
            timing = ("--cluster-node-timeout", str(node_timeout_ms), "--cluster-replica-validity-factor", "0")
            self.servers.append(Redis(home / f"node{k}", port, (*own, *timing, *options)))
        self._buses = ports[4:]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])

    def node(self, k: int) -> redis.Redis:
        """A client of one node."""
        return redis.Redis.from_url(self.servers[k].url, socket_timeout=5)

    def _start(self) -> None:
        for k, server in enumerate(self.servers):
            server.start()
            with closing(self.node(k)) as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", k + 1)
                if k < 3:
                    first, last = SLOTS * k // 3, SLOTS * (k + 1) // 3 - 1
                    client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                for other in range(k):
                    client.execute_command("CLUSTER MEET", "127.0.0.1", self.servers[other].port, self._buses[other])
        for k in range(4):
            until(lambda k=k: self._whole(k), "the Cluster is whole")  # type: ignore[misc]
        with closing(self.node(3)) as client:
            client.execute_command("CLUSTER REPLICATE", self.id_of(0))
        until(self.replicated, "the replica has its data")
        until(lambda: len(self._row(0)) == 4, "the Cluster knows its replica")

    def _whole(self, k: int) -> bool:
        with closing(self.node(k)) as client:
            info: dict[str, str] = client.execute_command("CLUSTER INFO")
            return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "4"

    def _row(self, slot: int) -> list[Any]:
        """What node 1 says of a slot: first, last, primary, replicas."""
        with closing(self.node(1)) as client:
            rows: list[list[Any]] = client.execute_command("CLUSTER SLOTS")
            return next(row for row in rows if row[0] <= slot <= row[1])

    def id_of(self, k: int) -> str:
        """A node's name in the Cluster."""
        with closing(self.node(k)) as client:
            return bytes(client.execute_command("CLUSTER MYID")).decode()

    def replicated(self) -> bool:
        """Has the replica all that its primary has?"""
        with closing(self.node(3)) as client:
            info: Any = client.info("replication")
            return info["role"] == "slave" and info["master_link_status"] == "up"

    def cut(self) -> None:
        """`servers[0]` answers whoever is connected, and its replica gets nothing more of it."""
        with closing(self.node(0)) as client:
            client.config_set("requirepass", "nobody-knows")
            client.client_kill_filter(_type="replica")

    def fail_over(self) -> None:
        """By hand, while `servers[0]` lives."""
        with closing(self.node(3)) as client:
            client.execute_command("CLUSTER FAILOVER")

    def primary_of(self, tenant: str) -> Redis:
        """The server that serves a tenant's keys now."""
        return self.at(("", int(self._row(slot_of(tenant))[2][1])))

    def client(self, _: str = "") -> Any:
        """redis-py's client of a Cluster."""
        nodes = [ClusterNode("127.0.0.1", server.port) for server in self.servers[:3]]
        return RedisCluster(startup_nodes=nodes)

    def move(self, tenant: str, to: int, pause: Callable[[], None] = lambda: None) -> None:
        """Move the tenant's slot to a node, as `redis-cli --cluster reshard` does; `pause` comes after each key."""
        slot = slot_of(tenant)
        source = self.servers.index(self.primary_of(tenant))
        ids = self.id_of(source), self.id_of(to)
        with closing(self.node(source)) as old, closing(self.node(to)) as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
            while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
                old.migrate("127.0.0.1", self.servers[to].port, keys, 0, 5_000)
                pause()
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])


class Sentinels(Several):
    """`servers[0]`, its replica `servers[1]`, and sentinels behind them, all with passwords."""

    password, sentinel_password = "word-of-redis", "word-of-sentinels"

    def __init__(self, home: Path, options: Sequence[str] = FORGETFUL, sentinels: int = 3, down_ms: int = 700) -> None:
        super().__init__()
        ports = free_ports(2 + sentinels)
        own = (*options, "--masterauth", self.password, *QUICK)
        follow = ("--replicaof", f"127.0.0.1 {ports[0]}")
        self.servers = [
            Redis(home / "one", ports[0], own, self.password),
            Redis(home / "two", ports[1], (*own, *follow), self.password),
        ]
        self.sentinels = [_Sentinel(home / f"sentinel{k}", port, self, down_ms) for k, port in enumerate(ports[2:])]
        self.quorum = sentinels // 2 + 1
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports[2:])
        self.url = f"redis+sentinel://:{self.password}@{hosts}/{SERVICE}?sentinel_password={self.sentinel_password}"

    def _start(self) -> None:
        for server in (*self.servers, *self.sentinels):
            server.start()
        until(self.ready, "the sentinels know primary, replica and each other")

    def ready(self) -> bool:
        """Does each sentinel know all others and a replica that may take over?"""
        for sentinel in self.sentinels:
            with closing(redis.Redis.from_url(sentinel.url, password=self.sentinel_password)) as client:
                state: Any = client.sentinel_master(SERVICE)
                slaves: Any = client.sentinel_slaves(SERVICE)
            if state["num-other-sentinels"] != len(self.sentinels) - 1 or state["is_sdown"]:
                return False
            if len(slaves) != 1 or slaves[0]["is_sdown"] or slaves[0]["master-link-status"] != "ok":
                return False
        return True

    def replicated(self) -> bool:
        """Has the replica all that its primary has?"""
        with closing(self.client()) as client:
            info: Any = client.info("replication")
            return info.get("connected_slaves") == 1 and info["slave0"]["state"] == "online"

    def cut(self) -> None:
        """`servers[0]` answers whoever is connected, and its replica gets nothing more of it."""
        first, replica = (redis.Redis.from_url(server.url) for server in self.servers)
        with closing(first), closing(replica):
            replica.config_set("masterauth", "wrong")
            first.client_kill_filter(_type="replica")

    def fail_over(self) -> None:
        """By hand, while `servers[0]` lives."""
        with closing(redis.Redis.from_url(self.sentinels[0].url, password=self.sentinel_password)) as client:
            client.execute_command("SENTINEL FAILOVER", SERVICE)

    def end(self) -> None:
        super().end()
        for sentinel in self.sentinels:
            sentinel.kill()

    def primary_of(self, _: str = "") -> Redis:
        """The server that the sentinels call the primary now."""
        return self.at(self._watched().discover_master(SERVICE))

    def _watched(self) -> Sentinel:
        places = [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]
        options = {"password": self.sentinel_password, "socket_timeout": 2}
        return Sentinel(places, sentinel_kwargs=options, password=self.password, socket_timeout=5)

    def client(self, _: str = "") -> Any:
        """redis-py's client of the primary behind the sentinels."""
        return self._watched().master_for(SERVICE)


class _Sentinel(Redis):
    """One sentinel; it keeps what it learns in its settings file."""

    name = "redis-sentinel"

    def __init__(self, home: Path, port: int, of: Sentinels, down_ms: int) -> None:
        super().__init__(home, port, ())
        self._of, self._down_ms = of, down_ms

    def _command(self) -> Sequence[str]:
        file = self.home / "sentinel.conf"
        if not file.exists():
            lines = [
                f"requirepass {self._of.sentinel_password}", f"sentinel sentinel-pass {self._of.sentinel_password}",
                f"sentinel monitor {SERVICE} 127.0.0.1 {self._of.servers[0].port} {self._of.quorum}",
                f"sentinel auth-pass {SERVICE} {self._of.password}",
                f"sentinel down-after-milliseconds {SERVICE} {self._down_ms}",
                f"sentinel failover-timeout {SERVICE} 3000",
            ]  # fmt: skip
            file.write_text("\n".join(lines) + "\n")
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.home), "--sentinel")
        return (program("redis-server", "redis-server"), str(file), *where)


def slot_of(tenant: str) -> int:
    """The slot of a tenant's keys."""
    return int(key_slot(f"repl:{{{tenant}}}".encode()))


def tenant_on(first_third: bool = True) -> str:
    """A fresh tenant whose slot `Cluster.servers[0]` serves at first: the one with a replica."""
    while True:
        tenant = fresh_tenant()
        if (slot_of(tenant) < SLOTS // 3) == first_third:
            return tenant


def client_of(url: str) -> Any:
    """A client of redis-py's own for a URL of the product: of the server, the Cluster, or the primary."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    places = [(host, int(port)) for host, _, port in (one.partition(":") for one in hosts)]
    if parts.scheme == "redis+cluster":
        return RedisCluster(startup_nodes=[ClusterNode(*place) for place in places])
    if parts.scheme == "redis+sentinel":
        options = {"password": Sentinels.sentinel_password}
        return Sentinel(places, sentinel_kwargs=options, password=Sentinels.password).master_for(SERVICE)
    return redis.Redis.from_url(url)
