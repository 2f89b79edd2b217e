"""A second trainer in waiting, on real Kafka and Redis: it takes over within 15 s of a kill -9, without loss."""

from __future__ import annotations

import time
import uuid
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from kafka import KafkaProducer

from features.realtime import RealtimeConfig
from service.weight_store import WeightStore, open_weight_store
from tests.e2e.kafka_shop import ITEMS, KafkaShop
from trainer.bases import base_by_sha
from trainer.verify import verify_version

TAKES_OVER = 15.0
"""Seconds from kill -9 to the first heartbeat of the other one."""


def send(shop: KafkaShop, count: int) -> None:
    """Events by an ordinary client, one for each of `count` users."""
    with closing(shop.log()) as log:
        producer = KafkaProducer(bootstrap_servers=list(log.address.servers))
        for k in range(count):
            event = {"event": "interaction", "type": "click", "user": f"u{k}", "item": ITEMS[k % len(ITEMS)]}
            stamp = {"id": uuid.uuid4().hex, "timestamp": time.time_ns() // 1_000_000}
            producer.send(log.address.topic("event"), orjson.dumps(event | stamp), f"u{k}".encode())
        producer.close()


def until(shop: KafkaShop, store: WeightStore, events: int) -> None:
    shop.until(lambda: store.status().get("totals", {}).get("event") == events, 60, f"{events} events are learned")


@pytest.mark.timeout(180)
def test_a_standby_takes_over_within_15_seconds_of_a_kill(tmp_path: Path, kafka_url: str, redis_url: str) -> None:
    shop = KafkaShop(tmp_path, kafka_url, redis_url)
    try:
        with closing(open_weight_store(shop.settings)) as store:
            shop.start("learner")
            send(shop, 30)
            until(shop, store, 30)
            shop.start("standby")
            time.sleep(7)  # longer than the silence that it waits for
            assert b"takes over" not in shop.output("standby").read_bytes(), "somebody learns"
            shop.children["learner"].kill()
            killed, last = time.monotonic(), store.heartbeat()
            shop.children["learner"].wait(30)
            send(shop, 20)
            shop.until(lambda: store.heartbeat() != last, 60, "somebody learns again")
            seconds = time.monotonic() - killed
            until(shop, store, 50)
            newest = store.latest()
            assert newest is not None
            config = RealtimeConfig(max_items=shop.settings.max_items)
            with closing(shop.log()) as log:
                found = verify_version(
                    log, store, newest.v, lambda sha256: base_by_sha(shop.settings, sha256), realtime=config
                )
            assert (found["ok"], found["differing"]) == (True, []), found
            assert seconds < TAKES_OVER
    finally:
        shop.end()
