"""Bench of /v1/retrieve over a million synthetic items: coarse over all, the best 5,000 finely, no filter.

The items are appended to the log as those of an import are, not sent over HTTP; they are encoded before anything
is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from service.settings import Settings
from trainer.bench import million, workload
from trainer.bench.client import RawClient
from trainer.bench.rank import percentile, served
from trainer.bench.server import Server, children_of, temporary_data

TIMES, WARM_UP = 200, 20
QUERIES = (None, "red lantern", "vintage clock")


def latency(client: RawClient, query: str | None) -> dict[str, float]:
    """p50 and p99 in ms of one kind of request, over users with and without a history."""
    bodies = []
    for user in range(40):
        body = {"user": f"u{user * 7}", "top_k": 100, "pre_rank": 5_000}
        bodies.append(orjson.dumps(body if query is None else {**body, "query": query}))
    requests = [client.request_bytes("POST", "/v1/retrieve", body) for body in bodies]
    seconds: list[float] = []
    for turn in range(WARM_UP + TIMES):
        taken, _ = timed_once(client, requests[turn % len(requests)])
        if turn >= WARM_UP:
            seconds.append(taken)
    return {
        "p50_ms": round(statistics.median(seconds) * 1e3, 2),
        "p99_ms": round(percentile(seconds, 0.99) * 1e3, 2),
    }


def timed_once(client: RawClient, request: bytes) -> tuple[float, bytes]:
    """Seconds and body of one exchange; RuntimeError unless it is answered 200."""
    began = time.perf_counter()
    status, body = client.exchange(request)
    taken = time.perf_counter() - began
    if status != 200:
        raise RuntimeError(f"answer {status}: {body[:300]!r}")
    return taken, body


def run(
    settings: Settings, progress: Callable[[int, int], None] | None = None, *, items: int = million.ITEMS
) -> dict[str, Any]:
    """All figures, as one dict."""
    tell = progress or (lambda done, total: None)
    total = items + len(QUERIES) + 1
    extra = children_of(settings)
    with temporary_data() as place:
        million.fill(place, items, lambda done: tell(done, total))
        server = Server(place, extra)
        try:
            client = server.client()
            workload.wait_until_encoded(client, items, 1_800)
            found: dict[str, Any] = {"items": items}
            for done, query in enumerate(QUERIES):
                found[f"retrieve {query or 'without a query'}"] = latency(client, query)
                tell(items + done, total)
            found["served"] = served(client)
            tell(total, total)
            return found
        finally:
            server.stop()
