"""A ranker that is told to stop: not ready at once, serving until its callers have left, nothing lost, exit status 0;
and two of them restarted one after the other under load without a failed request.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import service.testkit
from features.event_log import make_kafka_topics, open_log
from features.feature_store import open_feature_store
from features.records import ServedRecord, encode_token
from service.log_positions import positions_in
from service.settings import Settings
from tests.conftest import ROOT, free_port, fresh_tenant, http_call

BASE = Path(service.testkit.__file__).parent / "testkit_base"
ITEMS = [f"i{k}" for k in range(8)]
THREADS = 4


class Ranker:
    """`repl-ranker serve` in a process of its own."""

    def __init__(self, data_dir: Path, port: int, **settings: str) -> None:
        self.port = port
        known = {name: value for name, value in os.environ.items() if not name.startswith("REPL_")}
        words = [sys.executable, "-m", "trainer.cli", "serve", "--data-dir", str(data_dir), "--port", str(port)]
        self.output = data_dir.parent / f"ranker-{port}.log"
        with self.output.open("ab") as file:
            environment = {**known, "REPL_BASE_DIR": str(BASE), **settings}
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def open(self) -> Ranker:
        self.until(lambda: self.get("/health/ready") == 200, 90, "ready")
        return self

    def get(self, path: str) -> int:
        return http_call(self.port, "GET", path)[0]

    def until(self, done: Callable[[], bool], seconds: float, what: str) -> float:
        began = time.monotonic()
        while not done():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def tell(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        status = self.process.wait(30)
        assert "Traceback" not in self.output.read_text()
        return status


class Callers:
    """Clients that call who is ready, keep their connections, and try again where nobody listens; nothing else."""

    def __init__(self, ports: list[int]) -> None:
        self._ports, self._ready = ports, set(ports)
        self._stop = threading.Event()
        self.answered: list[str] = []
        self.accepted: list[str] = []
        self.failed: list[str] = []
        self.by_port = dict.fromkeys(ports, 0)
        self._threads = [threading.Thread(target=self._look)]
        self._threads += [threading.Thread(target=self._call, args=(k,)) for k in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            for port in self._ports:
                ready = http_call(port, "GET", "/health/ready")[0] == 200
                (self._ready.add if ready else self._ready.discard)(port)

    def _call(self, number: int) -> None:
        kept: dict[int, http.client.HTTPConnection] = {}
        turn = 0
        while not self._stop.is_set():
            turn += 1
            ready = [port for port in self._ports if port in self._ready]
            if not ready:
                self.failed.append("nobody is ready")
                time.sleep(0.2)
                continue
            port = ready[(number + turn) % len(ready)]
            connection = kept.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=20))
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                time.sleep(0.02)
                continue
            self._ask(connection, port, f"u{number}-{turn}")
        for connection in kept.values():
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, port: int, name: str) -> None:
        now = int(time.time() * 1_000)
        click = {"id": name, "timestamp": now, "event": "interaction", "type": "click", "user": name, "item": "i1"}
        asks: list[tuple[str, Any]] = [("/v1/rank", {"items": ITEMS, "user": name}), ("/v1/events", [click])]
        path, body = asks[hash(name) % 2]
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(f"{port} {path}: {error!r}")
            connection.close()
            return
        if answer.status != 200:
            self.failed.append(f"{port} {path}: {answer.status} {found}")
        elif path == "/v1/rank":
            self.answered.append(found["request_id"])
        else:
            self.accepted.append(name)
        self.by_port[port] += 1

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def logged(settings: Settings) -> tuple[set[str], set[str]]:
    """Request ids of the served records and ids of the events of a log, all partitions."""
    served, events = set(), set()
    with closing(open_log(settings)) as log:
        for stream, found in (("served", served), ("event", events)):
            for place, end in log.end_offsets().items():
                name, _, partition = place.partition("/")
                start = 0
                while name == stream and start < end:
                    records = log.read(stream, start, partition=int(partition))  # type: ignore[arg-type]
                    for record in records:
                        told = ServedRecord.from_bytes(record.body).request_id if stream == "served" else None
                        found.add(told or json.loads(record.body)["id"])
                    start = records[-1].offset + 1 if records else end
    return served, events


@pytest.mark.timeout(240)
def test_two_rankers_are_restarted_under_load_without_a_failed_request(data_dir: Path) -> None:
    ports = [free_port(), free_port()]
    restart_in_turn(dict.fromkeys(ports, data_dir), Settings(data_dir=data_dir))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_same_with_directories_of_their_own_over_kafka_and_redis(
    tmp_path: Path, kafka_url: str, redis_url: str
) -> None:
    tenant = fresh_tenant()
    urls = {"log_url": f"{kafka_url}/{tenant}", "weights_url": redis_url, "user_states_url": redis_url}
    settings = Settings.model_validate({**urls, "tenant": tenant, "data_dir": tmp_path / "none"})
    make_kafka_topics(settings, 3, 1)
    places = {free_port(): tmp_path / name for name in "ab"}
    for place in places.values():
        place.mkdir()
    restart_in_turn(places, settings, **{f"REPL_{name.upper()}": url for name, url in urls.items()}, REPL_TENANT=tenant)


def restart_in_turn(places: dict[int, Path], at: Settings, **more: str) -> None:
    """Two rankers by port and data directory; `at`: where their log is."""
    ports = list(places)
    settings = {"REPL_DRAIN_SECONDS": "1", **more}
    rankers = {port: Ranker(place, port, **settings) for port, place in places.items()}
    for ranker in rankers.values():
        ranker.open()
    callers = Callers(ports)
    try:
        time.sleep(0.5)
        for port in ports:
            before = dict(callers.by_port)
            rankers[port].tell()
            noticed = rankers[port].until(lambda port=port: rankers[port].get("/health/ready") == 503, 1.5, "not ready")
            assert noticed < 1.5
            assert rankers[port].end() == 0
            rankers[port] = Ranker(places[port], port, **settings).open()
            time.sleep(0.5)
            assert all(callers.by_port[other] > before[other] for other in ports)
    finally:
        callers.end()
        for ranker in rankers.values():
            ranker.tell()
        statuses = [ranker.end() for ranker in rankers.values()]
    assert callers.failed == []
    assert statuses == [0, 0]
    assert min(len(callers.answered), len(callers.accepted)) > 50
    served, events = logged(at)
    assert set(callers.answered) <= served, "every answer's record was written"
    assert set(callers.accepted) == events


@pytest.mark.timeout(120)
def test_it_serves_while_it_drains_and_finishes_and_writes_what_is_under_way(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    ranker = Ranker(data_dir, free_port(), REPL_DRAIN_SECONDS="60", REPL_WAIT_MS="3000").open()
    now = int(time.time() * 1_000)
    events = [{"id": f"e{k}", "timestamp": now, "event": "interaction", "type": "click", "user": f"u{k}", "item": "i"}
              for k in range(50)]  # fmt: skip
    assert http_call(ranker.port, "POST", "/v1/events", events)[0] == 200
    kept = http.client.HTTPConnection("127.0.0.1", ranker.port, timeout=20)
    kept.request("GET", "/health/ready")
    assert kept.getresponse().read()
    assert kept.sock is not None, "kept alive"

    ranker.tell()
    ranker.until(lambda: ranker.get("/health/ready") == 503, 5, "not ready")
    assert http_call(ranker.port, "GET", "/health/ready")[1]["reasons"] == ["the service is stopping"]
    assert ranker.get("/health/live") == 200
    kept.request("POST", "/v1/rank", json.dumps({"items": ITEMS}))
    answer = kept.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, "close")

    found: list[tuple[int, Any]] = []
    slow = {"items": ITEMS, "user": "u1", "after": encode_token({"event/0": 1 << 40})}  # waits for what never comes
    thread = threading.Thread(target=lambda: found.append(http_call(ranker.port, "POST", "/v1/rank", slow)))
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    ranker.tell()  # the second one: no more waiting for callers to leave
    thread.join(20)
    assert ranker.end() == 0
    assert time.monotonic() - began < 20
    status, ranked = found[0]
    assert (status, ranked["stale"]) == (200, True), "what was under way is answered"
    assert ranked["request_id"] in logged(settings)[0], "and its served record is written"
    with closing(open_log(settings)) as log, closing(open_feature_store(settings)) as states:
        ends = {place: end for place, end in log.end_offsets().items() if place.startswith("event/") and end}
        assert positions_in(states.offsets(), 0) == ends, "user states are written through the end of the log"
