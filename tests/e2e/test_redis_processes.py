"""Ranker and learner as processes whose weights and user states lie in Redis, through kill -9 of that Redis.

The event log stays the embedded one; the data directory holds no weight store of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from features.errors import StoreError
from service.settings import Settings
from service.weight_store import open_weight_store
from tests.conftest import ROOT
from tests.e2e.test_two_processes import HOLD_MS, PATIENCE, Shop
from tests.redis_server import RedisServer

PASSWORD = "a-word-that-nobody-sees"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    options = ("--appendonly", "yes", "--appendfsync", "everysec")
    made = RedisServer(tmp_path_factory.mktemp("redis"), *options, password=PASSWORD)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, server: RedisServer) -> Iterator[Shop]:
    place = tmp_path_factory.mktemp("networked") / "data"
    place.mkdir()
    made = Shop(place, REPL_WEIGHTS_URL=server.url, REPL_USER_STATES_URL=server.url, REPL_TENANT="lamps")
    try:
        made.open()
        yield made
    finally:
        made.end()
        assert PASSWORD not in "".join(path.read_text() for path in place.parent.glob("*.log"))


def test_a_click_changes_the_weights_that_the_ranker_serves(shop: Shop, server: RedisServer) -> None:
    before, _, weights, logit = shop.terms("i7")
    click(shop, "anna", "i7")
    shop.until(lambda: shop.terms("i7")[2] != weights, PATIENCE, "weights follow")
    after, values, _, moved = shop.terms("i7")
    assert values["rt.item.click.1h"] > 0
    assert after["weights_version"] > before["weights_version"]
    assert moved != logit
    assert after["ages_ms"]["counters"] < HOLD_MS + 3_000
    with closing(redis.Redis.from_url(server.url)) as client:
        found = {key.decode().split(":")[2] for key in client.scan_iter("*", count=1_000)}  # type: ignore[union-attr]
        assert found == {"w", "u", "u-items", "u-offsets", "u-format"}
        assert not list(client.scan_iter("[^r]*", count=1_000)), "nothing outside repl:"  # type: ignore[arg-type]


def click(shop: Shop, user: str, item: str) -> None:
    shown = shop.rank(user)
    ranking = shown["request_id"]
    positions = [{"id": name, "position": k + 1} for k, name in enumerate(shown["ids"])]
    shop.send({"event": "ranking", "id": ranking, "user": user, "items": positions})
    shop.send({"event": "interaction", "type": "click", "user": user, "item": item, "ranking": ranking})


def test_kill_9_of_redis_under_both_is_gone_through(shop: Shop, server: RedisServer) -> None:
    """The ranker answers throughout and says that it is stale; the learner starts anew from what Redis holds."""
    click(shop, "bert", "i3")
    server.kill()
    shop.until(lambda: shop.rank("bert")["stale"], 20, "the answer is stale")
    assert len(shop.rank("nobody yet")["scores"]) > 0, "a user whose state cannot be read has no history"
    _, _, weights, _ = shop.terms("i5")
    server.start()
    shop.until(lambda: not shop.rank("bert")["stale"], 60, "both are back")
    click(shop, "carl", "i5")
    shop.until(lambda: shop.terms("i5")[2] != weights, 30, "learning goes on")
    known = settings(shop, server)
    with closing(open_weight_store(known)) as store:
        versions = store.versions(10_000)
        numbers = [one.v for one in versions]
        assert numbers == list(range(numbers[0], 0, -1)), "no version is missing"
        offsets = [one.offsets["event/0"] for one in versions]
        assert offsets == sorted(offsets, reverse=True)


def settings(shop: Shop, server: RedisServer) -> Settings:
    given = {"data_dir": shop._place, "weights_url": server.url, "tenant": "lamps"}
    return Settings.model_validate(given)


def repl(shop: Shop, server: RedisServer, *words: str) -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, **shop._settings, "REPL_BASE_DIR": str(ROOT / "service" / "testkit_base")}
    command = [sys.executable, "-m", "trainer.cli", *words, "--data-dir", str(shop._place), "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_versions_are_listed_pinned_and_verified_there_too(shop: Shop, server: RedisServer) -> None:
    listed = json.loads(repl(shop, server, "versions", "list").stdout)
    newest = listed["versions"][0]["v"]
    assert repl(shop, server, "versions", "pin", str(newest)).returncode == 0
    shop.until(lambda: shop.call("GET", "/v1/versions")[1]["pinned"] == newest, 20, "the ranker sees the pin")
    assert repl(shop, server, "versions", "unpin", str(newest)).returncode == 0
    verified = repl(shop, server, "versions", "verify", str(newest))
    assert (verified.returncode, json.loads(verified.stdout)["differing"]) == (0, [])
    told = repl(shop, server, "config")
    assert PASSWORD not in told.stdout + told.stderr


def test_a_second_learner_elsewhere_takes_over_and_the_first_one_ends(shop: Shop, server: RedisServer) -> None:
    """The fence is in Redis: it holds between machines, where no file lock does."""
    with closing(open_weight_store(settings(shop, server), writer=True)):
        click(shop, "dora", "i9")
        assert shop.learner.wait(30) == 1
        said = shop._outputs["learn"].read_text()
        assert "another trainer writes the weights" in said
    shop.learner = shop.start("learn")
    shop.until(lambda: not shop.rank("dora")["stale"], 60, "the learner is back")


def test_a_redis_that_is_not_there_is_said_by_the_command_line(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "weights_url": "redis://127.0.0.1:1/0"}
    with pytest.raises(StoreError, match="is it running"):
        open_weight_store(Settings.model_validate(given), writer=True)
