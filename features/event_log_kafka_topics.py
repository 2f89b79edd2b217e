"""The topics of a log as they should be, and how those that exist differ. It imports no client and asks no broker:
`event_log_kafka.make_topics` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from features.records import Stream

DAY_MS = 86_400_000
CUT_DAYS = 30
SINGLE: tuple[Stream, ...] = ("cut", "control")
"""Streams whose order counts as a whole: one partition, always."""


@dataclass(frozen=True)
class TopicPlan:
    """What a topic is made with. `retention_ms` None: for ever; `compact`: the newest record of each key stays."""

    partitions: int = 1
    retention_ms: int | None = None
    compact: bool = False

    def configs(self, replication: int) -> dict[str, str]:
        """The topic's settings, those that count for the log."""
        return {
            "cleanup.policy": "compact" if self.compact else "delete",
            "retention.ms": str(-1 if self.retention_ms is None else self.retention_ms),
            "min.insync.replicas": str(2 if replication > 2 else 1),
            "message.timestamp.type": "LogAppendTime",
        }


def topic_plans(
    partitions: int = 6,
    *,
    event_retention_ms: int = 90 * DAY_MS,
    served_retention_ms: int = 2 * DAY_MS,
    purchase_window_ms: int = DAY_MS,
    changes: Mapping[Stream, TopicPlan] | None = None,
) -> dict[Stream, TopicPlan]:
    """Every stream's plan: `partitions` for events and served records, 1 for the rest; nothing expires within the
    purchase window. Cuts live 30 days at most, control records and dead letters as long as events. `changes` replaces
    whole plans; cuts and control records keep one partition.
    """
    events = max(event_retention_ms, purchase_window_ms)
    found: dict[Stream, TopicPlan] = {
        "event": TopicPlan(partitions, events),
        "served": TopicPlan(partitions, max(served_retention_ms, purchase_window_ms)),
        "dead-letter": TopicPlan(1, events),
        "cut": TopicPlan(1, min(events, CUT_DAYS * DAY_MS)),
        "control": TopicPlan(1, events),
    }
    found.update(changes or {})
    return {
        stream: replace(plan, partitions=1) if stream in SINGLE else plan for stream, plan in found.items()
    }


def differences(
    topic: str, plan: TopicPlan, replication: int, partitions: int, replicas: int, configs: Mapping[str, str | None]
) -> list[str]:
    """How an existing topic differs from its plan, a line each: what it has, what was planned."""
    wanted: dict[str, object] = {"partitions": plan.partitions, "replication": replication, **plan.configs(replication)}
    has: dict[str, object] = {"partitions": partitions, "replication": replicas, **configs}
    return [
        f"{topic}: {name} is {has[name]}, planned {planned}"
        for name, planned in wanted.items()
        if name in has and str(has[name]) != str(planned)
    ]
