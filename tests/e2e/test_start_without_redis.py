"""A ranker that starts while Redis is down: it serves its copy of the last version, follows when Redis is back, and
refuses a copy that was damaged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_redis_processes import click
from tests.e2e.test_two_processes import PATIENCE, Shop
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, server: RedisServer) -> Iterator[Shop]:
    place = tmp_path_factory.mktemp("copied") / "data"
    place.mkdir()
    made = Shop(place, REPL_WEIGHTS_URL=server.url, REPL_USER_STATES_URL=server.url)
    try:
        made.open()
        yield made
    finally:
        made.end()


def copies(shop: Shop) -> list[Path]:
    return sorted((shop._place / "local-copy").glob("*.copy"), key=lambda path: int(path.stem))


def start_while_down(shop: Shop, server: RedisServer) -> None:
    """Ranker and Redis killed, the ranker started again: it is ready although Redis is not there."""
    shop.ranker.kill()
    shop.ranker.wait(20)
    server.kill()
    shop.ranker = shop.start("serve", "--port", str(shop.port))
    shop.until(lambda: shop.call("GET", "/health/ready")[0] == 200, 60, "the ranker is ready")


@pytest.mark.timeout(240)
def test_it_serves_its_copy_and_follows_when_redis_is_back(shop: Shop, server: RedisServer) -> None:
    click(shop, "anna", "i7")
    shop.until(lambda: shop.terms("i7")[1]["rt.item.click.1h"] > 0, 20, "the click is served")
    learned, values, weights, _ = shop.terms("i7")
    shop.until(
        lambda: bool(copies(shop)) and int(copies(shop)[-1].stem) >= learned["version"], 60, "it is copied"
    )
    start_while_down(shop, server)
    answer, there, copied, _ = shop.terms("i7")
    assert answer["version"] >= learned["version"]
    assert answer["stale"], "it says so"
    assert there["rt.item.click.1h"] > 0.5 * values["rt.item.click.1h"], "the counters are in the copy, too"
    assert copied == weights or answer["version"] > learned["version"]
    first = answer["ages_ms"]["counters"]
    time.sleep(0.3)
    assert shop.terms("i7")[0]["ages_ms"]["counters"] > first, "its age grows"
    shop.send({"event": "interaction", "type": "click", "user": "bert", "item": "i2"})  # the log takes it

    server.start()
    shop.until(lambda: not shop.rank("bert")["stale"], 60, "Redis and the learner are back")
    click(shop, "carl", "i5")
    shop.until(lambda: shop.terms("i5")[1]["rt.item.click.1h"] > 0, 10 + PATIENCE, "it follows")


@pytest.mark.timeout(240)
def test_a_damaged_copy_is_refused_by_name_and_the_base_alone_serves(shop: Shop, server: RedisServer) -> None:
    shop.until(lambda: bool(copies(shop)), 60, "there is a copy")
    shop.ranker.kill()
    shop.ranker.wait(20)
    for path in copies(shop):
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
    start_while_down(shop, server)
    answer = shop.rank("anna")
    assert (answer["version"], answer["stale"]) == (0, True)
    said = shop._outputs["serve"].read_text()
    assert all(f"{path.name} is damaged" in said for path in copies(shop))
    server.start()
    shop.until(lambda: shop.rank("anna")["version"] > 0 and not shop.rank("anna")["stale"], 60, "Redis is back")
