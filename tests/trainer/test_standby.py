"""trainer/standby.py by the heartbeat of a real weight store; as processes: tests/e2e/test_standby.py."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

from features.errors import StoreError
from service.settings import Settings
from service.weight_store import open_weight_store
from service.weight_version import Heartbeat
from trainer.standby import until_silent, wait_for_silence


def test_it_starts_at_once_where_nobody_learns(data_dir: Path) -> None:
    began = time.monotonic()
    wait_for_silence(Settings(data_dir=data_dir), 30, threading.Event())
    assert time.monotonic() - began < 10


def test_it_waits_while_somebody_learns_and_returns_in_silence(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    with closing(open_weight_store(settings, writer=True)) as store:
        at = 5  # the other one's clock is wrong by decades: no clocks are compared
        store.beat(Heartbeat(1, 1, at))
        waiting = threading.Thread(target=wait_for_silence, args=(settings, 1.5, threading.Event()))
        waiting.start()
        for _ in range(12):
            at += 250
            store.beat(Heartbeat(1, 1, at))
            time.sleep(0.25)
            assert waiting.is_alive(), "it beats, so nobody takes over"
        silent = time.monotonic()
        waiting.join(20)
        assert not waiting.is_alive()
        assert time.monotonic() - silent > 0.5


def test_it_ends_when_told(data_dir: Path) -> None:
    settings, stop = Settings(data_dir=data_dir), threading.Event()
    with closing(open_weight_store(settings, writer=True)) as store:
        store.beat(Heartbeat(1, 1, 1))
        waiting = threading.Thread(target=wait_for_silence, args=(settings, 60, stop))
        waiting.start()
        stop.set()
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_store_that_is_down_is_no_silence() -> None:
    looks = 0

    def beat() -> Heartbeat:
        nonlocal looks
        looks += 1
        if looks in (2, 3, 4):
            raise StoreError("down")
        return Heartbeat(1, 1, 1)

    began = time.monotonic()
    until_silent(beat, 1.0, threading.Event())
    assert looks >= 6, "the silence begins anew when it answers again"
    assert time.monotonic() - began >= 2.5
