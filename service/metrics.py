"""The counters and gauges of a ranker, in its own Prometheus registry. It measures nothing by itself.

What the trainer says of itself stands in `metrics_trainer.py`, bases in `metrics_base.py`; docs/operations.md lists
every name.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import Gauge as AnyGauge
from prometheus_client.multiprocess import MultiProcessCollector

from service.delays import Delays
from service.metrics_base import BaseMetrics
from service.metrics_trainer import TrainerMetrics
from service.worker import METRICS

Gauge = partial(AnyGauge, multiprocess_mode="mostrecent")
"""With several workers: what the worker that was asked last says. Where the sum is meant, say `livesum`."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.008, 0.015, 0.03, 0.1, 0.3, 1.0, 3.0)
_CANDIDATES = (1, 10, 30, 100, 300, 1_000, 2_000, 5_000, 10_000, 100_000)


class Metrics:
    """Every metric of one ranker; names begin with `repl_`. Times are seconds."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        r = self.registry
        self.answers = Counter(
            "repl_http_answers", "answers by route and status", ["route", "status"], registry=r
        )
        self.seconds = Histogram(
            "repl_request_seconds", "time to answer", ["route"], buckets=_SECONDS, registry=r
        )
        self.candidates = Counter("repl_candidates", "candidates ranked", registry=r)
        self.candidates_of_request = Histogram(
            "repl_request_candidates", "candidates that a request had ranked", buckets=_CANDIDATES, registry=r
        )
        self.ranking_waiting = Gauge(
            "repl_ranking_waiting", "large requests at the ranking worker, the one under way included", registry=r,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.events_waiting = Gauge(
            "repl_events_waiting", "calls of /v1/events that wait for the log, or write it", registry=r,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.duplicates = Counter("repl_duplicate_candidates", "candidates sent more than once", registry=r)
        self.unknown = Counter("repl_unknown_candidates", "candidates not in the catalogue", registry=r)
        self.stale = Counter("repl_stale_answers", "answers that say stale", ["reason"], registry=r)
        self.experiments = Counter(
            "repl_experiment_answers", "answers by experiment and arm", ["experiment", "arm"], registry=r
        )
        self.experiment_off = Gauge(
            "repl_experiment_off", "1 while an arm's version is missing", ["experiment"], registry=r
        )
        self.passthrough = Gauge(
            "repl_passthrough", "1 while answers keep the order sent", ["surface"], registry=r
        )
        self.passed = Counter(
            "repl_passthrough_answers", "answers in the order sent by the switch", ["surface"], registry=r
        )
        self.overlap = Histogram(
            "repl_retrieve_overlap", "share of the fine top k among the coarse top k, sampled", ["k"],
            buckets=[n / 10 for n in range(11)], registry=r,
        )  # fmt: skip
        self.switched(frozenset())
        self.control = Counter("repl_control_answers", "answers ranked by the frozen prior", registry=r)
        self.events = Counter("repl_events", "events received over HTTP by outcome", ["outcome"], registry=r)
        self.served = Counter("repl_served_records", "served records by outcome", ["outcome"], registry=r)
        self.served_bytes = Counter("repl_served_bytes", "bytes of served records written", registry=r)
        self.served_waiting = Gauge(
            "repl_served_waiting", "served records waiting for the log", registry=r, multiprocess_mode="livesum"
        )
        self.consumed = Counter(
            "repl_consumed_events", "events applied to user state, by kind", ["kind"], registry=r
        )
        self.behind = Gauge("repl_user_state_behind", "events of the log not yet in user state", registry=r)
        self.delays = Delays(r)
        self.store_seconds = Histogram(
            "repl_user_state_seconds", "calls of the store of user states", ["call"], buckets=_SECONDS, registry=r
        )
        self.dead_letters = Gauge("repl_dead_letters", "dead letters that lie in the log", registry=r)
        self.trainer = TrainerMetrics(r)
        self.bases = BaseMetrics(r)
        self.trainer_behind = Gauge(
            "repl_trainer_behind_records", "records of the log that the trainer has not learned", registry=r
        )
        self.trainer_behind_seconds = Gauge(
            "repl_trainer_behind_seconds", "how long the oldest of these has waited", registry=r
        )
        self.calibration = Gauge(
            "repl_calibration", "observed / predicted clicks, by weights", ["weights"], registry=r
        )
        self.failures = Counter(
            "repl_neighbour_failures", "failed calls of log or store", ["part"], registry=r
        )
        self.version = Gauge("repl_version", "weight version served", registry=r)
        self.held = Gauge("repl_weights_held", "1 while the gate holds the weights", registry=r)
        self.holds = Counter("repl_gate_holds", "holds of the gate, by reason", ["reason"], registry=r)
        self.age = Gauge("repl_age_seconds", "age of a state", ["state"], registry=r)
        self.reloads = Counter("repl_counter_reloads", "counters reloaded from a checkpoint", registry=r)
        self.items = Gauge("repl_items", "items in the catalogue", registry=r)
        self.encoded = Counter("repl_items_encoded", "items encoded by the item tower", registry=r)
        self.encoding_waiting = Gauge("repl_items_waiting", "items waiting to be encoded", registry=r)
        ProcessCollector(registry=r)

        self.limited = Counter(
            "repl_rate_limited", "requests refused with 429: too many what, of whom", ["kind", "by"], registry=r
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """One answer of a route."""
        self.answers.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def switched(self, passthrough: Collection[int]) -> None:
        """Which surfaces are in passthrough."""
        for surface in (0, 1):
            self.passthrough.labels(str(surface)).set(surface in passthrough)

    def ranked(self, candidates: int) -> None:
        """The candidates of one request that were ranked."""
        self.candidates.inc(candidates)
        self.candidates_of_request.observe(candidates)

    def hold(self, before: str | None, now: str | None) -> None:
        """The gate's reason in the last version and in this one; a kind of reason counts when it appears."""
        self.held.set(0 if now is None else 1)
        kinds = [None if reason is None else reason.split(":")[0] for reason in (before, now)]
        if kinds[1] is not None and kinds[0] != kinds[1]:
            self.holds.labels(kinds[1]).inc()

    def page(self) -> bytes:
        """The text that Prometheus reads; of several workers: counters and histograms of all, added up."""
        if METRICS not in os.environ:
            return generate_latest(self.registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
        everybody.register(self.bases)  # names of bases, which no file holds
        return generate_latest(everybody)
