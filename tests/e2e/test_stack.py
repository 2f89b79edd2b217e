"""`make stack` for real: Kafka, Redis, trainer, two rankers and the proxy of docker-compose.yml, without containers."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import programs
from deploy.local.compose import read
from deploy.local.daemons import Daemon, started_at
from tests.conftest import ROOT, http_call, unavailable

SERVICES = ["kafka", "redis", "trainer", "ranker-1", "ranker-2", "proxy"]
FILE = ROOT / "docker-compose.yml"


def definition(place: Path, **changes: dict[str, Any]) -> Path:
    """A copy of docker-compose.yml with changes to services."""
    whole = yaml.safe_load(FILE.read_text())
    for name, change in changes.items():
        whole["services"][name] = whole["services"][name] | change
    file = place / "compose.yml"
    file.write_text(yaml.safe_dump(whole))
    return file


def stack(what: str, data: Path, file: Path = FILE) -> subprocess.CompletedProcess[str]:
    where = ["--data", str(data), "--port", "0", "--file", str(file)]
    command = [sys.executable, "-m", "deploy.local.stack", what, *where]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def pids(listing: str) -> dict[str, int]:
    return {name: int(pid) for name, pid in re.findall(r"^([\w-]+) +pid (\d+)", listing, re.MULTILINE)}


def port_of(data: Path, name: str) -> int:
    known: dict[str, int] = json.loads((data / "ports.json").read_text())
    return known[name]


def processes_of(data: Path) -> list[str]:
    """Command lines and directories of living processes that name this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if str(data) in words or str(data) in os.readlink(entry / "cwd"):
                found.append(f"{entry.name} {words}")
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    services = read(FILE, {"REPL_ADMIN_KEY": "k"}, "minimal")
    for service in services.values():
        if packages := programs.missing(service):
            unavailable(f"{service.name} cannot run here: apt-get install -y {packages}")
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def up(place: Path) -> Iterator[dict[str, int]]:
    """The started stack: its process ids."""
    started = stack("up", place / "data")
    try:
        assert started.returncode == 0, started.stderr
        yield pids(started.stdout)
    finally:
        stack("stop", place / "data")


def test_everything_runs_and_is_healthy(up: dict[str, int], place: Path) -> None:
    assert sorted(up) == sorted(SERVICES)
    assert "repl.events" in (place / "data/logs/topics.log").read_text()


@pytest.mark.parametrize("port", ["ranker-1:8080", "ranker-2:8080", "proxy:8080"])
def test_each_ranker_answers_with_the_trainers_weights(up: dict[str, int], place: Path, port: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        body = {"user": "u", "items": ["a", "b"]}
        status, answer = http_call(port_of(place / "data", port), "POST", "/v1/rank", body)
        assert status == 200, answer
        if answer["version"] and not answer["stale"]:
            return
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)


def test_the_smoke_test_of_the_images_passes(up: dict[str, int], place: Path) -> None:
    """`deploy/docker/smoke.sh`, as the release workflow runs it: events through either ranker, over Kafka, to both."""
    if shutil.which("curl") is None:
        unavailable("curl is not installed: apt-get install -y curl")
    url = f"http://127.0.0.1:{port_of(place / 'data', 'proxy:8080')}"
    done = subprocess.run(
        ["bash", "deploy/docker/smoke.sh", url], cwd=ROOT, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert "her click counts" in done.stdout


def test_a_second_start_leaves_what_runs(up: dict[str, int], place: Path) -> None:
    again = stack("up", place / "data")
    assert again.returncode == 0, again.stderr
    assert pids(again.stdout) == up
    assert again.stderr.count("runs already") == len(SERVICES)


def test_rankers_end_and_come_back_and_no_request_fails(up: dict[str, int], place: Path) -> None:
    """One is told to end, the other one is killed; requests go through the proxy on connections that stay open."""
    load = Load(port_of(place / "data", "proxy:8080"))
    now = dict(up)
    with load:
        for name, number in (("ranker-1", signal.SIGTERM), ("ranker-2", signal.SIGKILL)):
            os.kill(now[name], number)
            until = time.monotonic() + 20
            while started_at(now[name]) is not None and time.monotonic() < until:  # it drains first
                time.sleep(0.05)
            again = stack("up", place / "data")
            assert again.returncode == 0, again.stderr
            before, now = now, pids(again.stdout)
            assert {other for other in now if now[other] != before[other]} == {name}
            time.sleep(1.5)  # the proxy looks once a second
    assert load.failed == []
    assert load.answered > 100


class Load:
    """Asks for rankings from two threads, one request after the other, until the block is left."""

    def __init__(self, port: int) -> None:
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"user-{k}",)) for k in range(2)]
        self.answered, self.failed = 0, list[str]()

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, user: str) -> None:
        body = json.dumps({"user": user, "items": [f"i{k}" for k in range(50)]})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._stop.wait(0.03):
            try:
                connection.request("POST", "/v1/rank", body)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
                continue
            if answer.status == 200:
                self.answered += 1
            else:
                self.failed.append(f"{answer.status} {text[:100]!r}")
        connection.close()


def test_stop_leaves_nothing_of_it_and_all_of_others(up: dict[str, int], place: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], cwd=place)
    try:
        assert processes_of(place / "data")
        stopped = stack("stop", place / "data")
        assert stopped.returncode == 0, stopped.stderr
        assert stopped.stderr.count(": ended") == len(SERVICES), stopped.stderr
        assert processes_of(place / "data") == []
        assert not list((place / "data/run").iterdir())
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_failed_start_shows_the_logs_end(place: Path, tmp_path: Path) -> None:
    words = yaml.safe_load(FILE.read_text())["services"]["redis"]["command"]
    file = definition(tmp_path, redis={"command": [*words, "--no-such-option", "1"]})
    failed = stack("up", tmp_path / "data", file)
    try:
        assert failed.returncode == 1
        assert "redis ended; its log" in failed.stderr
        assert "no-such-option" in failed.stderr
        assert "`make stop` ends it" in failed.stderr
    finally:
        stack("stop", tmp_path / "data", file)
    assert processes_of(tmp_path / "data") == []


def test_a_service_that_does_not_become_healthy_has_its_time_and_no_more(place: Path, tmp_path: Path) -> None:
    deaf = {"test": ["CMD", "redis-cli", "-h", "127.0.0.1", "-p", "1", "ping"], "interval": "1s", "timeout": "5s"}
    file = definition(tmp_path, redis={"healthcheck": deaf | {"retries": 1, "start_period": "1s"}})
    failed = stack("up", tmp_path / "data", file)
    stack("stop", tmp_path / "data", file)
    assert failed.returncode == 1
    assert "redis is not healthy after" in failed.stderr
    assert "Connection refused" in failed.stderr
    assert processes_of(tmp_path / "data") == []


def test_a_process_that_has_got_our_number_is_never_signalled(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        daemon = Daemon("redis", tmp_path / "redis.json", tmp_path / "redis.log")
        started = started_at(stranger.pid)
        assert started is not None
        known = {"pid": stranger.pid, "started": started, "digest": "", "grace": 1.0}
        daemon.file.write_text(json.dumps(known))
        assert daemon.pid() == stranger.pid
        daemon.file.write_text(json.dumps(known | {"started": started + "1"}))
        assert daemon.pid() is None
        assert daemon.stop() is None
        assert stranger.poll() is None
        assert not daemon.file.exists()
    finally:
        stranger.kill()
        stranger.wait()
