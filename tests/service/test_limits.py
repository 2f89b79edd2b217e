"""Rates: what a bucket lets through, whom it counts, and how a refusal reads over HTTP."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import time
from pathlib import Path

import pytest

from features.errors import RateLimited
from service import buckets
from service.limits import Limits
from service.metrics import Metrics
from service.settings import Settings
from tests.service.test_api_keys import make


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def of(clock: Clock, **settings: float) -> Limits:
    return Limits(Settings(**settings), Metrics(), clock)  # type: ignore[arg-type]


def admitted(limit: Limits, key: str | None = None, events: bool = False, most: int = 1_000) -> int:
    """How many requests at this moment."""
    for count in range(most):
        try:
            limit.admit(key, events)
        except RateLimited:
            return count
    return most


def test_a_bucket_lets_the_burst_and_then_the_rate_through() -> None:
    clock = Clock()
    limit = of(clock, requests_per_second=10, burst_seconds=2)
    assert admitted(limit) == 20
    clock.now += 0.5
    assert admitted(limit) == 5
    clock.now += 3_600
    assert admitted(limit) == 20, "no more than the burst is saved up"
    total = 0
    for _ in range(1_000):
        clock.now += 0.01
        total += admitted(limit)
    assert total == pytest.approx(100, abs=1)


def test_a_refusal_says_when_and_is_counted_and_takes_nothing() -> None:
    clock, metrics = Clock(), Metrics()
    limit = Limits(Settings(requests_per_second=4, burst_seconds=1), metrics, clock)
    assert admitted(limit) == 4
    for _ in range(10):
        with pytest.raises(RateLimited) as refused:
            limit.admit(None, False)
    assert refused.value.retry_after == pytest.approx(0.25)
    assert refused.value.field == "requests_per_second"
    assert b'repl_rate_limited_total{by="tenant",kind="requests"} 11.0' in metrics.page()
    clock.now += refused.value.retry_after
    assert admitted(limit) == 1


def test_a_batch_may_go_over_and_the_next_ones_wait_for_it() -> None:
    clock = Clock()
    limit = of(clock, events_per_second=100, burst_seconds=1)
    limit.admit(None, True)
    limit.spent(None, 1_000)
    with pytest.raises(RateLimited) as refused:
        limit.admit(None, True)
    assert refused.value.retry_after == pytest.approx(9.01), "900 over, and one"
    limit.admit(None, False)  # ranking has no limit here
    clock.now += 9.0
    assert admitted(limit, events=True) == 0
    clock.now += 0.02
    assert admitted(limit, events=True) == 1


def test_keys_have_rates_of_their_own_within_the_tenants() -> None:
    clock = Clock()
    limit = of(clock, requests_per_second=25, key_requests_per_second=10, burst_seconds=1)
    assert [admitted(limit, key) for key in ("a", "b", "c")] == [10, 10, 5]
    clock.now += 1.0
    assert admitted(limit, "a") == 10
    assert admitted(limit, None) == 15, "without a key only the tenant counts"


def test_the_table_is_bounded_and_forgets_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "ROWS", 64)
    clock = Clock()
    limit = of(clock, requests_per_second=1_000, key_requests_per_second=0.001, burst_seconds=1_000)
    for number in range(1_000):
        clock.now += 0.01
        assert admitted(limit, f"key {number}", most=2) == 1
    assert admitted(limit, "key 999") == 0, "the newest is remembered"
    assert admitted(limit, "key 0", most=2) == 1, "the oldest counts anew"
    assert len(limit._buckets._keys) == 64 * 3


def test_buckets_are_shared_by_those_who_have_the_memory() -> None:
    """Processes that take at once get what one would, and no lock is left by one that is killed."""
    memory, now = buckets.shared_memory(), time.monotonic()
    bucket = buckets.Bucket(7, 1e-9, 5_000.0)
    told, tell = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            mine, got = buckets.Buckets(memory), 0
            for _ in range(4_000):
                with mine.alone():
                    if mine.wait(bucket, now) == 0.0:
                        mine.take(bucket, 1.0, now)
                        got += 1
            os.write(tell, got.to_bytes(4, "little"))
            fcntl.lockf(memory, fcntl.LOCK_EX)
            os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3):
        os.wait()
    got = [int.from_bytes(os.read(told, 4), "little") for _ in range(3)]
    assert sum(got) == 5_000, got
    with (mine := buckets.Buckets(memory)).alone():
        assert mine.wait(bucket, now) > 0
    for descriptor in (told, tell, memory):
        os.close(descriptor)


def test_a_lock_that_is_not_let_go_is_not_waited_for() -> None:
    memory, (told, tell) = buckets.shared_memory(), os.pipe()
    child = os.fork()
    if child == 0:
        fcntl.lockf(memory, fcntl.LOCK_EX)
        os.write(tell, b"r")
        time.sleep(60)
        os._exit(0)
    assert os.read(told, 1) == b"r"
    began = time.monotonic()
    with (mine := buckets.Buckets(memory)).alone():
        assert mine.wait(buckets.Bucket(7, 1.0, 1.0), began) == 0.0
    assert time.monotonic() - began < 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for descriptor in (told, tell, memory):
        os.close(descriptor)


def call(port: int, token: str | None, body: bytes, path: str = "/v1/rank") -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, {} if token is None else {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Retry-After"), answer.read()
    connection.close()
    return found


RANK = b'{"items": ["a"]}'


def test_over_http_too_many_requests_are_told_to_wait(repl_service_factory) -> None:
    shop = repl_service_factory(requests_per_second=1, burst_seconds=3)
    answers = [call(shop.port, None, RANK) for _ in range(6)]
    statuses = [status for status, _, _ in answers]
    assert statuses[:3] == [200, 200, 200]
    assert statuses[-1] == 429
    assert answers[-1][1] == "1"
    assert b'"code":"rate_limited"' in answers[-1][2]
    for path in ("/health/ready", "/metrics", "/"):
        assert shop.call("GET", path)[0] == 200, "nobody is kept from looking"
    assert 'repl_rate_limited_total{by="tenant",kind="requests"}' in shop.call("GET", "/metrics")[1]
    time.sleep(1.05)
    assert call(shop.port, None, RANK)[0] == 200


def test_over_http_events_count_one_by_one(repl_service_factory) -> None:
    shop = repl_service_factory(events_per_second=50, burst_seconds=1)
    batch = ",".join(
        f'{{"id": "e{k}", "timestamp": {shop.clock.now}, "event": "item", "item": "i{k}"}}' for k in range(500)
    )
    assert call(shop.port, None, f"[{batch}]".encode(), "/v1/events")[0] == 200
    status, after, _ = call(shop.port, None, f"[{batch}]".encode(), "/v1/events")
    assert status == 429
    assert 7 <= int(after or 0) <= 10, "450 over at 50 a second"
    assert call(shop.port, None, RANK)[0] == 200


def test_over_http_one_key_does_not_use_up_anothers_rate(repl_service_factory, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    busy, quiet = make(path, "read"), make(path, "read")
    shop = repl_service_factory(keys_file=path, key_requests_per_second=0.01, burst_seconds=300)
    assert [call(shop.port, busy, RANK)[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    assert call(shop.port, quiet, RANK)[0] == 200
    assert [call(shop.port, None, RANK)[0] for _ in range(5)] == [401] * 5
