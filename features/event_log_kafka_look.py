"""What a broker says of our topics, our rights, its version and its disks: read, never changed. It judges nothing
(`service/doctor_kafka.py` does), and uses the client through `event_log_kafka.py` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.event_log_kafka import (  # type: ignore[attr-defined]  # the client is imported there and nowhere else
    ConfigResource,
    ConfigResourceType,
    _admin,
    _explained,
    failures,
)
from features.event_log_kafka_url import KafkaAddress
from features.records import Stream


@dataclass(frozen=True)
class TopicLook:
    """partitions 0: not there, or (denied) not ours to see. allowed: what we may do, None where it is not told.

    replicas: copies of its first partition; without: partitions without a leader; behind: partitions with fewer copies
    in step than copies. configs None: not ours to see.
    """

    name: str
    partitions: int
    denied: bool
    allowed: frozenset[str] | None
    replicas: int = 0
    without: int = 0
    behind: int = 0
    configs: Mapping[str, str | None] | None = None


@dataclass(frozen=True)
class Disk:
    """A directory of a broker, in bytes."""

    broker: int
    path: str
    free: int
    total: int


@dataclass(frozen=True)
class ClusterLook:
    """version: of the broker's API, such as (4, 1). disks: as far as they are ours to see."""

    cluster: str
    version: tuple[int, ...]
    brokers: int
    allowed: frozenset[str] | None
    topics: Mapping[Stream, TopicLook]
    disks: tuple[Disk, ...]


def look(address: KafkaAddress) -> ClusterLook:
    """Ask the cluster once. Raises LogError where it cannot be reached, or lets us in to nothing."""
    names = address.topics()
    with _explained(address, "cannot be reached"), _admin(address) as admin:
        cluster = admin.describe_cluster()
        topics = {one["name"]: one for one in admin.describe_topics(list(names.values()))}
        configs = _configs(admin, [name for name, one in topics.items() if one["partitions"]])
        return ClusterLook(
            cluster=str(cluster["cluster_id"]),
            version=tuple(admin._manager.broker_version_data.broker_version),
            brokers=len(cluster["brokers"]),
            allowed=_operations(cluster),
            topics={stream: _topic(name, topics.get(name, {}), configs.get(name)) for stream, name in names.items()},
            disks=_disks(admin),
        )


def _operations(found: Mapping[str, Any]) -> frozenset[str] | None:
    names = found.get("authorized_operations")
    return None if names is None else frozenset(names)


def _topic(name: str, found: Mapping[str, Any], configs: Mapping[str, str | None] | None) -> TopicLook:
    parts = found.get("partitions") or []
    return TopicLook(
        name=name,
        partitions=len(parts),
        denied=found.get("error_code") == failures.TopicAuthorizationFailedError.errno,
        allowed=_operations(found) if parts else None,
        replicas=len(parts[0]["replica_nodes"]) if parts else 0,
        without=sum(part["leader_id"] < 0 for part in parts),
        behind=sum(len(part["isr_nodes"]) < len(part["replica_nodes"]) for part in parts),
        configs=configs,
    )


def _configs(admin: Any, names: list[str]) -> dict[str, dict[str, str | None]]:
    """Settings of topics; none where we may not see them."""
    try:
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        found = admin.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
    except failures.AuthorizationError:
        return {}
    return {name: {key: one["value"] for key, one in values.items()} for name, values in found.items() if values}


def _disks(admin: Any) -> tuple[Disk, ...]:
    """Brokers before 3.3, and those that do not let us ask, tell nothing."""
    try:
        answers = admin.describe_log_dirs()
    except failures.KafkaError:
        return ()
    return tuple(
        Disk(one["broker"], found["log_dir"], found["usable_bytes"], found["total_bytes"])
        for one in answers
        for found in one["log_dirs"]
        if found.get("total_bytes", -1) > 0
    )
