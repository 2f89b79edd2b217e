"""Bench of the ranker's start and memory: with an empty shop, and with a million items at the second start."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from service.settings import Settings
from trainer.bench import million
from trainer.bench.server import Server, children_of, cpu_seconds, temporary_data

STARTS = 3
SETTLE_SECONDS = 20.0
"""After the first of several workers answers, until the others do."""

_QUIET_SECONDS = 3.0


def start(data_dir: Any, extra: dict[str, object]) -> tuple[float, float]:
    """(seconds from the process's start to ready, resident MB after a hundred requests)."""
    server = Server(data_dir, extra)
    try:
        client = server.client()
        for turn in range(100):
            status, answer = client.call(
                "POST", "/v1/rank", {"user": f"u{turn}", "items": ["i1", "i2", "i3"]}
            )
            if status != 200:
                raise RuntimeError(f"answer {status}: {answer}")
        return server.ready_seconds, server.resident_mb()
    finally:
        server.stop()


def together(data_dir: Any, extra: dict[str, object], workers: int) -> dict[str, Any]:
    """Proportional memory (pages that several hold count once) of 1 … `workers` workers, in use; a further one's."""
    found = [used_by(data_dir, {**extra, "workers": count}) for count in range(1, workers + 1)]
    return {
        "workers_pss_mb": [round(size, 1) for size in found],
        "further_worker_mb": [round(more - less, 1) for less, more in itertools.pairwise(found)],
    }


def used_by(data_dir: Any, extra: dict[str, object]) -> float:
    """MB after retrievals, a filter and rankings on every worker, and once titles are indexed."""
    server = Server(data_dir, extra)
    try:
        time.sleep(0.0 if extra["workers"] == 1 else SETTLE_SECONDS)
        asks: list[tuple[str, dict[str, Any]]] = [
            ("/v1/rank", {"items": ["i1", "i2"]}),
            ("/v1/retrieve", {"query": "red lamp", "top_k": 10}),
            ("/v1/retrieve", {"filter": [{"field": "price", "op": "gt", "value": 1}], "top_k": 10}),
        ]
        for turn in range(60):
            client = server.client()
            for path, body in asks:
                client.call("POST", path, {"user": f"u{turn}", **body})
            client.close()
        _quiet(server)
        return server.pss_mb()
    finally:
        server.stop()


def _quiet(server: Server) -> None:
    """Wait until the processes have little to do: what is read and indexed after the start is done."""
    until, before = time.monotonic() + 240, -1.0
    while time.monotonic() < until:
        now = sum(map(cpu_seconds, server.processes()))
        if 0 <= now - before < 0.2 * _QUIET_SECONDS:
            return
        before = now
        time.sleep(_QUIET_SECONDS)


def run(
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    *,
    items: int = million.ITEMS,
    workers: int = 1,
) -> dict[str, Any]:
    """Start to ready and resident memory; the best of STARTS starts, as a loaded machine only adds to it. With several
    workers also what each of them costs.
    """
    tell = progress or (lambda done, total: None)
    total = items + 2
    extra = children_of(settings)
    with temporary_data() as place:
        small = [start(place, extra) for _ in range(STARTS)]
    tell(1, total)
    with temporary_data() as place:
        million.fill(place, items, lambda done: tell(done, total))
        first = million.first_start(place, items, extra)
        large = [start(place, extra) for _ in range(STARTS)]
        shared = together(place, extra, workers) if workers > 1 else {}
    tell(total, total)
    return {
        "empty_ready_seconds": round(min(seconds for seconds, _ in small), 2),
        "empty_resident_mb": round(min(size for _, size in small), 1),
        "items": items,
        **first,
        "items_ready_seconds": round(min(seconds for seconds, _ in large), 2),
        "items_resident_mb": round(min(size for _, size in large), 1),
        **shared,
    }
