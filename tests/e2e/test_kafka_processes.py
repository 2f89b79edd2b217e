"""Two rankers and a learner over Kafka and Redis: what one is told the other serves, once; kill -9 changes nothing."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import closing

import orjson
import pytest
from kafka import KafkaProducer

from features.realtime import RealtimeConfig
from service.weight_store import open_weight_store
from tests.e2e.kafka_shop import ITEMS, KafkaShop
from trainer.bases import base_by_sha
from trainer.verify import verify_version

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, kafka_url: str, redis_url: str) -> Iterator[KafkaShop]:
    made = KafkaShop(tmp_path_factory.mktemp("kafka-shop"), kafka_url, redis_url)
    try:
        made.open()
        yield made
    finally:
        made.end()


def test_her_click_counts_in_her_next_request_at_the_other_ranker(shop: KafkaShop) -> None:
    assert shop.value("b", "anna", "i7", "rt.own.click") == 0
    token = shop.click("a", "anna", "i7")
    answer = shop.rank("b", "anna", after=token, wait_ms=1_000)
    assert not answer["stale"]
    assert shop.value("b", "anna", "i7", "rt.own.click", after=token) > 0


def test_both_rankers_serve_what_was_learned(shop: KafkaShop) -> None:
    before = {name: shop.rank(name, "x")["weights_version"] for name in "ab"}
    for k in range(6):
        shop.click("ab"[k % 2], f"user-{k}", "i3", ranker="ab"[(k + 1) % 2])
    for name in "ab":
        shop.until(lambda name=name: shop.value(name, "x", "i3", "rt.item.click.1h") > 0, 20, "counters follow")
        shop.until(lambda name=name: shop.rank(name, "x")["weights_version"] > before[name], 20, "weights follow")
    ends = shop.log().end_offsets()
    assert sum(ends[f"event/{n}"] > 0 for n in range(3)) == 3, "every partition has events"


def test_an_event_sent_twice_counts_once_everywhere(shop: KafkaShop) -> None:
    event = {"event": "interaction", "type": "click", "user": "bert", "item": "i9", "id": "the-same"}
    token = ""
    for name in ("a", "b", "a"):
        token = shop.send(name, event)
    for name in "ab":
        assert shop.value(name, "bert", "i9", "rt.own.click", after=token) == pytest.approx(
            shop.value(name, "anna", "i7", "rt.own.click"), rel=0.2
        )


def test_ordinary_clients_and_rubbish(shop: KafkaShop) -> None:
    log = shop.log()
    topic, letters = log.address.topic("event"), sum_of(log.end_offsets(), "dead-letter")
    producer = KafkaProducer(bootstrap_servers=list(log.address.servers))
    event = {"event": "interaction", "type": "click", "user": "carl", "item": "i5", "id": uuid.uuid4().hex}
    event["timestamp"] = shop_time()
    producer.send(topic, orjson.dumps(event), b"carl").get(10)
    producer.send(topic, b"\xff rubbish", b"carl").get(10)
    producer.close()
    for name in "ab":
        shop.until(lambda name=name: shop.value(name, "carl", "i5", "rt.own.click") > 0, 20, "the event is served")
    shop.until(lambda: sum_of(log.end_offsets(), "dead-letter") > letters, 20, "a dead letter is written")
    body = orjson.loads(log.read("dead-letter", letters)[0].body)
    assert body["source"].startswith("event/")
    assert "rubbish" in body["raw"]
    log.close()


def test_kill_9_of_the_learner_loses_and_repeats_nothing(shop: KafkaShop) -> None:
    for round_ in range(3):
        for k in range(4):
            shop.click("a", f"late-{round_}-{k}", ITEMS[k], ranker="b")
        shop.children["learner"].send_signal(signal.SIGKILL)
        shop.children["learner"].wait(30)
        shop.click("b", f"meanwhile-{round_}", "i11")
        shop.start("learner")
        shop.until(lambda: learned_all(shop), 60, "the learner is back")
    with closing(shop.log()) as log, closing(open_weight_store(shop.settings)) as store:
        versions = store.versions(10_000)
        numbers = [one.v for one in versions]
        assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1)), "no version is missing"
        config = RealtimeConfig(max_items=shop.settings.max_items)
        found = verify_version(
            log, store, numbers[0], lambda sha256: base_by_sha(shop.settings, sha256), realtime=config
        )
        assert (found["ok"], found["differing"], found["compared"] > 5) == (True, [], True), found


def test_a_standby_takes_over_within_fifteen_seconds(shop: KafkaShop) -> None:
    shop.start("standby")
    shop.until(lambda: "standing by" in shop.output("standby").read_text(), 30, "the standby waits")
    shop.click("a", "dora", "i12")
    before = shop.rank("b", "x")["version"]
    shop.children["learner"].kill()
    shop.children.pop("learner").wait(10)
    token = shop.click("b", "emil", "i13")
    seconds = shop.until(lambda: shop.value("a", "x", "i13", "rt.item.click.1h", after=token) > 0, 15, "taken over")
    assert seconds < 15
    assert shop.rank("b", "x")["version"] > before
    shop.start("learner")  # the one started last goes on, the other is told
    assert shop.children.pop("standby").wait(30) == 1
    assert "another trainer writes the weights" in shop.output("standby").read_text()
    token = shop.click("a", "fred", "i14")
    shop.until(lambda: shop.value("b", "x", "i14", "rt.item.click.1h", after=token) > 0, 20, "learning goes on")


def sum_of(offsets: dict[str, int], stream: str) -> int:
    return sum(at for name, at in offsets.items() if name.startswith(f"{stream}/"))


def learned_all(shop: KafkaShop) -> bool:
    return bool(shop.call("a", "GET", "/v1/status")[1]["trainer"].get("behind") == {"records": 0, "ms": 0})


def shop_time() -> int:
    return int(time.time() * 1_000)
