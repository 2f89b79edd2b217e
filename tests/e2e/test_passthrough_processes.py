"""Two ranker processes on one weight store, no trainer: `mode` reaches both within a second, by HTTP and by command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import service.testkit
from service.passthrough import SURFACES
from tests.conftest import ROOT, free_port, fresh_tenant, http_call

ITEMS = [f"i{k}" for k in range(30)]
PROMISED = 1.0


class Pair:
    """Two `repl-ranker serve`, each with a data directory of its own."""

    def __init__(self, place: Path, url: str) -> None:
        base = Path(service.testkit.__file__).parent / "testkit_base"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("REPL_")} | {
            "REPL_BASE_DIR": str(base), "REPL_WEIGHTS_URL": url, "REPL_TENANT": fresh_tenant(),
        }  # fmt: skip
        self.dirs = [place / "a", place / "b"]
        self.ports = [free_port(), free_port()]
        self.outputs = [place / "a.log", place / "b.log"]
        self.children = []
        for where, port, output in zip(self.dirs, self.ports, self.outputs, strict=True):
            words = [sys.executable, "-m", "trainer.cli", "serve", "--data-dir", str(where), "--port", str(port)]
            with output.open("wb") as file:
                self.children.append(
                    subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=file, stderr=file)
                )

    def rank(self, which: int, **more: Any) -> dict[str, Any]:
        status, answer = http_call(self.ports[which], "POST", "/v1/rank", {"items": ITEMS, "user": "anna", **more})
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def switch(self, which: int, mode: str, **more: Any) -> float:
        """By HTTP at one of them; the time at which it was asked."""
        import http.client
        import json

        key = (self.dirs[which] / "admin.key").read_text().strip()
        link = http.client.HTTPConnection("127.0.0.1", self.ports[which], timeout=20)
        began = time.monotonic()
        link.request("POST", "/v1/mode", json.dumps({"mode": mode, **more}), {"Authorization": f"Bearer {key}"})
        assert link.getresponse().status == 200
        link.close()
        return began

    def until(self, done: Callable[[], bool], seconds: float) -> None:
        began = time.monotonic()
        while not done():
            for child, output in zip(self.children, self.outputs, strict=True):
                assert child.poll() is None, output.read_text()
            assert time.monotonic() - began < seconds, "not in time"
            time.sleep(0.01)

    def both_in(self, mode: str, began: float, **more: Any) -> float:
        """Seconds from `began` until both answer in that mode."""
        self.until(lambda: all(self.rank(which, **more)["mode"] == mode for which in (0, 1)), 10)
        return time.monotonic() - began

    def end(self) -> None:
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait(30)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), redis_url)
    try:
        for port in made.ports:
            made.until(lambda port=port: http_call(port, "GET", "/health/ready")[0] == 200, 90)  # type: ignore[misc]
        yield made
    finally:
        made.end()


@pytest.mark.timeout(180)
def test_both_rankers_are_switched_within_a_second(pair: Pair) -> None:
    for turn in range(4):
        took = pair.both_in("passthrough", pair.switch(turn % 2, "passthrough"))
        assert took < PROMISED
        for which in (0, 1):
            assert pair.rank(which)["ids"] == ITEMS
            assert pair.rank(which, query="lamp")["mode"] == "passthrough"
        assert pair.both_in("rank", pair.switch((turn + 1) % 2, "rank")) < PROMISED


@pytest.mark.timeout(180)
def test_the_command_reaches_both_and_one_surface_alone(pair: Pair) -> None:
    search = next(number for number, name in SURFACES.items() if name == "search")

    def repl(mode: str) -> float:
        words = [sys.executable, "-m", "trainer.cli", "mode", mode, "--surface", str(search)]
        done = subprocess.run(words, cwd=ROOT, env=pair.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return time.monotonic()

    assert pair.both_in("passthrough", repl("passthrough"), query="lamp") < PROMISED
    assert [pair.rank(which)["mode"] for which in (0, 1)] == ["rank", "rank"]
    assert pair.both_in("rank", repl("rank"), query="lamp") < PROMISED
