"""Waiting for a consumer from coroutines; rates; the least recently used."""

import asyncio
import threading

from service.arms import arm_of
from service.lru import Lru
from service.progress import Progress
from service.rate import Rate


def test_waiters_wake_when_their_position_is_passed() -> None:
    progress = Progress()

    async def wait() -> list[bool]:
        threading.Timer(0.02, progress.advance, (5,)).start()
        return list(await asyncio.gather(progress.wait(3, 2), progress.wait(5, 2), progress.wait(6, 0.1)))

    assert asyncio.run(wait()) == [True, True, False]
    assert asyncio.run(progress.wait(5, 0)) is True
    progress.advance(2)
    assert progress.position == 5


def test_a_rate_is_of_the_last_ten_seconds() -> None:
    rate = Rate()
    for second in range(20):
        rate.add(second * 1_000, 30)
    assert rate.per_second(19_999) == 30
    assert rate.per_second(60_000) == 0


def test_the_least_recently_used_goes() -> None:
    held: Lru[str, int] = Lru(2)
    held.put("a", 1)
    held.put("b", 2)
    assert held.get("a") == 1
    held.put("c", 3)
    assert (held.get("a"), held.get("b"), held.get("c")) == (1, None, 3)


def test_arms_are_stable_and_have_their_share() -> None:
    arms = [arm_of(f"u{k}", None, "r", 0.01) for k in range(20_000)]
    assert 140 < arms.count("control") < 260
    assert arm_of("u1", "s", "x", 0.3) == arm_of("u1", "t", "y", 0.3)
    assert arm_of(None, "s", "x", 0.3) == arm_of(None, "s", "y", 0.3)
    assert {arm_of(None, None, f"r{k}", 0.5) for k in range(50)} == {"live", "control"}
    assert arm_of("u", None, "r", 0.0) == "live"
