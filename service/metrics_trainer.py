"""What the trainer says of itself, as gauges of every ranker: it has no HTTP port of its own, and its status row in the
weight store is true for all rankers that follow it. It asks nobody; NaN is what is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

WEIGHTS = ("live", "frozen")
WINDOWS = ("1m", "10m")
QUEUES = ("hold", "shown", "clicks")


class TrainerMetrics:
    """Gauges named `repl_trainer_…` and `repl_progressive_…`; all rankers of a trainer say the same."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="mostrecent")

        self._heartbeat = gauge("repl_trainer_heartbeat_age_seconds", "since the trainer's last heartbeat")
        self._lag = gauge("repl_trainer_lag_seconds", "how far its watermark is behind the clock, as it said last")
        self._rate = gauge("repl_trainer_events_per_second", "events learned a second, over ten seconds")
        self._waiting = gauge("repl_trainer_waiting", "what the trainer keeps waiting, by queue", "queue")
        self._kept = gauge("repl_trainer_negatives_kept", "share of shown items without a click that it learns now")
        self._records = gauge("repl_trainer_records", "records read so far, by stream", "stream")
        self._labels = gauge("repl_trainer_labels", "what became of impressions and labels so far", "outcome")
        self._differing = gauge("repl_trainer_differing_versions", "versions that a replay did not repeat to the bit")
        self._loss = gauge("repl_progressive_log_loss", "log loss on clicks, before learning them", "weights", "window")
        self._auc = gauge("repl_progressive_auc", "AUC on clicks, before learning them", "weights", "window")
        self._examples = gauge("repl_progressive_examples", "examples (decayed) of a window", "window")

    def update(self, status: Mapping[str, Any], heartbeat: int | None, now: int) -> None:
        """status: the trainer's status row, {} without one; heartbeat: when it last beat, ms; now: ms."""
        self._heartbeat.set(math.nan if heartbeat is None else max(0, now - heartbeat) / 1_000)
        self._lag.set(number(status.get("lag_ms")) / 1_000)
        self._rate.set(number(status.get("events_per_second")))
        self._kept.set(number(status.get("negatives_kept")))
        self._differing.set(len(status["differing"]) if "differing" in status else math.nan)
        waiting = status.get("waiting") or {}
        for queue in QUEUES:
            self._waiting.labels(queue).set(number(waiting.get(queue)))
        for gauge, part in ((self._records, "totals"), (self._labels, "counts")):
            for name, value in (status.get(part) or {}).items():
                gauge.labels(str(name)).set(number(value))
        self._progressive(status.get("progressive") or {})

    def _progressive(self, windows: Mapping[str, Any]) -> None:
        for window in WINDOWS:
            found = windows.get(window) or {}
            self._examples.labels(window).set(number(found.get("examples")))
            for weights in WEIGHTS:
                self._loss.labels(weights, window).set(number(found.get(f"loss_{weights}")))
                self._auc.labels(weights, window).set(number(found.get(f"auc_{weights}")))


def number(value: Any) -> float:
    """What a status row holds at a place; NaN for what is no number."""
    return float(value) if isinstance(value, int | float) else math.nan
