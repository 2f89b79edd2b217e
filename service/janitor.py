"""Lets the log go of what nobody needs any more: once a minute, in a thread of its own. What may go the log decides.

Kept in any case: everything from the newest checkpoint on (a restart replays it), what this ranker has not read, and,
by the log's own limits, the purchase window.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import Counter, Gauge

from features.errors import LogError, StoreError
from features.event_log import EventLog
from features.records import Offsets
from service.background import Background
from service.memory import trim
from service.metrics import Metrics
from service.user_state_consumer import MANY
from service.weight_store import WeightStore

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0


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
    ) -> None:
        """read_through: the offsets that this process has read and will not read again."""
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
        self._trimmed_at = 0
        super().__init__("log-janitor", 30.0)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.look()
            self._give_back()

    def _give_back(self) -> None:
        """After many events (an import, above all) the heaps are much larger than what they hold."""
        read = sum(self._read_through().values())
        if read - self._trimmed_at >= MANY:
            self._trimmed_at = read
            trim()

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
