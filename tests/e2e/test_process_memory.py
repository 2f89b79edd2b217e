"""A ranker stays small: after a long backlog of many users, and after answers of many megabytes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.event_log import open_log
from features.events import Event, InteractionEvent, ItemEvent
from features.records import event_record
from tests.e2e.test_ranker_process import Ranker

ITEMS, USERS, EVENTS = 2_000, 30_000, 60_000
LIMIT_MB = 300


def imported() -> Iterator[Event]:
    """Items, then interactions of many users."""
    now = int(time.time() * 1_000)
    for k in range(ITEMS):
        fields = {"title": f"red lamp number {k}", "price": 2.5}
        yield ItemEvent(id=f"item-{k}", timestamp=now, item=f"i{k}", fields=fields)
    for k in range(EVENTS):
        yield InteractionEvent(
            id=f"e{k}", timestamp=now - EVENTS + k, type="click", item=f"i{k * 7 % ITEMS}", user=f"u{k % USERS}"
        )


def resident_mb(ranker: Ranker) -> float:
    text = Path(f"/proc/{ranker.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_ranker_stays_below_300_mb(data_dir: Path) -> None:
    from tests.conftest import free_port

    log = open_log(data_dir)
    log.append("event", [event_record(event, imported=True) for event in imported()])
    log.close()
    ranker = Ranker(data_dir, free_port())
    until = time.monotonic() + 120
    while True:
        status = ranker.call("GET", "/v1/status")[1]
        if status["items"] == ITEMS and not status["items_waiting"] and not status.get("behind"):
            break
        assert time.monotonic() < until, status
        time.sleep(0.1)
    names = [f"i{k}" for k in range(ITEMS)]
    for k in range(300):
        ranker.call("POST", "/v1/rank", {"items": names[:5], "user": f"u{k}", "query": f"lamp {k}"})
    for k in range(2):
        answer = ranker.call("POST", "/v1/rank", {"items": names, "user": f"u{k}", "explain": True})[1]
        assert len(answer["explain"]) == ITEMS
    assert resident_mb(ranker) < LIMIT_MB  # 205 measured
    assert ranker.end(signal.SIGTERM) == 0
