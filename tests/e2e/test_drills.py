"""Drills: what an operator meets once a year, done here to real processes. docs/drills.md tells them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from kafka import KafkaProducer

from features.realtime import RealtimeConfig
from features.schema import Schema
from service.weight_store import WeightStore, open_weight_store
from tests.conftest import ROOT
from tests.e2e.kafka_shop import BASE, ITEMS, KafkaShop
from tests.redis_server import RedisServer
from trainer.bases import base_by_sha
from trainer.verify import verify_version

pytestmark = pytest.mark.timeout(300)
HOUR = 3_600_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("drill-redis"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, kafka_url: str, server: RedisServer) -> Iterator[KafkaShop]:
    made = KafkaShop(tmp_path_factory.mktemp("drills"), kafka_url, server.url, REPL_REDIS_TIMEOUT_MS="1000")
    try:
        made.open()
        yield made
    finally:
        made.end()


def now() -> int:
    return int(time.time() * 1_000)


def learned(shop: KafkaShop) -> bool:
    """Has the trainer read everything?"""
    return bool(shop.call("a", "GET", "/v1/status")[1]["trainer"].get("behind") == {"records": 0, "ms": 0})


def hashes(store: WeightStore) -> dict[int, str]:
    return {one.v: one.hash for one in store.versions(10_000)}


def verified(shop: KafkaShop) -> dict[str, Any]:
    """The newest version, repeated from the log."""
    with closing(shop.log()) as log, closing(open_weight_store(shop.settings)) as store:
        config, latest = RealtimeConfig(max_items=shop.settings.max_items), store.latest()
        assert latest is not None
        return verify_version(log, store, latest.v, lambda sha: base_by_sha(shop.settings, sha), realtime=config)


def repl(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
    command = [sys.executable, "-m", "trainer.cli", *words]
    environment = known | {"REPL_BASE_DIR": str(BASE), **settings}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_a_clock_one_hour_ahead_on_one_producer(shop: KafkaShop) -> None:
    """Its events count now, not in an hour; no window of the others moves, live or behind a backlog."""
    with closing(shop.log()) as log:
        producer = KafkaProducer(bootstrap_servers=list(log.address.servers))
        topic = log.address.topic("event")

    def send(user: str, item: str) -> None:
        ahead = now() + HOUR - 30_000
        event = {"event": "interaction", "type": "click", "user": user, "item": item, "id": uuid.uuid4().hex,
                 "timestamp": ahead}  # fmt: skip
        producer.send(topic, orjson.dumps(event), user.encode(), timestamp_ms=ahead).get(10)

    send("early", "i4")
    for name in "ab":
        shop.until(lambda name=name: shop.value(name, "early", "i4", "rt.own.click") > 0, 20, "her own click")
        shop.until(lambda name=name: shop.value(name, "x", "i4", "rt.item.click.1h") > 0, 20, "everybody's counters")
    shop.children["learner"].kill()
    shop.children["learner"].wait(30)
    for k in range(30):
        send(f"early-{k}", "i5")
    shop.start("learner")
    shop.until(lambda: learned(shop), 60, "the backlog is learned")
    producer.close()
    with closing(open_weight_store(shop.settings)) as store:
        assert max(one.watermark for one in store.versions(1_000)) <= now()
    assert verified(shop)["ok"]


def test_one_poisoned_hour(shop: KafkaShop) -> None:
    """Everything that was appended in a time is left out of weights and counters, over all partitions."""
    for k in range(3):
        shop.click("a", f"good-{k}", "i1")
    shop.until(lambda: learned(shop), 30, "good clicks are learned")
    with closing(open_weight_store(shop.settings)) as store:
        good = store.latest()
        assert good is not None
    began = datetime.now(UTC)
    for k in range(8):
        shop.click("ab"[k % 2], f"robot-{k}", "i19")
    time.sleep(1.0)
    ended = datetime.now(UTC)
    time.sleep(0.2)
    for name in "ab":
        shop.until(lambda name=name: shop.value(name, "x", "i19", "rt.item.click.1h") > 0, 20, "the poison is counted")
    clean = [shop.value(name, "x", "i1", "rt.item.click.1h") for name in "ab"]
    skip = f"{began.isoformat()}..{ended.isoformat()}"
    done = repl(
        "versions", "rollback", str(good.v), "--skip", skip, "--counters", "--json",
        "--data-dir", str(shop.place / "cli"), **shop.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = orjson.loads(done.stdout)
    assert not answer["pending"]
    assert set(answer["skip"]["from"]) == {"event/0", "event/1", "event/2"}
    skipped = sum(answer["skip"]["to"][name] - at for name, at in answer["skip"]["from"].items())
    assert skipped == 16, "8 rankings and 8 clicks"
    shop.click("b", "good-later", "i2")
    shop.until(lambda: learned(shop), 30, "learning goes on")
    with closing(open_weight_store(shop.settings)) as store:
        back = next(one for one in store.versions(1_000) if one.kind == "rollback")
        assert back.weights == good.weights
    for name in "ab":
        shop.until(lambda name=name: shop.value(name, "x", "i19", "rt.item.click.1h") == 0, 20, "it counts no more")
        assert shop.value(name, "robot-0", "i19", "rt.own.click") > 0, "what a user did is still her own"
    kept = [shop.value(name, "x", "i1", "rt.item.click.1h") for name in "ab"]
    assert kept == pytest.approx(clean, rel=0.05), "what others clicked counts as before"
    with closing(open_weight_store(shop.settings)) as store:
        shop.until(lambda: store.status()["gate"]["skipped"], 20, "the status says what is skipped")
    assert verified(shop)["ok"]


def test_redis_restored_from_an_older_snapshot(shop: KafkaShop, server: RedisServer) -> None:
    """The trainer goes on from the offsets that Redis holds: the same versions come again; no state lacks a click."""
    shop.click("a", "olga", "i6")
    shop.until(lambda: learned(shop), 30, "all is learned")
    time.sleep(1.5)
    with closing(redis.Redis.from_url(server.url)) as client:
        client.save()
    saved = server.home / "saved.rdb"
    shutil.copy(server.home / "dump.rdb", saved)
    for k in range(6):
        shop.click("ab"[k % 2], "olga", ITEMS[k])
    shop.until(lambda: learned(shop), 30, "all is learned")
    with closing(open_weight_store(shop.settings)) as store:
        before = hashes(store)
    server.kill()
    for name in "ab":
        shop.until(lambda name=name: shop.rank(name, "olga")["stale"], 30, "answers say that they are stale")
    shutil.copy(saved, server.home / "dump.rdb")
    server.start()
    back_again(shop, before)


def test_redis_lost_whole(shop: KafkaShop, server: RedisServer) -> None:
    """Rankers go on from memory; weights, counters and user states come again from the log."""
    with closing(open_weight_store(shop.settings)) as store:
        before = hashes(store)
    server.kill()
    for name in "ab":
        shop.until(lambda name=name: shop.rank(name, "olga")["stale"], 30, "answers say that they are stale")
        assert len(shop.rank(name, "olga")["scores"]) == len(ITEMS)
    (server.home / "dump.rdb").unlink()
    server.start()
    with closing(redis.Redis.from_url(server.url)) as client:
        assert client.get(f"repl:{{{shop.settings.tenant}}}:w:latest") is None
    back_again(shop, before)


def back_again(shop: KafkaShop, before: dict[int, str]) -> None:
    """Everything is as it was before the loss, and goes on."""
    for name in "ab":
        shop.until(lambda name=name: not shop.rank(name, "olga")["stale"], 90, "answers are fresh")
    newest = max(before)
    with closing(open_weight_store(shop.settings)) as store:
        shop.until(lambda: max(hashes(store), default=0) >= newest, 60, "the versions come again")
    for name in "ab":
        shop.until(lambda name=name: shop.rank(name, "olga")["version"] >= newest, 60, "and are served")
    with closing(open_weight_store(shop.settings)) as store:
        after = hashes(store)
    assert {v: after.get(v) for v in before} == before, "the same bits under the same numbers"
    assert set(after) >= set(range(1, newest + 1)), "none is skipped"
    for name in "ab":
        found = [shop.value(name, "olga", item, "rt.own.count") for item in ITEMS[:7]]
        assert [value > 0 for value in found] == [True] * 7, name
        once, twice = found[0], shop.value(name, "olga", "i6", "rt.own.count")
        assert once == twice == pytest.approx(0.5 * 0.6931, rel=1e-2), "each click counts once"
    token = shop.click("a", "after", "i8", ranker="b")
    assert shop.value("a", "after", "i8", "rt.own.count", after=token, wait_ms=5_000) > 0
    shop.until(lambda: learned(shop), 30, "learning goes on")


def test_a_poisoned_weight_key_is_named_and_not_served(shop: KafkaShop, server: RedisServer) -> None:
    shop.until(lambda: learned(shop), 30, "all is learned")
    shop.children["learner"].kill()
    shop.children["learner"].wait(30)
    served = shop.rank("a", "olga")["version"]
    key = f"repl:{{{shop.settings.tenant}}}:w:latest"
    with closing(redis.Redis.from_url(server.url)) as client:
        sound: Any = client.get(key)
        try:
            for poison in (sound[:-8] + b"\x00\x00\x00\x00\x00\x00\xf8\x7f", sound[: len(sound) // 2]):  # NaN, length
                client.set(key, poison)
                for name in "ab":
                    shop.until(lambda name=name: shop.rank(name, "olga")["stale"], 30, "stale")
                    assert shop.rank(name, "olga")["version"] == served
                    assert "w:latest" in shop.output(name).read_text()
            refused = repl("learn", "--data-dir", str(shop.place / "learner"), **shop.environment)
            assert (refused.returncode, "w:latest" in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)
        finally:
            client.set(key, sound)
    shop.start("learner")
    for name in "ab":
        shop.until(lambda name=name: not shop.rank(name, "olga")["stale"], 60, "all is well again")


def told(done: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """It ended with a line that holds these words."""
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == status, done.stderr
    assert all(word in last for word in words), last
    assert "Traceback" not in done.stderr


def test_a_redis_user_who_may_not_write(server: RedisServer, tmp_path: Path) -> None:
    with closing(redis.Redis.from_url(server.url)) as client:
        rules = ("on", ">secret", "~repl:*", "&repl:*", "+@read", "+@connection", "+@pubsub", "+info")
        client.execute_command("ACL", "SETUSER", "reader", *rules)
    url = f"{server.url.replace('redis://', 'redis://reader:secret@')}"
    done = repl("learn", "--data-dir", str(tmp_path), REPL_WEIGHTS_URL=url, REPL_TENANT="acl")
    told(done, "weights_url", "ACL user", "write")
    assert "secret" not in done.stderr


def test_a_corrupted_byte_of_the_base_is_never_served(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    victim = max(base.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    for words in (["serve", "--port", "0"], ["learn"]):
        done = repl(*words, "--data-dir", str(tmp_path / "data"), REPL_BASE_DIR=str(base))
        told(done, victim.name, "sha256")


def test_a_schema_of_another_fingerprint_is_never_served(tmp_path: Path) -> None:
    import yaml

    spec = Schema.default().to_dict()
    spec["fields"] = spec["fields"][:-1]
    other = tmp_path / "schema.yaml"
    other.write_text(yaml.safe_dump(spec))
    done = repl("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), REPL_SCHEMA_FILE=str(other))
    told(done, "schema_file", "fingerprint", "train anew", status=2)
