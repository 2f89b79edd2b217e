"""Bench of /v1/rank over HTTP: latency at 100, 1,000 and 5,000 known candidates, throughput at 1,000.

A real server process, one raw keep-alive connection (two for throughput), everything switched on; no served record may
be dropped. `minutes` runs a load and watches memory.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from service.settings import Settings
from trainer.bench import workload
from trainer.bench.client import RawClient
from trainer.bench.server import Ranker, Server, children_of, temporary_data

ITEMS, USERS, HISTORY = 10_000, 500, 50
SIZES = {100: 2_000, 1_000: 1_500, 5_000: 400}
STACK_SIZES, STACK_RATE = {100: 1_500, 300: 1_500, 1_000: 1_000}, 1_000
REQUESTS = 40
WARM_UP = 60
SECONDS = 10.0
CONNECTIONS = 2


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def latency(server: Ranker, client: RawClient, candidates: int, times: int) -> dict[str, float]:
    """p50, p99 and the server's processor time in ms, bytes of request and answer, at one size."""
    bodies = workload.rank_bodies(candidates, ITEMS, USERS, REQUESTS)
    requests = [client.request_bytes("POST", "/v1/rank", body) for body in bodies]
    seconds, size, cpu = [], 0, 0.0
    for turn in range(WARM_UP + times):
        if turn == WARM_UP:
            cpu = server.cpu_seconds()
        request = requests[turn % len(requests)]
        began = time.perf_counter()
        status, body = client.exchange(request)
        if turn >= WARM_UP:
            seconds.append(time.perf_counter() - began)
        if status != 200:
            raise RuntimeError(f"answer {status}: {body[:300]!r}")
        size = len(body)
    return {
        "p50_ms": round(statistics.median(seconds) * 1e3, 3),
        "p99_ms": round(percentile(seconds, 0.99) * 1e3, 3),
        "server_cpu_ms": round((server.cpu_seconds() - cpu) / times * 1e3, 3),
        "request_bytes": len(requests[0]),
        "answer_bytes": size,
    }


def throughput(server: Ranker, candidates: int, seconds: float) -> float:
    """Answers a second over CONNECTIONS connections."""
    counts = [0] * CONNECTIONS
    until = time.perf_counter() + seconds

    def drive(place: int) -> None:
        client = server.client()
        bodies = workload.rank_bodies(candidates, ITEMS, USERS, REQUESTS, seed=10 + place)
        requests = [client.request_bytes("POST", "/v1/rank", body) for body in bodies]
        while time.perf_counter() < until:
            status, _ = client.exchange(requests[counts[place] % REQUESTS])
            counts[place] += 1 if status == 200 else 0
        client.close()

    threads = [threading.Thread(target=drive, args=(place,)) for place in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(counts) / seconds, 1)


def fill(client: RawClient) -> None:
    """Items, users and their histories."""
    workload.send_all(client, workload.item_events(ITEMS))
    workload.send_all(client, workload.click_events(USERS, HISTORY, ITEMS))
    workload.wait_until_encoded(client, ITEMS)


def served(client: RawClient) -> dict[str, Any]:
    """What became of the served records; RuntimeError when one was dropped."""
    until = time.monotonic() + 10
    while True:
        counts: dict[str, Any] = client.call("GET", "/v1/status")[1]["served"]
        if not counts["waiting"] or time.monotonic() > until:
            break
        time.sleep(0.05)
    if counts["dropped"] or counts["waiting"]:
        raise RuntimeError(f"served records were lost: {counts}")
    return counts


def load(server: Server, minutes: float) -> dict[str, Any]:
    """Memory at the start and at the end of a load of so many minutes."""
    throughput(server, 1_000, 20.0)
    first = server.resident_mb()
    rate = throughput(server, 1_000, minutes * 60)
    last = server.resident_mb()
    return {"minutes": minutes, "per_second": rate, "first_mb": round(first, 1), "last_mb": round(last, 1)}


def on_stack(settings: Settings, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """Latency of one of two rankers on Kafka and Redis: idle, and while STACK_RATE events a second are trained."""
    from trainer.bench.stack import Load, StackRanker, stack_of

    found: dict[str, Any] = {"events_per_second": STACK_RATE}
    with stack_of(settings) as stack:
        server = StackRanker(stack, "ranker-a")
        client = server.client()
        fill(client)
        for done, (size, times) in enumerate(STACK_SIZES.items(), 1):
            tell(done, 2 * len(STACK_SIZES))
            found[f"rank_{size}"] = latency(server, client, size, times)
        load, began = Load(stack, STACK_RATE, ITEMS), time.monotonic()
        time.sleep(10.0)  # the hold, and whatever the first events bring with them
        for done, (size, times) in enumerate(STACK_SIZES.items(), 1 + len(STACK_SIZES)):
            tell(done, 2 * len(STACK_SIZES))
            found[f"rank_{size}_while_training"] = latency(server, client, size, times)
        found["sent_per_second"] = round(load.stop() / (time.monotonic() - began))
        found["served"] = served(client)
    return found


def run(
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    *,
    minutes: float = 0.0,
    stack: bool = False,
) -> dict[str, Any]:
    """All figures, as one dict; `minutes` > 0 adds a load of that length; `stack`: on Kafka and Redis."""
    tell = progress or (lambda done, total: None)
    if stack:
        return on_stack(settings, tell)
    steps = len(SIZES) + 3
    with temporary_data() as place:
        server = Server(place, children_of(settings))
        try:
            client = server.client()
            tell(1, steps)
            fill(client)
            found: dict[str, Any] = {"ready_seconds": round(server.ready_seconds, 2)}
            for done, (size, times) in enumerate(SIZES.items(), 2):
                tell(done, steps)
                found[f"rank_{size}"] = latency(server, client, size, times)
            found["rank_1000_per_second"] = throughput(server, 1_000, SECONDS)
            if minutes:
                found["load"] = load(server, minutes)
                client = server.client()  # the first one was idle for so long that it was closed
            counts = served(client)
            tell(steps, steps)
            found["served"] = counts
            found["served_bytes_a_request"] = round(counts["bytes"] / max(1, counts["written"]))
            found["resident_mb"] = round(server.resident_mb(), 1)
            return found
        finally:
            server.stop()
