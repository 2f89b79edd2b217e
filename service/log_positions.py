"""Offsets of user states and catalogue as they are stored: beside them the log that they belong to. It reads no log.

A log that is not among those known is another one (its topic was made again, another cluster): reading begins at its
start, and its generation stands above the partition in every place, so that nothing of it is taken for a repeat.
"""

from __future__ import annotations

from features.event_log import EventLog
from features.event_log_identity import identity_of
from features.keys import text_key
from features.records import Offsets

LOG = "log:"


def log_key(log: EventLog, stream: str) -> str:
    """A name for the stream of this log, as stored beside offsets. Raises LogError."""
    cluster, topics = identity_of(log)
    number = text_key("log", f"{cluster} {topics[stream]}")
    return f"{LOG}{number:016x}"


def generation_in(stored: Offsets, key: str) -> int:
    """Which one of the logs gone through this is; offsets that name no log belong to it."""
    known = {name: at for name, at in stored.items() if name.startswith(LOG)}
    return known.get(key, max(known.values(), default=-1) + 1)


def positions_in(stored: Offsets, generation: int) -> Offsets:
    """The offsets of that generation's log, by stream/partition."""
    if generation == 0:
        return {name: at for name, at in stored.items() if ":" not in name}
    prefix = f"{generation}:"
    return {name.removeprefix(prefix): at for name, at in stored.items() if name.startswith(prefix)}


def stored_name(name: str, generation: int) -> str:
    """What an offset of that generation's log is stored under."""
    return f"{generation}:{name}" if generation else name


def to_store(positions: Offsets, generation: int, key: str) -> Offsets:
    """The inverse of `positions_in`, with the log's name."""
    return {key: generation} | {stored_name(name, generation): at for name, at in positions.items()}
