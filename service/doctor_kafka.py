"""The examination of a Kafka cluster: reached, version, topics as planned, rights, disks. It changes nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from features.errors import SettingsError
from features.event_log import kafka_address
from features.event_log_kafka_topics import SINGLE, differences, topic_plans
from features.records import Stream
from service.doctor import Finding, Verdict, size
from service.settings import Settings

if TYPE_CHECKING:
    from features.event_log_kafka_look import ClusterLook, Disk, TopicLook

TRIED = (3, 0)
NEEDED = ("DESCRIBE", "READ", "WRITE")
FULL, TIGHT = 0.03, 0.1


def check(settings: Settings) -> Iterator[Finding]:
    """The cluster of `log_url`, if any. Raises SettingsError, LogError."""
    if not settings.log_url:
        yield Finding("PASS", "kafka", f"log_url is not set: the log lies in {settings.data_dir}")
        return
    address = kafka_address(settings)
    try:
        from features.event_log_kafka_look import look
    except ModuleNotFoundError as error:
        hint = "install the extra: pip install 'repl-ranker[kafka]'"
        raise SettingsError("the client of Kafka is not installed", field="log_url", hint=hint) from error
    found = look(address)
    yield _version(found, address.shown)
    if address.sasl == "PLAIN" and not address.tls:
        what = "sasl=PLAIN without tls sends the password in the clear"
        yield Finding("WARN", "kafka", what, "add tls=true, or use SCRAM")
    for stream, topic in found.topics.items():
        yield from _topic(stream, topic, found, settings)
    if found.version < TRIED and found.allowed is not None and "IDEMPOTENT_WRITE" not in found.allowed:
        yield Finding("FAIL", "kafka", "we may not write idempotently", "give the user IdempotentWrite on the cluster")
    for disk in found.disks:
        yield _disk(disk)


def _version(found: ClusterLook, shown: str) -> Finding:
    version = ".".join(map(str, found.version))
    what = f"{shown} answers: cluster {found.cluster}, {found.brokers} brokers, API of Kafka {version}"
    if found.version < TRIED:
        return Finding("WARN", "kafka", what, "update it: 3.0 is the oldest that should do, 4.1 what was tried")
    return Finding("PASS", "kafka", what)


def _topic(stream: Stream, topic: TopicLook, found: ClusterLook, settings: Settings) -> Iterator[Finding]:
    if topic.denied:
        hint = "give the user the ACLs Describe, Read and Write"
        yield Finding("FAIL", "kafka", f"{topic.name}: we may not describe it", hint)
        return
    if not topic.partitions:
        yield Finding("FAIL", "kafka", f"{topic.name} is missing", "make it: repl-ranker topics")
        return
    missing = [name for name in NEEDED if topic.allowed is not None and name not in topic.allowed]
    if missing:
        hint = f"give the user the ACLs {', '.join(name.capitalize() for name in missing)} on {topic.name}"
        yield Finding("FAIL", "kafka", f"{topic.name}: we may not {', '.join(missing).lower()}", hint)
    if topic.without:
        yield Finding("FAIL", "kafka", f"{topic.name}: {topic.without} partitions have no leader", "bring brokers back")
    elif topic.behind:
        what = f"{topic.name}: {topic.behind} partitions lack copies in step"
        yield Finding("WARN", "kafka", what, "look at its brokers")
    yield from _planned(stream, topic, found, settings)
    if not missing and not topic.without:
        what = f"{topic.name}: {topic.partitions} partitions, which we may describe, read and write"
        yield Finding("PASS", "kafka", what)


def _planned(stream: Stream, topic: TopicLook, found: ClusterLook, settings: Settings) -> Iterator[Finding]:
    """How it differs from what `repl-ranker topics` would make; the number of partitions and copies is the owner's."""
    if stream in SINGLE and topic.partitions != 1:
        what = f"{topic.name} has {topic.partitions} partitions: its order counts as a whole"
        yield Finding("FAIL", "kafka", what, "delete it and make it anew with one: repl-ranker topics")
    if topic.replicas == 1 and found.brokers > 1:
        what = f"{topic.name} has one copy on {found.brokers} brokers: the loss of one loses events"
        yield Finding("WARN", "kafka", what, "give it three copies (kafka-reassign-partitions)")
    if topic.configs is None:
        what = f"{topic.name}: its settings are not ours to see"
        yield Finding("WARN", "kafka", what, "allow DescribeConfigs: then they are compared with the plan")
        return
    plan = topic_plans(
        topic.partitions,
        event_retention_ms=int(settings.event_retention_days * 86_400_000),
        served_retention_ms=int(settings.served_retention_hours * 3_600_000),
        purchase_window_ms=settings.purchase_window_ms,
    )[stream]
    plan = replace(plan, partitions=topic.partitions)
    for line in differences(topic.name, plan, topic.replicas, topic.partitions, topic.replicas, topic.configs):
        yield Finding("WARN", "kafka", line, "change the topic (kafka-configs --alter), or the setting")


def _disk(disk: Disk) -> Finding:
    share = disk.free / disk.total
    verdict: Verdict = "FAIL" if share < FULL else "WARN" if share < TIGHT else "PASS"
    what = f"broker {disk.broker} has {size(disk.free)} free ({share:.0%}) in {disk.path}"
    return Finding(verdict, "kafka", what, "" if verdict == "PASS" else "free some, or shorten retention")
