"""`serve --workers N` and a learner as processes, over the embedded log and stores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.testkit import BASE
from tests.conftest import ROOT, free_port, http_call

ITEMS = [f"i{k}" for k in range(30)]


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


class WorkerShop:
    """`serve --workers N`, and a learner, over one data directory."""

    def __init__(self, data_dir: Path, workers: int, **settings: str) -> None:
        self.port, self.data_dir = free_port(), data_dir
        self.output = data_dir.parent / "serve.log"
        self.environment = {
            "REPL_BASE_DIR": str(BASE), "REPL_HOLD_MS": "300", "REPL_CONTROL_SHARE": "0",
        } | settings  # fmt: skip
        self.ranker = self._start("serve", "--port", str(self.port), "--workers", str(workers))
        self.learner = self._start("learn")

    def _start(self, command: str, *more: str) -> subprocess.Popen[bytes]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("REPL_")}
        words = [sys.executable, "-m", "trainer.cli", command, "--data-dir", str(self.data_dir), *more]
        with self.output.open("ab") as file:
            return subprocess.Popen(words, cwd=ROOT, env=known | self.environment, stdout=file, stderr=file)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return http_call(self.port, method, path, body)

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            found: str = answer.read().decode()
            return found

    def stamped(self, *events: dict[str, Any]) -> list[dict[str, Any]]:
        """Events with ids and the time of now."""
        now = int(time.time() * 1_000)
        return [{"id": uuid.uuid4().hex, "timestamp": now, **event} for event in events]

    def send(self, *events: dict[str, Any]) -> str:
        status, answer = self.call("POST", "/v1/events", self.stamped(*events))
        assert (status, answer.get("accepted")) == (200, len(events)), answer
        token: str = answer["token"]
        return token

    def rank(self, user: str, **more: Any) -> dict[str, Any]:
        status, answer = self.call("POST", "/v1/rank", {"items": ITEMS, "user": user, **more})
        assert status == 200, (status, answer, self.output.read_text()[-3_000:])
        found: dict[str, Any] = answer
        return found

    def values(self, user: str, item: str, **more: Any) -> dict[str, float]:
        answer = self.rank(user, explain=True, **more)
        part = next(part for part in answer["explain"] if part["id"] == item)
        return {term["name"]: term["value"] for term in part["terms"]}

    def until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        began = time.monotonic()
        while not done():
            assert self.ranker.poll() is None, self.output.read_text()
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s\n{self.output.read_text()}"
            time.sleep(0.02)

    def always(self, done: Callable[[], bool], seconds: float, what: str, times: int = 12) -> None:
        """Until it holds so often in a row, on connections of their own: that no worker says otherwise."""
        self.until(lambda: all(done() for _ in range(times)), seconds, what)

    def answering(self) -> int:
        """How often a worker began to answer."""
        return self.output.read_text().count("Started server process")

    def open(self, workers: int) -> None:
        """Wait until all answer, send the items, and wait until all serve a version."""
        self.until(lambda: self.answering() == workers, 90, "all workers answer")
        kinds = [{"event": "item", "item": name, "fields": {"title": f"red lamp {name}", "price": 3}} for name in ITEMS]
        self.send(*kinds)
        self.always(lambda: self.call("GET", "/v1/status")[1]["items"] == len(ITEMS), 30, "all know the items")
        self.always(lambda: self.rank("x")["version"] > 0, 60, "all serve a version")

    @property
    def workers(self) -> list[int]:
        """Process ids; the first is the one that writes."""
        return sorted(children(self.ranker.pid))

    def end(self) -> None:
        for child in (self.ranker, self.learner):
            child.terminate()
        for child in (self.ranker, self.learner):
            child.wait(40)
