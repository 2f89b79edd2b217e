"""`bench size`: the figures that `repl-ranker size` computes with, each measured on this machine, with `--record` kept.

Memory and speed of a real ranker process, bytes of versions and changes of a real trainer, bytes of the log; with
`--redis URL` bytes in that Redis (a tenant of the bench's own, deleted afterwards). Without it those of Redis stay as
they were recorded.
"""

from __future__ import annotations

import os
import platform
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from features.event_log import open_log
from features.event_parser import parse_event
from features.realtime import RealtimeConfig
from features.records import NewRecord, event_record
from features.user_state import UserState
from service.core import Service
from service.figures import Figure, record
from service.janitor import LOOK_SECONDS
from service.settings import Settings
from service.weight_store import open_weight_store
from trainer.bases import current_base
from trainer.bench import learn, million, rank, workload
from trainer.bench.server import Server, children_of, temporary_data
from trainer.bench.size_redis import LENGTHS, redis_bytes, states_of
from trainer.online import OnlineTrainer

ITEMS = 100_000
CLICKS = 40_000
RANKINGS = 1_000
TIMES = 600
SIZES = (100, 1_000)
COMMAND = "repl-ranker bench size --redis URL --record"
Found = dict[str, tuple[float, str, str]]
"""name → value, unit, what it is."""


def settled_bytes(server: Server) -> float:
    """Resident memory once the process has given back what its start and bursts left (the janitor looks each 10 s)."""
    time.sleep(LOOK_SECONDS + 1.0)
    return server.resident_mb() * 2**20


def lifelike(count: int) -> list[NewRecord]:
    """Clicks with ids as real ones are: random, so that they cannot be compressed away."""
    rng, made = random.Random(5), []
    for one in workload.click_events(count // 40, 40, ITEMS):
        user, at = f"{rng.getrandbits(32):010d}", one["timestamp"] + rng.randrange(60_000)
        ranking = f"{rng.getrandbits(96):024x}"
        event = {**one, "id": f"{rng.getrandbits(96):024x}", "user": user, "timestamp": at, "ranking": ranking}
        made.append(event_record(parse_event(event)))
    return made


def ranker(extra: dict[str, object], tell: Callable[[int, int], None]) -> Found:
    """Resident bytes with no items and with ITEMS, seconds of a request, bytes of a served record."""
    with temporary_data() as place:
        server = Server(place, extra)
        empty = settled_bytes(server)
        server.stop()
    with temporary_data() as place:
        million.fill(place, ITEMS, lambda done: None)
        million.first_start(place, ITEMS, extra)
        tell(2, 6)
        server = Server(place, extra)
        try:
            client = server.client()
            speeds = [rank.latency(server, client, size, TIMES)["server_cpu_ms"] / 1_000 for size in SIZES]
            client.call("POST", "/v1/retrieve", {"user": "u1"})  # maps all vectors
            full = settled_bytes(server)
            counts = rank.served(client)
            client.close()
        finally:
            server.stop()
    each = (speeds[1] - speeds[0]) / (SIZES[1] - SIZES[0])
    return {
        "ranker_bytes": (empty, "B", "resident memory of a ranker without items"),
        "ranker_item_bytes": ((full - empty) / ITEMS, "B", f"of it an item, at {ITEMS:,}, all vectors touched"),
        "rank_request_seconds": (speeds[0] - each * SIZES[0], "s", "processor time of a request, no candidates"),
        "rank_candidate_seconds": (each, "s", "each candidate of it"),
        "served_record_bytes": (counts["bytes"] / counts["written"], "B", "a served record (log_items as set)"),
    }


def log_and_consumer(extra: dict[str, object]) -> Found:
    """Bytes of an event in the embedded log and compressed, and how fast user states are read from it."""
    with temporary_data() as place:
        events = lifelike(CLICKS)
        with closing(open_log(place)) as log:
            for start in range(0, CLICKS, 5_000):
                log.append("event", events[start : start + 5_000])
        size = sum(path.stat().st_size for path in place.glob("log.db*"))
        blocks = [b"\n".join(one.body for one in events[k : k + 10_000]) for k in range(0, CLICKS, 10_000)]
        packed = sum(len(zlib.compress(block)) for block in blocks)
        service = Service(Settings(data_dir=place, base_dir=Path(str(extra["base_dir"]))))
        service.start()
        service.wait(60.0)
        try:
            progress, began = service.running.consumer.progress, time.perf_counter()
            first = sum(progress.positions.values())
            while not progress.reached({"event/0": CLICKS}):
                time.sleep(0.002)
            speed = (CLICKS - first) / (time.perf_counter() - began)
        finally:
            service.stop()
    return {
        "log_event_bytes": (size / CLICKS, "B", "an interaction in the embedded log, index of ids included"),
        "archive_event_bytes": (packed / CLICKS, "B", "an interaction, stored form, zlib in blocks of 10,000"),
        "consumer_events_per_second": (speed, "1/s", "events into user state and catalogue, one process"),
    }


def trainer(settings: Settings) -> Found:
    """Events a second, and bytes of versions, changes and checkpoints of a trainer over a live-like log."""
    artifact, clock = current_base(settings), learn._Clock()
    with temporary_data() as place:
        own = Settings(data_dir=place, hold_ms=0)  # changes are met as they are made, before they are thinned out
        with closing(open_log(own, clock)) as log, closing(open_weight_store(place)) as store:
            made = OnlineTrainer(log, store, artifact, own, clock=clock, realtime=RealtimeConfig(max_items=100_000))
            made.start()
            events, seconds, changed = 0, 0.0, 0
            for start in range(0, RANKINGS, 100):
                clock.now += 200
                events += learn.append_lists(log, artifact, start, start + 100, clock.now)
                began = time.process_time()
                known = made.core.v
                made.tick()
                seconds += time.process_time() - began if start else 0.0  # the first part compiles
                changed += sum(len(body) for _, body in store.changes_since(known) or [])
            clock.now += 60_000
            made.tick()
            checkpoint, latest = store.latest_checkpoint(), store.latest()
            assert checkpoint is not None
            assert latest is not None
            chunks = {name: len(body) for name, body in store.load_chunks(checkpoint).items()}
    items = 4_000
    of_items = sum(size for name, size in chunks.items() if name.startswith(("realtime/", "catalogue/")))
    return {
        "trainer_events_per_second": (events * (1 - 100 / RANKINGS) / seconds, "1/s", "events learned, processor time"),
        "change_bytes_per_event": (changed / events, "B", "changes of counters an event, as rankers fetch them"),
        "version_bytes": (len(msgspec.msgpack.encode(latest)), "B", "a weight version"),
        "checkpoint_item_bytes": (of_items / items, "B", f"counters, catalogue, neighbours of an item, at {items:,}"),
        "checkpoint_bytes": (sum(chunks.values()) - of_items, "B", "the rest of a checkpoint: join, learner, ids"),
    }


def memory_of_users(history: int) -> Found:
    """Bytes of a user's state in a ranker's memory, as it is after it was read from a store."""
    sizes = []
    for length in LENGTHS:
        stored = [state.encode() for state in states_of(2_000, length, history)]
        tracemalloc.start()
        held = [UserState.decode(body, history) for body in stored]
        sizes.append(tracemalloc.get_traced_memory()[0] / len(held))
        tracemalloc.stop()
    each = (sizes[1] - sizes[0]) / (LENGTHS[1] - LENGTHS[0])
    return {
        "memory_user_bytes": (sizes[0] - each * LENGTHS[0], "B", "a user's state in memory, without its interactions"),
        "memory_interaction_bytes": (each, "B", "each interaction of it"),
    }


def run(
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    *,
    redis: str | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """All figures as one dict; redis: a URL; keep: the file to record them in."""
    tell = progress or (lambda done, total: None)
    extra = children_of(settings)
    tell(1, 6)
    found: Found = {**ranker(extra, tell), **log_and_consumer(extra)}
    tell(3, 6)
    found |= trainer(settings) | memory_of_users(settings.history)
    tell(4, 6)
    if redis is not None:
        found |= redis_bytes(redis, settings.history)
    tell(5, 6)
    if keep is not None:
        today = datetime.now(UTC).date().isoformat()
        record({
            name: Figure(float(f"{value:.4g}"), unit, about, COMMAND, today, _machine())
            for name, (value, unit, about) in found.items()
        }, keep)  # fmt: skip
    tell(6, 6)
    return {name: float(f"{value:.4g}") for name, (value, _, _) in found.items()}


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
