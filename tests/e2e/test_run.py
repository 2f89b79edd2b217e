"""`repl-ranker run` as a newcomer meets it: ready, answers, ends; says who died; versions by the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Shop, free_port

COMMAND = [sys.executable, "-m", "trainer.cli"]


class Run:
    """A `run` on an empty data directory."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.output = data_dir.parent / "output.txt"
        command = [*COMMAND, "run", "--data-dir", str(data_dir), "--port", str(port)]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def wait_for(self, text: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)

    def children(self) -> dict[str, int]:
        """Process ids of its children by their command: serve, learn."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                words = (path.parent / "cmdline").read_text().split("\0")
            except OSError:  # it ended meanwhile
                continue
            if parent == self.process.pid:
                found[words[3]] = int(path.parent.name)
        return found


@pytest.fixture
def running(data_dir: Path) -> Iterator[Run]:
    run = Run(data_dir, free_port())
    yield run
    if run.process.poll() is None:
        run.process.terminate()
        run.process.wait(30)


def test_it_starts_answers_and_ends_what_it_started(running: Run) -> None:
    running.wait_for("ready:")
    children = running.children()
    assert children.keys() == {"serve", "learn"}
    url = running.said().partition("ready:")[2].split()[0]
    with urllib.request.urlopen(f"{url}health/ready") as answer:
        assert answer.status == 200
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0, running.said()
    assert "stopped" in running.said()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())


@pytest.mark.parametrize(("command", "name"), [("learn", "trainer"), ("serve", "ranker")])
def test_when_one_dies_it_says_which_and_ends(running: Run, command: str, name: str) -> None:
    running.wait_for("ready:")
    children = running.children()
    os.kill(children[command], signal.SIGKILL)
    assert running.process.wait(30) == 1
    assert f"the {name} ended by itself (killed by SIGKILL)" in running.said()
    assert "Traceback" not in running.said()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())


def test_a_taken_port_is_an_error_before_anything_starts(data_dir: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        run = Run(data_dir, port)
        assert run.process.wait(30) == 2
    assert f"make run PORT={port + 1}" in run.said()


def call(shop: Shop, *words: str, status: int = 0) -> dict[str, Any]:
    command = [*COMMAND, *words, "--data-dir", str(shop.data_dir), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def newest(shop: Shop) -> int:
    versions = call(shop, "versions", "list")["versions"]
    assert versions == sorted(versions, key=lambda version: -version["v"])
    return int(versions[0]["v"])


def test_the_first_start_takes_less_than_a_minute_or_two(shop: Shop) -> None:
    """60 s on two cores of its own; here others may be at work."""
    assert shop.seconds_to_ready < 120


def test_versions_are_pinned_and_unpinned_while_it_runs(shop: Shop) -> None:
    version = newest(shop)
    assert call(shop, "versions", "show", str(version))["v"] == version
    answer = call(shop, "versions", "pin", str(version))
    assert not answer["pending"]
    assert call(shop, "versions", "list")["pinned"] == version
    answer = call(shop, "versions", "unpin", str(version))
    assert not answer["pending"]
    assert call(shop, "versions", "list")["pinned"] is None


def test_a_rollback_makes_a_version(shop: Shop) -> None:
    before = newest(shop)
    answer = call(shop, "versions", "rollback", str(before))
    assert not answer["pending"]
    kinds = {version["v"]: version["kind"] for version in call(shop, "versions", "list")["versions"]}
    assert "rollback" in [kind for version, kind in kinds.items() if version > before]


def test_a_version_is_verified(shop: Shop) -> None:
    answer = call(shop, "versions", "verify", str(newest(shop)))
    assert answer["ok"], answer
    assert answer["compared"] >= 1


@pytest.mark.parametrize("words", [("show", "999999999"), ("pin", "999999999"), ("verify", "999999999")])
def test_an_unknown_version_is_named(shop: Shop, words: tuple[str, str]) -> None:
    command = [*COMMAND, "versions", *words, "--data-dir", str(shop.data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "999999999" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_range_to_skip_is_bad_input(shop: Shop) -> None:
    command = [*COMMAND, "versions", "rollback", "1", "--skip", "9..3", "--data-dir", str(shop.data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no range" in done.stderr
