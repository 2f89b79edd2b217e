"""Which log this is: offsets mean nothing in another one. It compares and stores nothing.

On Kafka a log is its cluster and the ids of its topics; the embedded one draws a number for each of its files when it
makes them. Whoever keeps offsets elsewhere keeps the identity beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from features.records import Stream

if TYPE_CHECKING:
    from features.event_log import EventLog

EMBEDDED = "embedded"


class LogIdentity(Protocol):
    """Which log this is."""

    @property
    def cluster(self) -> str: ...
    @property
    def topics(self) -> Mapping[Stream, str]: ...


@dataclass(frozen=True)
class StoredIdentity:
    """The identity of an embedded log (the number of the file in which each stream lies), or one that was kept."""

    topics: Mapping[Stream, str]
    cluster: str = EMBEDDED


def identity_of(log: EventLog) -> tuple[str, dict[str, str]]:
    """(cluster, topic id of each stream) of a log. Raises LogError."""
    found = log.identity()
    return found.cluster, {str(stream): topic for stream, topic in found.topics.items()}
