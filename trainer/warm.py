"""Runs ranker and trainer once over a handful of events, so that every kernel is compiled into its cache.

numba keeps compiled kernels beside the sources (`__pycache__`); without this the first start compiles them,
which takes a minute. It measures nothing and leaves no data behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from features import event_log_kafka_kernels
from service.core import Service
from service.ranked import Question
from trainer.warm_learner import ITEMS, SECONDS, learn, place, quick_settings, send, until

STEPS = 4


def warm_kernels(progress: Callable[[int, int], None]) -> dict[str, float]:
    """Compile what is not compiled yet; returns how long each part took. Raises NotReady after five
    minutes.
    """
    event_log_kafka_kernels.warm()  # the shop below has no Kafka
    with place() as here:
        settings = quick_settings(Path(here))
        started = time.perf_counter()
        progress(1, STEPS)
        ranker = Service(settings)
        try:
            send(ranker.log, ranker.clock())
            ranker.start()
            ranker.wait(SECONDS)
            ranked = time.perf_counter()
            progress(2, STEPS)
            _ask(ranker)
            learn(settings, ranker.store)
            progress(3, STEPS)
            until(lambda: ranker.running.replica.snapshot.version > 0, "the ranker saw no version")
            _ask(ranker)
        finally:
            ranker.stop()
        progress(STEPS, STEPS)
    ended = time.perf_counter()
    return {"ranker_seconds": round(ranked - started, 1), "trainer_seconds": round(ended - ranked, 1)}


def _ask(ranker: Service) -> None:
    """One answer that is logged, and one over the whole catalogue."""
    objective = ranker.objectives.get(None)
    running, now = ranker.running, ranker.clock()
    question = Question("warm-1", now, objective, "live", user="user-0", query="lantern", explain=True)
    running.ranker.rank(question, [*ITEMS, "unknown"], {})
    running.retriever.retrieve(Question("warm-2", now, objective, "live", user="user-1", top_k=5), None, 10)
