"""Bench of the trainer on a real Kafka and Redis: how fast it catches up on a backlog.

Lists with their served records and interactions are read, learned and committed, checkpoints included. Start-up does
not count: time runs from the first version, that of an empty shop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from features.event_log import open_log
from features.records import partitions_in
from service.artifact import load_artifact
from service.settings import Settings
from service.weight_store import WeightStore, open_weight_store
from trainer.bench.crash_stack import TRAINER, Stack
from trainer.bench.learn import append_lists
from trainer.bench.server import cpu_seconds
from trainer.bench.stack import stack_of

LISTS, AT_ONCE = 12_000, 200
PATIENCE = 300.0


def fill(stack: Stack) -> int:
    """Append the backlog; how many events it holds."""
    artifact, settings, events = load_artifact(stack.base), stack.settings, 0
    now = time.time_ns() // 1_000_000 - 1_000 * LISTS // 100
    with closing(open_log(settings)) as log:
        for start in range(0, LISTS, AT_ONCE):
            events += append_lists(log, artifact, start, start + AT_ONCE, now + 10 * start, settings.tenant)
    return events


def read_through(store: WeightStore) -> int | None:
    """Events that the newest version was trained through; None before there is a version."""
    latest = store.latest()
    return None if latest is None else sum(latest.offsets[name] for name in partitions_in("event", latest.offsets))


def caught_up(stack: Stack, store: WeightStore, events: int) -> tuple[float, float]:
    """(seconds by the clock, seconds of processor time) from the first version to that of the backlog's end."""
    pid, until = stack.children[TRAINER].pid, time.monotonic() + PATIENCE
    began = used = 0.0
    while (done := read_through(store)) is None or done < events:
        stack.supervise()
        if not began and done is not None:
            began, used = time.perf_counter(), cpu_seconds(pid)
        if time.monotonic() > until:
            raise RuntimeError(f"only {done} of {events} events were learned:\n{stack.tail(TRAINER)}")
        time.sleep(0.02)
    return time.perf_counter() - began, cpu_seconds(pid) - used


def run(settings: Settings, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Events a second by the clock and by the trainer's processor time."""
    tell = progress or (lambda done, total: None)
    with stack_of(settings, ()) as stack:
        events = fill(stack)
        tell(1, 2)
        stack.start(TRAINER)
        with closing(open_weight_store(stack.settings)) as store:
            seconds, cpu = caught_up(stack, store, events)
        tell(2, 2)
    return {
        "events": events, "lists": LISTS, "seconds": round(seconds, 2),
        "events_per_second": round(events / seconds), "events_per_cpu_second": round(events / max(cpu, 1e-9)),
    }  # fmt: skip
