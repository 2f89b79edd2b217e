"""The ranker as a process of its own: it starts fast, keeps what it accepted through kill -9, and loads no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import service.testkit
from features.event_log import open_log
from tests.conftest import free_port, http_call

BASE = Path(service.testkit.__file__).parent / "testkit_base"


class Ranker:
    """`repl-ranker serve` on a data directory."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.port = port
        environment = {**os.environ, "REPL_BASE_DIR": str(BASE)}
        command = [
            sys.executable,
            "-m",
            "trainer.cli",
            "serve",
            "--data-dir",
            str(data_dir),
            "--port",
            str(port),
        ]
        self._output = (data_dir.parent / "ranker.log").open("ab")
        self.process = subprocess.Popen(command, env=environment, stdout=self._output, stderr=self._output)
        until = time.monotonic() + 60
        while self.call("GET", "/health/ready")[0] != 200:
            assert self.process.poll() is None, (data_dir.parent / "ranker.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return http_call(self.port, method, path, body)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        self._output.close()
        return status


def events(start: int, count: int) -> list[dict[str, Any]]:
    now = int(time.time() * 1_000)
    return [
        {
            "id": f"e{k}",
            "timestamp": now,
            "event": "interaction",
            "type": "click",
            "user": f"u{k % 7}",
            "item": f"i{k}",
        }
        for k in range(start, start + count)
    ]


@pytest.mark.timeout(180)
def test_accepted_events_survive_kill_9_and_count_once(data_dir: Path) -> None:

    port = free_port()
    accepted = 0
    for turn in range(3):
        ranker = Ranker(data_dir, port)
        for batch in range(6):
            status, answer = ranker.call("POST", "/v1/events", events(turn * 300 + batch * 50, 50))
            assert (status, answer["accepted"]) == (200, 50)
            accepted += 50
            names = [f"i{k}" for k in range(accepted)]
            status, answer = ranker.call(
                "POST", "/v1/rank", {"items": names, "user": "u1", "after": answer["token"]}
            )
            assert (status, len(answer["ids"]), answer["stale"]) == (200, accepted, False)
        assert ranker.end(signal.SIGKILL) == -signal.SIGKILL
    ranker = Ranker(data_dir, port)
    status, answer = ranker.call("POST", "/v1/events", events(0, accepted))
    assert (status, answer["accepted"], answer["duplicates"]) == (200, 0, accepted)
    question = {"items": ["i1", "i8"], "user": "u1", "explain": True, "after": answer["token"]}
    explained = ranker.call("POST", "/v1/rank", question)[1]["explain"]
    counts = [term["value"] for part in explained for term in part["terms"] if term["name"] == "rt.own.click"]
    assert all(value > 0 for value in counts)
    assert ranker.call("GET", "/v1/status")[1]["items"] == accepted
    assert ranker.end(signal.SIGTERM) == 0
    log = open_log(data_dir)
    assert log.end_offsets()["event/0"] == accepted
    log.close()


@pytest.mark.timeout(60)
def test_it_ends_well_and_says_when_the_port_is_taken(data_dir: Path, tmp_path: Path) -> None:

    port = free_port()
    ranker = Ranker(data_dir, port)
    other = subprocess.run(
        [sys.executable, "-m", "trainer.cli", "serve", "--data-dir", str(tmp_path / "other"), "--port", str(port)],
        env={**os.environ, "REPL_BASE_DIR": str(BASE)}, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert other.returncode == 2
    assert f"port {port} is taken" in other.stderr
    assert f"--port {port + 1}" in other.stderr
    assert ranker.end(signal.SIGINT) == 0


def test_the_ranker_loads_neither_torch_nor_the_trainer() -> None:
    code = (
        "import service.app, sys;"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'trainer', 'sklearn', 'matplotlib')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
