"""Served records on their way to the log: a bounded queue and the thread that empties it. It ranks nothing.

An answer never waits for the log: when the queue is full the record is dropped and counted. When the log fails, the
batch is kept and tried again; what does not fit meanwhile is dropped.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import LogError
from features.event_log import EventLog
from features.keys import text_key
from features.records import NewRecord, ServedRecord
from service.background import Background
from service.metrics import Metrics

log = logging.getLogger(__name__)

MAX_BYTES = 32 * 1024
_HEAD_BYTES = 1_024
_ITEM_BYTES = 16
_BATCH = 256


class Answered(NamedTuple):
    """One answer as far as it is logged. items, scores f32 (n,), z f16 (n, d) stand in answer order."""

    request_id: str
    t: int
    tenant: str
    user: str | None
    session: str | None
    arm: str
    mode: str
    experiments: Mapping[str, str]
    base: str
    version: int
    counters: dict[str, int]
    user_state: dict[str, int]
    objective: str
    surface: int
    query: str | None
    fields: dict[str, float]
    items: list[str]
    scores: npt.NDArray[np.float32]
    hidden: int
    z: npt.NDArray[np.float16]
    propensity: npt.NDArray[np.float32] | None = None


def fitting(wanted: int, d: int, items: list[str]) -> int:
    """How many of the first `wanted` items a record of MAX_BYTES has room for, at d inputs an item."""
    room = MAX_BYTES - _HEAD_BYTES
    for count, item in enumerate(items[:wanted]):
        room -= 2 * d + _ITEM_BYTES + (len(item) if item.isascii() else len(item.encode()))
        if room < 0:
            return count
    return min(wanted, len(items))


def to_record(answer: Answered) -> ServedRecord:
    """The stored form (docs/formats.md §3); no propensity: it is 1, nothing was drawn."""
    return ServedRecord(
        request_id=answer.request_id,
        t=answer.t,
        tenant=answer.tenant,
        user=answer.user,
        session=answer.session,
        arm=answer.arm,
        mode=answer.mode,
        experiments=dict(answer.experiments),
        base=answer.base,
        version=answer.version,
        counters=answer.counters,
        user_state=answer.user_state,
        objective=answer.objective,
        surface=answer.surface,
        query=answer.query,
        fields=answer.fields,
        items=answer.items,
        scores=answer.scores.astype("<f4").tobytes(),
        propensity=b"" if answer.propensity is None else answer.propensity.astype("<f4").tobytes(),
        hidden=answer.hidden,
        z=answer.z.astype("<f2").tobytes(),
    )


class Impressions(Background):
    """The queue. `put` from any thread; one thread of its own writes."""

    def __init__(self, event_log: EventLog, capacity: int, metrics: Metrics) -> None:
        self._log = event_log
        self._capacity = capacity
        self._metrics = metrics
        self.failing = False
        self._waiting: deque[Answered] = deque()
        super().__init__("served-records")
        self.written = 0
        self.dropped = 0
        self.bytes = 0
        self._busy = False

    def put(self, answer: Answered) -> bool:
        """Queue one answer; False if it was dropped because the queue is full."""
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            self._metrics.served.labels("dropped").inc()
            return False
        self._waiting.append(answer)
        self._wake.set()
        return True

    @property
    def waiting(self) -> int:
        """Records that are not in the log yet."""
        return len(self._waiting) + (1 if self._busy else 0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(1.0)
            self._wake.clear()
            self._stop.wait(0.01)  # let a few come together: one transaction for all
            self._write_all(patient=True)
        self._write_all(patient=False)

    def _write_all(self, patient: bool) -> None:
        while self._waiting:
            self._busy = True
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            written = self._write(batch, patient)
            self._busy = False
            if not written:
                return

    def _write(self, batch: list[Answered], patient: bool) -> bool:
        records = [
            NewRecord(
                "served",
                a.tenant,
                a.t,
                a.user or a.session or (a.items[0] if a.items else a.request_id),
                to_record(a).to_bytes(),
                id_hash=text_key("request", a.request_id) >> 1,  # what a full log is thinned by
            )
            for a in batch
        ]
        while True:
            try:
                self._log.append("served", records)
            except LogError as error:
                self._metrics.failures.labels("log").inc()
                self.failing = True
                log.error("served records cannot be written", extra={"reason": error.message})
                if not patient or self._stop.wait(0.5):
                    self.dropped += len(batch)
                    self._metrics.served.labels("dropped").inc(len(batch))
                    return False
                continue
            self.failing = False
            self._count(records)
            return True

    def _count(self, records: list[NewRecord]) -> None:
        size = sum(len(record.body) for record in records)
        self.written += len(records)
        self.bytes += size
        self._metrics.served.labels("written").inc(len(records))
        self._metrics.served_bytes.inc(size)
        self._metrics.served_waiting.set(len(self._waiting))
