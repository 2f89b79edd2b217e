"""Runs ranker and trainer once over a handful of events, so that every kernel is compiled into its cache.

numba keeps compiled kernels beside the sources (`__pycache__`); without this the first start compiles them,
which takes a minute. It measures nothing and leaves no data behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import service
from features.errors import NotReady
from features.event_parser import parse_event
from features.records import event_record
from service.core import Service
from service.ranked import Question
from service.settings import Settings
from service.weight_store import WeightStore
from trainer.live import run

BASE = Path(service.__file__).parent / "testkit_base"
ITEMS = [f"item-{number}" for number in range(12)]
SECONDS = 300.0
STEPS = 4


def warm_kernels(progress: Callable[[int, int], None]) -> dict[str, float]:
    """Compile what is not compiled yet; returns how long each part took. Raises NotReady after five
    minutes.
    """
    with TemporaryDirectory(prefix="repl-ranker-warm-", ignore_cleanup_errors=True) as place:
        settings = Settings(
            data_dir=Path(place),
            base_dir=BASE,
            hold_ms=0,
            negative_after_ms=0,
            purchase_wait_ms=0,
            max_items=2_000,
        )
        started = time.perf_counter()
        progress(1, STEPS)
        ranker = Service(settings)
        try:
            ranker.log.append("event", [event_record(parse_event(raw)) for raw in _events(ranker.clock())])
            ranker.start()
            ranker.wait(SECONDS)
            ranked = time.perf_counter()
            progress(2, STEPS)
            _ask(ranker)
            _learn(settings, ranker.store)
            progress(3, STEPS)
            _until(lambda: ranker.running.replica.snapshot.version > 0, "the ranker saw no version")
            _ask(ranker)
        finally:
            ranker.stop()
        progress(STEPS, STEPS)
    ended = time.perf_counter()
    return {"ranker_seconds": round(ranked - started, 1), "trainer_seconds": round(ended - ranked, 1)}


def _events(now: int) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(ITEMS):
        fields = {"title": f"red lantern {number}", "category": f"kind {number % 3}", "price": 1.5 + number}
        yield {"id": item, "timestamp": now - 9_000, "event": "item", "item": item, "fields": fields}
    for user in range(4):
        at, who = now - 8_000 + user, {"user": f"user-{user}"}
        shown = [{"id": item} for item in ITEMS]
        yield {"id": f"shown-{user}", "timestamp": at, "event": "ranking", **who, "items": shown}
        for place, kind in enumerate(("click", "cart", "purchase", "favourite", "refund")):
            item = ITEMS[(user + place) % len(ITEMS)]
            event = {
                "id": f"{kind}-{user}",
                "timestamp": at + 100 * place,
                "event": "interaction",
                "type": kind,
            }
            yield event | {"item": item, "ranking": f"shown-{user}", **who}
    yield {"id": "gone", "timestamp": now, "event": "user", "user": "user-3", "op": "delete"}


def _ask(ranker: Service) -> None:
    """One answer that is logged, and one over the whole catalogue."""
    objective = ranker.objectives.get(None)
    running, now = ranker.running, ranker.clock()
    question = Question("warm-1", now, objective, "live", user="user-0", query="lantern", explain=True)
    running.ranker.rank(question, [*ITEMS, "unknown"], {})
    running.retriever.retrieve(Question("warm-2", now, objective, "live", user="user-1", top_k=5), None, 10)


def _learn(settings: Settings, store: WeightStore) -> None:
    """Let the trainer take everything and publish."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        learning = pool.submit(run, settings, stop)
        try:
            _until(lambda: learning.done() or len(store.versions(2)) > 1, "the trainer published nothing")
        finally:
            stop.set()
        learning.result()


def _until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise NotReady(f"{what} within {SECONDS:.0f} s")
        time.sleep(0.02)
