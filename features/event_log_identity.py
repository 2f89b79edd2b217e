"""Which log this is: offsets mean nothing in another one. It compares and stores nothing.

On Kafka a log is its cluster and the ids of its topics; the embedded one draws a number for each of its files when it
makes them. Whoever keeps offsets elsewhere keeps the identity beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from features.errors import LogError
from features.event_log import EventLog
from features.records import Stream

EMBEDDED = "embedded"


class _Identity(Protocol):
    """What `KafkaEventLog.identity` and `EmbeddedEventLog.identity` give."""

    @property
    def cluster(self) -> str: ...
    @property
    def topics(self) -> Mapping[Stream, str]: ...


@runtime_checkable
class _Identified(Protocol):
    def identity(self) -> _Identity: ...


@dataclass(frozen=True)
class FileIdentity:
    """The identity of an embedded log: the number of the file in which each stream lies."""

    topics: Mapping[Stream, str]
    cluster: str = EMBEDDED


def identity_of(log: EventLog) -> tuple[str, dict[str, str]]:
    """(cluster, topic id of each stream) of a log. Raises LogError for one that cannot tell."""
    if not isinstance(log, _Identified):
        raise LogError(
            f"{type(log).__name__} does not say which log it is: its offsets cannot be kept elsewhere",
            hint="name the log itself (--data-dir, or a kafka:// URL)",
        )
    found = log.identity()
    return found.cluster, {str(stream): topic for stream, topic in found.topics.items()}
