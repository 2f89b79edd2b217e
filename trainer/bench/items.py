"""Bench of the ranker's start and memory: with an empty shop, and with a million items at the second start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.settings import Settings
from trainer.bench import million
from trainer.bench.server import Server, children_of, temporary_data

STARTS = 3


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


def run(
    settings: Settings, progress: Callable[[int, int], None] | None = None, *, items: int = million.ITEMS
) -> dict[str, Any]:
    """Start to ready and resident memory; the best of STARTS starts, as a loaded machine only adds to it."""
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
    tell(total, total)
    return {
        "empty_ready_seconds": round(min(seconds for seconds, _ in small), 2),
        "empty_resident_mb": round(min(size for _, size in small), 1),
        "items": items,
        **first,
        "items_ready_seconds": round(min(seconds for seconds, _ in large), 2),
        "items_resident_mb": round(min(size for _, size in large), 1),
    }
