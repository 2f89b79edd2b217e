"""Bench of the trainer on a real Kafka and Redis: how fast it catches up on a backlog.

Lists with their served records and interactions are read, learned and committed, checkpoints included. Start-up does
not count: time runs from the first version of the backlog.
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
from service.weight_store import open_weight_store
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


def read_through(stack: Stack) -> int:
    """Events that the newest version was trained through."""
    with closing(open_weight_store(stack.settings)) as store:
        latest = store.latest()
    return 0 if latest is None else sum(latest.offsets[name] for name in partitions_in("event", latest.offsets))


def run(settings: Settings, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Events a second by the clock and by the trainer's processor time."""
    tell = progress or (lambda done, total: None)
    with stack_of(settings, ()) as stack:
        events = fill(stack)
        tell(1, 3)
        stack.start(TRAINER)
        pid, until = stack.children[TRAINER].pid, time.monotonic() + PATIENCE
        first = began = used = 0.0
        while (done := read_through(stack)) < events:
            stack.supervise()
            if not first and done:
                first, began, used = float(done), time.perf_counter(), cpu_seconds(pid)
                tell(2, 3)
            if time.monotonic() > until:
                raise RuntimeError(f"only {done} of {events} events were learned:\n{stack.tail(TRAINER)}")
            time.sleep(0.05)
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - used
        tell(3, 3)
    counted = events - first
    return {
        "events": events, "counted": int(counted), "seconds": round(seconds, 2),
        "events_per_second": round(counted / seconds), "events_per_cpu_second": round(counted / max(cpu, 1e-9)),
    }  # fmt: skip
