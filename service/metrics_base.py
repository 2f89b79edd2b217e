"""The rollout of another base in numbers: what this ranker has loaded and answers by, and what the trainer says of it.

It rolls nothing out; NaN is what is not known. docs/base-rollout.md says what the states are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.metrics_trainer import number

PAIRS = ("live", "beside")
PRIOR = "prior"
STATES = ("alone", "fetching", "catching up", "caught up", "answering some", "promoted")


class BaseMetrics(Collector):
    """Gauges named `repl_base…`. It is a collector itself for the names of bases, which come and go."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of_workers(name: str, text: str, mode: Any) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode=mode)

        def of_trainer(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="mostrecent")

        answers = Counter("repl_base_answers", "answers by the pair that computed them", ["pair"], registry=registry)
        self._answers = {pair: answers.labels(pair) for pair in (*PAIRS, PRIOR)}
        self._loaded = of_workers("repl_bases_loaded", "bases loaded, of the worker with fewest", "livemin")
        self._missing = of_workers("repl_bases_missing", "named bases not loaded, of the worker with most", "livemax")
        self.seconds = of_workers("repl_base_load_seconds", "how long it took to load the last one", "livemax")
        self._state = of_trainer("repl_base_state", "1 for the state of the rollout", "state")
        self._refused = of_trainer("repl_base_refused", "1 while the last stage, promotion or revert is a refused one")
        self._fetch = of_trainer("repl_base_fetch_failing", "1 while the trainer cannot fetch the staged base")
        self._percent = of_trainer("repl_base_percent", "of the users that the pair beside answers")
        self._behind = of_trainer("repl_base_behind_records", "records that the pair beside has not caught up with")
        self._judged = of_trainer("repl_base_judged", "shown items and clicks (fading) judged by both pairs", "what")
        self._loss = of_trainer("repl_base_log_loss", "log loss on the same shown items", "pair")
        self._auc = of_trainer("repl_base_auc", "AUC on the same shown items", "pair")
        self._names: Mapping[str, str] = {}
        registry.register(self)

    def answered(self, base: str, live: str, beside: str) -> None:
        """One answer by a base; live, beside: those of the snapshot it was made with."""
        self._answers["live" if base == live else "beside" if base == beside else PRIOR].inc()

    def here(self, loaded: Iterable[str], named: Iterable[str]) -> None:
        """What is loaded in this process, of what should be."""
        have = set(loaded)
        self._loaded.set(len(have))
        self._missing.set(len(set(named) - have))

    def update(self, status: Mapping[str, Any], answers: str, loaded: Iterable[str]) -> None:
        """status: the trainer's `bases`, {} without one; answers, loaded: the bases of this ranker."""
        self._names = {base: "live" if base == answers else "beside" for base in loaded}
        word = status.get("state")
        for state in STATES:
            self._state.labels(state).set(number(None if word is None else float(word == state)))
        last = status.get("last") or {}
        self._refused.set(number(float(not last.get("done", True)) if status else None))
        self._fetch.set(number(float(status.get("fetch_failed") is not None) if status else None))
        self._percent.set(number(status.get("percent")))
        self._behind.set(number(status.get("behind")))
        figures = status.get("figures") or {}
        for what in ("shown", "clicks"):
            self._judged.labels(what).set(number(figures.get(what)))
        for pair in PAIRS:
            self._loss.labels(pair).set(number(figures.get(f"loss_{pair}")))
            self._auc.labels(pair).set(number(figures.get(f"auc_{pair}")))

    def collect(self) -> Iterator[Metric]:
        """The names, for a scrape."""
        family = GaugeMetricFamily("repl_base_info", "1 for each base loaded, by name", labels=["base", "pair"])
        for base, pair in self._names.items():
            family.add_metric([base[:12], pair], 1.0)
        yield family
