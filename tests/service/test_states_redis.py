"""A ranker whose weights and user states lie in Redis: what it serves, also when Redis forgets or is down."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from features.keys import actor_key
from service.testkit import ReplService
from tests.redis_server import RedisServer
from tests.service.test_states import stocked, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis")
    yield made
    made.stop()


@pytest.fixture
def shop(server: RedisServer, repl_service_factory: Any) -> ReplService:
    made: ReplService = repl_service_factory(weights_url=server.url, user_states_url=server.url)
    return made


def history(shop: ReplService, user: str) -> int:
    """How long the stored history of a user is."""
    shop.clock.advance(600)  # states are written every half second
    state = shop.service.running.engine.users.store.get(actor_key(user, None))
    return 0 if state is None else len(state)


def test_user_states_go_through_redis_and_survive_a_restart(shop: ReplService) -> None:
    items = stocked(shop)
    shop.events(shop.click("eve", items[0]))
    shop.settle()
    until(lambda: history(shop, "eve") == 1)
    shop.restart()
    assert history(shop, "eve") == 1
    shop.events(shop.click("eve", items[1]))
    shop.settle()
    until(lambda: history(shop, "eve") == 2)


def test_histories_that_redis_lost_are_read_again(shop: ReplService, server: RedisServer) -> None:
    items = stocked(shop)
    shop.events(*(shop.click(user, item) for user in ("dora", "bert") for item in items[:3]))
    shop.settle()
    until(lambda: history(shop, "dora") == history(shop, "bert") == 3)
    with closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()
    shop.events(shop.click("bert", items[4]))
    shop.settle()
    until(lambda: history(shop, "dora") == 3 and history(shop, "bert") == 4)
    assert shop.service.running.consumer.failing is None


def test_a_redis_that_stands_still_is_waited_for_once(server: RedisServer, repl_service_factory: Any) -> None:
    """Requests do not wait one after the other for a Redis that does not answer, nor does anything under their lock."""
    shop: ReplService = repl_service_factory(user_states_url=server.url, redis_timeout_ms=1_000)
    items = stocked(shop)
    shop.settle()
    until(lambda: history(shop, "anna") == 12)
    server.signal(signal.SIGSTOP)
    try:
        shop.events(shop.click("carl", items[0]))
        began = time.monotonic()
        answers = [shop.rank(items[:5], user=f"unheard of {k}") for k in range(30)]
        assert time.monotonic() - began < 5, "30 times the time-out would be 30 s"
        assert all(answer["stale"] for answer in answers[1:])
        assert shop.rank(items[:5], user="anna")["stale"]
    finally:
        server.signal(signal.SIGCONT)
    until(lambda: history(shop, "carl") == 1)
    until(lambda: not shop.service.running.engine.users.unreachable)


def test_published_weights_are_announced_and_served_on_when_redis_is_down(
    shop: ReplService, server: RedisServer
) -> None:
    items = stocked(shop)
    before = shop.rank(items[:5], user="anna")["scores"]
    v = shop.publish(click={"intercept": 3.0})
    answer = shop.rank(items[:5], user="anna")
    assert answer["version"] == v
    assert answer["scores"] != before
    server.kill()
    until(lambda: shop.rank(items[:5], user="anna")["stale"])
    down = shop.rank(items[:5], user="anna")
    assert (down["version"], down["scores"]) == (v, answer["scores"])
    server.start()  # empty: it kept nothing
    shop.settle()
