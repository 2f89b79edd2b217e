"""A data directory with a million synthetic items in its log, for the benches of retrieval and start. Seeded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from features.event_log import open_log
from features.event_parser import parse_event
from features.records import event_record
from trainer.bench import workload
from trainer.bench.server import Server

ITEMS = 1_000_000
USERS, HISTORY = 200, 50
_BATCH = 20_000


def fill(data_dir: Path, items: int, tell: Callable[[int], None]) -> None:
    """Append item events and some users' interactions to the log of `data_dir`, as an importer does."""
    log = open_log(data_dir)
    made = itertools.chain(workload.item_events(items), workload.click_events(USERS, HISTORY, items))
    events = map(parse_event, made)
    done = 0
    while batch := list(itertools.islice(events, _BATCH)):
        log.append("event", [event_record(event, imported=True) for event in batch])
        done += len(batch)
        tell(done)
    log.close()


def first_start(data_dir: Path, items: int, extra: dict[str, object]) -> dict[str, float]:
    """Start once and wait until every item is encoded; seconds that took."""
    began = time.perf_counter()
    server = Server(data_dir, extra)
    try:
        client = server.client()
        workload.wait_until_encoded(client, items, 1_800)
        return {
            "encode_seconds": round(time.perf_counter() - began, 1),
            "resident_mb_after_encoding": round(server.resident_mb(), 1),
        }
    finally:
        server.stop()
