"""`make stack` for real: Kafka, Redis, trainer, two rankers and the proxy of docker-compose.yml, without containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
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


def test_a_second_start_leaves_what_runs_and_starts_what_ended(up: dict[str, int], place: Path) -> None:
    again = stack("up", place / "data")
    assert again.returncode == 0, again.stderr
    assert pids(again.stdout) == up
    assert again.stderr.count("runs already") == len(SERVICES)
    os.kill(up["ranker-2"], signal.SIGKILL)
    third = stack("up", place / "data")
    assert third.returncode == 0, third.stderr
    new = pids(third.stdout)
    assert new.pop("ranker-2") != up["ranker-2"]
    assert new == {name: pid for name, pid in up.items() if name != "ranker-2"}


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
