"""Waiting for a consumer from coroutines; rates; the least recently used."""

import asyncio
import threading

import numpy as np

from service.arms import arm_of
from service.lru import LruRows
from service.progress import Progress
from service.rate import Rate


def test_waiters_wake_when_their_positions_are_passed() -> None:
    progress = Progress()
    progress.advance({"event/1": 2})

    async def wait() -> list[bool]:
        threading.Timer(0.02, progress.advance, ({"event/0": 5},)).start()
        wanted = [{"event/0": 3}, {"event/0": 5, "event/1": 2}, {"event/0": 6}, {"event/0": 5, "event/1": 3}]
        return list(await asyncio.gather(*(progress.wait(one, 2 if n < 2 else 0.1) for n, one in enumerate(wanted))))

    assert asyncio.run(wait()) == [True, True, False, False]
    assert asyncio.run(progress.wait({"event/0": 5}, 0)) is True
    progress.advance({"event/0": 2})
    assert progress.positions == {"event/0": 5, "event/1": 2}


def test_a_rate_is_of_the_last_ten_seconds() -> None:
    rate = Rate()
    for second in range(20):
        rate.add(second * 1_000, 30)
    assert rate.per_second(19_999) == 30
    assert rate.per_second(60_000) == 0


def test_the_least_recently_used_goes() -> None:
    held = LruRows(2, 3)
    held.put(1, np.full(3, 1, np.float32))
    held.put(2, np.full(3, 2, np.float32))
    first = held.get(1)
    assert first is not None
    held.put(3, np.full(3, 3, np.float32))
    assert held.get(2) is None
    third = held.get(3)
    assert third is not None
    assert (first.tolist(), third.tolist(), len(held)) == ([1.0] * 3, [3.0] * 3, 2)
    held.put(4, np.zeros(3, np.float32))
    assert first.tolist() == [1.0] * 3  # what was handed out is nobody else's


def test_a_row_holds_for_its_stamp_only() -> None:
    held = LruRows(2, 1)
    held.put(7, np.ones(1, np.float32), stamp=5)
    assert held.get(7, 6) is None
    held.put(7, np.zeros(1, np.float32), stamp=6)
    found = held.get(7, 6)
    assert found is not None
    assert (found.tolist(), len(held)) == ([0.0], 1)


def test_arms_are_stable_and_have_their_share() -> None:
    arms = [arm_of(f"u{k}", None, "r", 0.01) for k in range(20_000)]
    assert 140 < arms.count("control") < 260
    assert arm_of("u1", "s", "x", 0.3) == arm_of("u1", "t", "y", 0.3)
    assert arm_of(None, "s", "x", 0.3) == arm_of(None, "s", "y", 0.3)
    assert {arm_of(None, None, f"r{k}", 0.5) for k in range(50)} == {"live", "control"}
    assert arm_of("u", None, "r", 0.0) == "live"
