"""Reads the log for offline training: its events in time order, and the times that split it. Keeps neither.

The split is by time always, at shares of the log's behaviours (interactions and rankings), so that a quiet year and a
busy week weigh by what happened in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from features.errors import InvalidInput
from features.event_log import EventLog
from features.events import Event, from_bytes
from features.records import Record, partitions_in, split_key
from trainer.feature_replay import in_time_order

KINDS = frozenset({"item", "interaction", "ranking"})
SPLIT, STOP, HELD_OUT = 0.70, 0.80, 0.98
"""Shares of the log's behaviours by time: the network is fitted before SPLIT and stopped early on SPLIT to
STOP; the prior judges it from SPLIT on; nothing is trained on what follows HELD_OUT, where the finished
model is checked.
"""

EXAMPLES_FROM = 0.1
"""The last layer takes no examples before: counters and histories are still empty."""

SAMPLE = 100_000
LEAST = 1_000


@dataclass(frozen=True)
class Splits:
    """Times in ms."""

    first: int
    examples_from: int
    split: int
    stop: int
    held_out: int
    last: int


def read_events(log: EventLog, until: int | None = None) -> Iterator[Event]:
    """Items, interactions and rankings of a log in time order, those before `until` ms only."""

    def stored() -> Iterator[Event]:
        for record in _stored(log):
            if record.kind in KINDS and (until is None or record.effective_time < until):
                event = from_bytes(record.body)
                yield event if event.timestamp == record.effective_time else _at(event, record.effective_time)

    return in_time_order(stored())


def _stored(log: EventLog) -> Iterator[Record]:
    """Every record of the stream `event` that is there, one partition after the other."""
    starts = log.start_offsets()
    for name in partitions_in("event", starts):
        at, partition = starts[name], split_key(name)[1]
        while records := log.read("event", at, partition=partition):
            yield from records
            at = records[-1].offset + 1


def _at(event: Event, time: int) -> Event:
    moved: Event = msgspec.structs.replace(event, timestamp=time)
    return moved


def split_times(log: EventLog, seed: int, until: int | None = None) -> Splits:
    """Times that divide the log's behaviours before `until` ms, from a sample of bounded size.

    Raises InvalidInput on too few.
    """
    rng = np.random.default_rng(seed)
    sample, seen = np.zeros(SAMPLE, np.int64), 0
    for record in _stored(log):
        behaviour = record.kind in ("interaction", "ranking")
        if behaviour and (until is None or record.effective_time < until):
            place = seen if seen < SAMPLE else int(rng.integers(seen + 1))
            if place < SAMPLE:
                sample[place] = record.effective_time
            seen += 1
    if seen < LEAST:
        raise InvalidInput(
            f"the log holds {seen} interactions and rankings: too few to train on",
            hint=f"import events first: `repl-ranker import`; {LEAST:,} are the least",
        )
    times = np.sort(sample[:seen])

    def at_share(share: float) -> int:
        return int(times[int(share * (len(times) - 1))])

    return Splits(
        first=int(times[0]),
        examples_from=at_share(EXAMPLES_FROM),
        split=at_share(SPLIT),
        stop=at_share(STOP),
        held_out=at_share(HELD_OUT),
        last=int(times[-1]),
    )
