"""Brings the gauges of /metrics up to date when somebody asks. It may read log and store: never on the event loop."""

from __future__ import annotations

import math
from typing import Any

from features.errors import LogError, StoreError
from features.event_log import EventLog
from service.core import Service
from service.metrics import Metrics
from service.numbers import trainer_numbers
from service.running import Running

DEAD_LETTERS = "dead-letter/"


def update_gauges(service: Service) -> None:
    """Ages, sizes, what waits, and what the trainer says of itself."""
    if service.ready_reasons():
        return
    running, metrics = service.running, service.metrics
    _ages(service, running)
    metrics.items.set(len(running.engine.catalogue))
    metrics.served_waiting.set(running.impressions.waiting)
    metrics.encoding_waiting.set(running.encoder.waiting)
    _experiments(running, metrics)
    waiting = running.events_behind()
    metrics.behind.set(math.nan if waiting is None else waiting)
    metrics.dead_letters.set(_dead_letters(service.log))
    _trainer(service, trainer_numbers(service))


def _experiments(running: Running, metrics: Metrics) -> None:
    """Off: for some of the users, or for all; by the bases that answer them."""
    snapshot = running.replica.snapshot
    answering = {running.bases.live.sha256} | ({snapshot.beside} if snapshot.percent else set())
    by_base = [running.experiments.off(running.replica.fixed(base)) for base in answering]
    for name in by_base[0]:
        metrics.experiment_off.labels(name).set(any(off[name] for off in by_base))


def _ages(service: Service, running: Running) -> None:
    counters, weights = running.replica.through()
    times = {"user": running.freshness.user_through(), "counters": counters, "weights": weights}
    now = service.clock()
    for name, through in times.items():
        if through is not None:
            service.metrics.age.labels(name).set(max(0, now - through) / 1000)


def _dead_letters(event_log: EventLog) -> float:
    """Those that have not expired, of all partitions; NaN where the log does not answer."""
    try:
        ends, starts = event_log.end_offsets(), event_log.start_offsets()
    except LogError:
        return math.nan
    return sum(end - starts.get(name, 0) for name, end in ends.items() if name.startswith(DEAD_LETTERS))


def _trainer(service: Service, status: dict[str, Any]) -> None:
    """NaN where it is not known: there is no trainer, it has seen too little, or log or store do not answer."""
    metrics = service.metrics
    waiting = status.get("behind") or {}
    metrics.trainer_behind.set(waiting.get("records", math.nan))
    metrics.trainer_behind_seconds.set(waiting.get("ms", math.nan) / 1000)
    calibration = status.get("calibration") or {}
    for name in ("live", "frozen"):
        found = calibration.get(name)
        metrics.calibration.labels(name).set(math.nan if found is None else found)
    bases = service.running.bases
    metrics.bases.update(status.get("bases") or {}, bases.live.sha256, bases.loaded)
    metrics.trainer.update(status, _heartbeat(service), service.clock())


def _heartbeat(service: Service) -> int | None:
    try:
        found = service.store.heartbeat()
    except StoreError:
        return None
    return None if found is None else found.at
