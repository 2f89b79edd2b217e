"""Has a trainer learn a handful of events of its own making in a directory that goes again, so that the kernels it
needs are compiled and loaded in this process, and in those forked from it. It measures nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import service
from features.errors import NotReady
from features.event_log import EventLog, open_log
from features.event_parser import parse_event
from features.records import event_record
from service.settings import Settings
from service.weight_store import WeightStore, open_weight_store
from trainer.live import run

BASE = Path(service.__file__).parent / "testkit_base"
ITEMS = [f"item-{number}" for number in range(12)]
SECONDS = 300.0


def place() -> TemporaryDirectory[str]:
    """A directory that goes again, whatever is still written there."""
    return TemporaryDirectory(prefix="repl-ranker-warm-", ignore_cleanup_errors=True)


def quick_settings(data_dir: Path) -> Settings:
    """Settings under which everything that is sent is learned at once."""
    return Settings(
        data_dir=data_dir, base_dir=BASE, hold_ms=0, negative_after_ms=0, purchase_wait_ms=0, max_items=2_000
    )  # fmt: skip


def load_kernels() -> None:
    """Once, in this process. Raises NotReady after five minutes, LogError, StoreError, OSError."""
    with place() as here:
        settings = quick_settings(Path(here))
        with closing(open_log(settings)) as log, closing(open_weight_store(settings)) as store:
            send(log, time.time_ns() // 1_000_000)
            learn(settings, store)


def send(log: EventLog, now: int) -> None:
    """Append events of every kind."""
    log.append("event", [event_record(parse_event(raw)) for raw in _events(now)])


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


def learn(settings: Settings, store: WeightStore) -> None:
    """Let the trainer take everything and publish."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        learning = pool.submit(run, settings, stop)
        try:
            until(lambda: learning.done() or len(store.versions(2)) > 1, "the trainer published nothing")
        finally:
            stop.set()
        learning.result()


def until(done: Callable[[], bool], what: str) -> None:
    """Wait. Raises NotReady after five minutes."""
    deadline = time.monotonic() + SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise NotReady(f"{what} within {SECONDS:.0f} s")
        time.sleep(0.02)
