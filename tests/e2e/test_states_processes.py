"""User states kept beside the rankers (`repl-ranker states`) on a real Kafka and a real Redis, without any trainer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from features import events
from features.event_parser import parse_event
from features.feature_store import open_feature_store
from features.keys import actor_key, item_key
from features.records import event_record, partitions_in
from features.user_state import UserState
from service.artifact import load_artifact
from service.states_share import LEASE_MS
from tests.conftest import ROOT
from tests.e2e.kafka_shop import BASE, ITEMS, PARTITIONS, KafkaShop
from trainer.bench.crash_proof import of_stream, whole

pytestmark = pytest.mark.timeout(300)


def owners(shop: KafkaShop) -> dict[str, str]:
    """Partition → who keeps it, as the leases say."""
    prefix = f"repl:{{{shop.settings.tenant}}}"
    with closing(redis.Redis.from_url(shop.environment["REPL_USER_STATES_URL"], decode_responses=True)) as client:
        seconds, micros = client.time()
        now = seconds * 1_000 + micros // 1_000
        alive = client.zrangebyscore(f"{prefix}:u-members", now, "+inf")
        found: dict[str, str] = client.hgetall(f"{prefix}:u-owners")  # type: ignore[assignment]
    return {name: owner for name, owner in found.items() if owner in alive}  # type: ignore[operator]


def pids(shop: KafkaShop) -> dict[str, int]:
    """How many partitions each child keeps."""
    of = {str(child.pid): name for name, child in shop.children.items()}
    shares = dict.fromkeys((name for name in shop.children if name.startswith("states")), 0)
    for owner in owners(shop).values():
        name = of.get(owner.split("-")[-2])
        if name in shares:
            shares[name] += 1
    return shares


# rankers beside


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, kafka_url: str, redis_url: str) -> Iterator[KafkaShop]:
    place = tmp_path_factory.mktemp("states-shop")
    made = KafkaShop(place, kafka_url, redis_url, REPL_USER_STATES="beside", REPL_REDIS_TIMEOUT_MS="1000")
    try:
        made.open("states-1", "states-2")
        yield made
    finally:
        made.end()


def test_her_click_counts_in_her_next_request_at_the_other_ranker_without_a_trainer(shop: KafkaShop) -> None:
    times = []
    for k in range(20):
        user = f"anna-{k}"
        assert shop.value("b", user, "i7", "rt.own.click") == 0
        began = time.monotonic()
        token = shop.send("a", {"event": "interaction", "type": "click", "user": user, "item": "i7"})
        answer = shop.rank("b", user, after=token, wait_ms=2_000)
        times.append(time.monotonic() - began)
        assert not answer["stale"], answer
        assert shop.value("b", user, "i7", "rt.own.click") > 0
        assert shop.value("a", user, "i7", "rt.own.click") > 0
    print("event at one, answer of the other, ms:", [round(1e3 * one, 1) for one in sorted(times)])
    assert sorted(times)[10] < 0.5


def test_an_event_that_changes_no_state_has_a_token_that_is_reached(shop: KafkaShop) -> None:
    for event in (
        {"event": "item", "item": "i3", "fields": {"title": "lamp"}},
        {"event": "interaction", "type": "no such kind", "user": "anna", "item": "i3"},
        {"event": "ranking", "user": "anna", "items": [{"id": "i3", "position": 1}]},
    ):
        token = shop.send("a", event)
        assert not shop.rank("b", "anna", after=token, wait_ms=2_000)["stale"], event


def test_an_item_known_from_a_click_alone_is_known_to_both_rankers(shop: KafkaShop) -> None:
    token = shop.send("a", {"event": "interaction", "type": "click", "user": "anna", "item": "never described"})
    assert not shop.rank("b", "anna", after=token, wait_ms=2_000)["stale"]
    for name in "ab":
        shop.until(
            lambda name=name: shop.call(name, "GET", "/v1/items?ids=never%20described")[1]["items"], 10, "it is known"
        )


def test_a_deleted_user_is_forgotten_and_what_comes_after_counts(shop: KafkaShop) -> None:
    click = {"event": "interaction", "type": "click", "user": "dora", "item": "i5"}
    token = shop.send("a", click)
    assert shop.value("b", "dora", "i5", "rt.own.click", after=token) > 0
    token = shop.send("b", {"event": "user", "op": "delete", "user": "dora"})
    assert shop.value("a", "dora", "i5", "rt.own.click", after=token) == 0
    token = shop.send("a", {**click, "item": "i6"})
    assert shop.value("b", "dora", "i6", "rt.own.click", after=token) > 0
    assert shop.value("b", "dora", "i5", "rt.own.click") == 0


def test_vectors_of_users_are_made_of_the_states_beside(shop: KafkaShop) -> None:
    token = shop.send("a", {"event": "interaction", "type": "click", "user": "emil", "item": "i5"})
    shop.rank("b", "emil", after=token)
    known = shop.call("b", "POST", "/v1/embeddings", {"users": ["emil", "nobody"]})[1]["users"]["known"]
    assert known == [True, False]


def metric(shop: KafkaShop, ranker: str, name: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{shop.ports[ranker]}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_ages_and_metrics_say_how_far_the_consumer_is_behind(shop: KafkaShop) -> None:
    token = shop.send("a", {"event": "interaction", "type": "click", "user": "fred", "item": "i1"})
    answer = shop.rank("b", "fred", after=token)
    assert answer["ages_ms"]["user"] < 2_000
    shop.until(lambda: shop.call("b", "GET", "/v1/status")[1]["behind"] == 0, 10, "all is read")
    served = 'repl_event_to_served_seconds_count{state="user"}'
    counts = [-1.0, 0.0]
    while counts[-2] != counts[-1]:
        time.sleep(0.5)
        counts.append(metric(shop, "b", served))
    before = counts[-1]
    assert before > 0
    for name in ("states-1", "states-2"):
        shop.children[name].send_signal(signal.SIGSTOP)
    try:
        token = shop.send("a", {"event": "interaction", "type": "click", "user": "fred", "item": "i2"})
        stopped = time.monotonic()
        answer = shop.rank("b", "fred", after=token, wait_ms=300)
        assert answer["stale"]
        assert time.monotonic() - stopped < 2
        assert shop.call("b", "GET", "/v1/status")[1]["behind"] > 0
        assert metric(shop, "b", "repl_user_state_behind") > 0
        assert metric(shop, "b", served) == before
        shop.until(lambda: shop.rank("a", "x")["ages_ms"]["user"] > 3_000, 10, "the age grows")
        shop.until(lambda: shop.rank("a", "x")["stale"], 15, "it is stale at last")
        assert shop.call("a", "GET", "/v1/status")[1]["stale_reason"] == "state"
    finally:
        for name in ("states-1", "states-2"):
            shop.children[name].send_signal(signal.SIGCONT)
    shop.until(lambda: not shop.rank("b", "fred", after=token, wait_ms=1_000)["stale"], 15, "they go on")
    assert shop.value("b", "fred", "i2", "rt.own.click") > 0
    shop.until(lambda: metric(shop, "b", served) > before, 5, "the wait is measured")
    shop.until(lambda: shop.rank("a", "x")["ages_ms"]["user"] < 1_000, 5, "young again")


def test_several_workers_read_the_same_states(tmp_path: Path, kafka_url: str, redis_url: str) -> None:
    more = {"REPL_USER_STATES": "beside", "REPL_WORKERS": "2"}
    shop = KafkaShop(tmp_path, kafka_url, redis_url, **more)
    try:
        for name in ("states-1", "a"):
            shop.start(name)
        shop.until(lambda: "ready on" in shop.output("a").read_text(), 120, "both workers are ready")
        shop.send("a", *({"event": "item", "item": one, "fields": {"title": f"lamp {one}"}} for one in ITEMS))
        shop.until(lambda: shop.call("a", "GET", "/v1/items?ids=i7")[1]["items"], 30, "items are known")
        for k in range(20):  # each on a connection of its own: either worker answers
            token = shop.send("a", {"event": "interaction", "type": "click", "user": f"carl-{k}", "item": "i7"})
            answer = shop.rank("a", f"carl-{k}", after=token, wait_ms=3_000, explain=True)
            part = next(part for part in answer["explain"] if part["id"] == "i7")
            assert next(one["value"] for one in part["terms"] if one["name"] == "rt.own.click") > 0
            assert not answer["stale"]
            assert answer["ages_ms"]["user"] < 3_000
    finally:
        shop.end()


# who reads what


def test_shares_are_equal_and_change_hands(tmp_path: Path, kafka_url: str, redis_url: str) -> None:
    """One takes all; one that joins gets its share; SIGTERM hands over at once, kill -9 after the lease."""
    shop = KafkaShop(tmp_path, kafka_url, redis_url)
    try:
        shop.start("states-1")
        shop.until(lambda: pids(shop) == {"states-1": PARTITIONS}, 60, "one takes all")
        for name in ("states-2", "states-3"):
            shop.start(name)
        shop.until(lambda: pids(shop) == {"states-1": 1, "states-2": 1, "states-3": 1}, 60, "a share each")
        shop.children["states-3"].terminate()
        assert shop.children.pop("states-3").wait(20) == 0, shop.output("states-3").read_text()
        seconds = shop.until(lambda: sum(pids(shop).values()) == PARTITIONS, 10, "handed over")
        assert seconds < 3
        assert alive(shop).returncode == 0
        shop.children["states-1"].kill()
        shop.children.pop("states-1").wait(10)
        seconds = shop.until(lambda: pids(shop) == {"states-2": PARTITIONS}, 15, "taken over")
        assert seconds < LEASE_MS / 1_000 + 5
        shop.children["states-2"].terminate()
        assert shop.children.pop("states-2").wait(20) == 0
        done = alive(shop)
        assert (done.returncode, "no `repl-ranker states`" in done.stderr) == (1, True)
    finally:
        shop.end()


def alive(shop: KafkaShop) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.alive", "--states"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
    return subprocess.run(
        command, cwd=ROOT, env=environment | shop.environment, capture_output=True, text=True, timeout=60, check=False
    )


# nothing lost, nothing twice

USERS = 200


class Clicks(threading.Thread):
    """Users who click, some events sent twice, now and then one who is deleted, straight into the log."""

    def __init__(self, shop: KafkaShop, rate: float) -> None:
        super().__init__(daemon=True)
        self._shop, self._pause, self.over, self.sent = shop, 20 / rate, threading.Event(), 0

    def run(self) -> None:
        rnd = random.Random(7)
        with closing(self._shop.log()) as log:
            while not self.over.wait(self._pause):
                batch = [self._one(rnd) for _ in range(20)]
                batch += rnd.sample(batch, 1)
                log.append("event", batch)
                self.sent += len(batch)

    def _one(self, rnd: random.Random) -> Any:
        now = int(time.time() * 1_000)
        body = {"id": f"{rnd.getrandbits(80):x}", "user": f"u{rnd.randrange(USERS)}", "timestamp": now}
        if rnd.random() < 0.005:
            body |= {"event": "user", "op": "delete"}
        else:
            body |= {"event": "interaction", "type": rnd.choice(("click", "cart", "?")), "item": rnd.choice(ITEMS)}
        return event_record(parse_event(body, tenant=self._shop.settings.tenant, now_ms=now))


def uninterrupted(shop: KafkaShop) -> dict[int, UserState]:
    """Every state by one reading of the whole log."""
    states: dict[int, UserState] = {}
    seen: set[int] = set()
    kinds = load_artifact(BASE).schema
    with closing(shop.log()) as log:
        records = of_stream(whole(log), "event")
    for record in records:
        event = events.from_bytes(record.body)
        assert isinstance(event, events.InteractionEvent | events.UserEvent)
        key = actor_key(event.user, None)
        if isinstance(event, events.UserEvent):
            states[key] = UserState(key)
        elif (kind := kinds.behaviour(event.type)) >= 0 and (once := events.event_hash(event)) not in seen:
            seen.add(once)
            state = states.setdefault(key, UserState(key))
            state.append(item_key(event.item), kind, record.effective_time, record.place)
    return states


def test_kill_9_and_a_join_under_load_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, kafka_url: str, redis_url: str
) -> None:
    shop = KafkaShop(tmp_path, kafka_url, redis_url)
    load = Clicks(shop, 1_500)
    try:
        for name in ("states-1", "states-2"):
            shop.start(name)
        shop.until(lambda: sum(pids(shop).values()) == PARTITIONS and min(pids(shop).values()) > 0, 60, "both read")
        load.start()
        time.sleep(3)
        victim = max(pids(shop), key=lambda name: pids(shop)[name])
        shop.children[victim].kill()
        shop.children.pop(victim).wait(10)
        time.sleep(1)
        shop.start("states-3")
        shop.until(lambda: sorted(pids(shop).values()) == [1, 2], 40, "the third has its share")
        time.sleep(2)
        frozen = next(iter(pids(shop)))
        shop.children[frozen].send_signal(signal.SIGSTOP)  # longer than its lease: it wakes up late, and writes
        time.sleep(LEASE_MS / 1_000 + 3)
        shop.children[frozen].send_signal(signal.SIGCONT)
        time.sleep(2)
        load.over.set()
        load.join(30)
        assert load.sent > 10_000
        with closing(shop.log()) as log, closing(open_feature_store(shop.settings)) as store:
            ends = log.end_offsets()
            wanted = {name: ends[name] for name in partitions_in("event", ends)}
            shop.until(lambda: wanted.items() <= store.offsets().items(), 30, "all is read")
            time.sleep(1)
            expected = uninterrupted(shop)
            assert len(expected) == USERS
            wrong = []
            for key, state in expected.items():
                found = store.get(key)
                if found is None or [*map(list, found.columns(keyed=False)[1:4])] != [
                    *map(list, state.columns(keyed=False)[1:4])
                ]:
                    wrong.append((key, None if found is None else len(found), len(state)))
            assert wrong == []
            assert store.offsets().items() >= wanted.items()
    finally:
        load.over.set()
        shop.end()
