"""Lets the log go of what nobody needs any more: once a minute, in a thread of its own. What may go the log decides.

It also gives memory back, every ten seconds, where the process has grown: what an import or a burst left in the heaps.

Kept in any case: everything from the newest checkpoint on (a restart replays it), what this ranker has not read, and,
by the log's own limits, the purchase window.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from prometheus_client import Counter

from features.errors import LogError, StoreError
from features.event_log import EventLog
from features.records import Offsets
from service.background import Background
from service.memory import Relief
from service.metrics import Gauge, Metrics
from service.weight_store import WeightStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
TIDY_EVERY = 6
"""Looks at memory between two looks at the log."""


def offsets_to_keep(event_log: EventLog, store: WeightStore, read_through: Offsets) -> Offsets:
    """stream/partition → the first offset that must stay.

    That of the newest checkpoint and of what this process has read; nothing may go while versions exist without a
    checkpoint, everything that is old where no trainer has ever learned from this log. Raises LogError, StoreError.
    """
    checkpoint = store.latest_checkpoint()
    if checkpoint is not None:
        keep = dict(checkpoint.offsets)
    elif store.latest() is not None:
        return {}
    else:
        keep = event_log.end_offsets()
    return {name: min(offset, read_through.get(name, offset)) for name, offset in keep.items()}


class Janitor(Background):
    """The thread. A failure is logged and tried again a minute later; ranking goes on."""

    def __init__(
        self,
        event_log: EventLog,
        store: WeightStore,
        read_through: Callable[[], Offsets],
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        tidies: bool = True,
    ) -> None:
        """read_through: the offsets that this process has read and will not read again; tidies: whether the log is its
        matter, or memory only."""
        self._tidies = tidies
        self._log, self._store, self._read_through, self._clock = event_log, store, read_through, clock
        self._metrics = metrics
        self._removed = Counter(
            "repl_log_removed_records",
            "records that expired or were thinned, by stream",
            ["stream", "why"],
            registry=metrics.registry,
        )
        self._bytes = Gauge(
            "repl_log_bytes", "bytes of the log's records at the last look", registry=metrics.registry
        )
        self._relief = Relief()
        super().__init__("log-janitor", 30.0)

    def _run(self) -> None:
        for turn in itertools.count(1):
            if self._stop.wait(LOOK_SECONDS):
                return
            self._relief.look()
            if self._tidies and turn % TIDY_EVERY == 0:
                self.look()

    def look(self) -> dict[str, int]:
        """Once: what was removed, by kind; empty where log or store failed."""
        try:
            keep = offsets_to_keep(self._log, self._store, self._read_through())
            counts = dict(self._log.retain(self._clock(), keep))
        except (LogError, StoreError) as error:
            self._metrics.failures.labels("log" if isinstance(error, LogError) else "store").inc()
            log.error("the log cannot be tidied", extra={"reason": error.message})
            return {}
        for name, count in counts.items():
            why, _, stream = name.partition("_")
            if why in ("expired", "thinned") and count:
                self._removed.labels(stream, why).inc(count)
        self._bytes.set(counts.get("bytes", 0))
        if any(count for name, count in counts.items() if name != "bytes"):
            log.info("the log was tidied", extra=counts)
        return counts
