"""Ranker and learner, each a process of its own: a click is in what others are served a hold later, in counters and in
weights; and the ranker serves on when the learner is gone.

The bounds are generous: a crowded machine shares its two cores with more than these two. `repl-ranker bench freshness`
measures the half second that is promised.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import service.testkit
from tests.conftest import ROOT, free_port, http_call

HOLD_MS = 500
PATIENCE = HOLD_MS / 1_000 + 3.0
ITEMS = [f"i{k}" for k in range(20)]


class Shop:
    """Both processes on one data directory; `settings`: more of the environment."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self._settings = settings
        self.port = free_port()
        self._place = data_dir
        self._outputs = {name: data_dir.parent / f"{name}.log" for name in ("serve", "learn")}
        self.ranker = self.start("serve", "--port", str(self.port))
        self.learner = self.start("learn")

    def start(self, command: str, *more: str) -> subprocess.Popen[bytes]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("REPL_")}
        base = Path(service.testkit.__file__).parent / "testkit_base"
        settings = {"REPL_BASE_DIR": str(base), "REPL_HOLD_MS": str(HOLD_MS), "REPL_CONTROL_SHARE": "0"}
        words = [sys.executable, "-m", "trainer.cli", command, "--data-dir", str(self._place), *more]
        with self._outputs[command].open("ab") as file:
            return subprocess.Popen(words, cwd=ROOT, env=known | settings | self._settings, stdout=file, stderr=file)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return http_call(self.port, method, path, body)

    def send(self, *events: dict[str, Any]) -> str:
        now = int(time.time() * 1_000)
        stamped = [{"id": f"{now}-{k}", "timestamp": now, **event} for k, event in enumerate(events)]
        status, answer = self.call("POST", "/v1/events", stamped)
        assert (status, answer["accepted"]) == (200, len(events)), answer
        token: str = answer["token"]
        return token

    def rank(self, user: str, **more: Any) -> dict[str, Any]:
        status, answer = self.call("POST", "/v1/rank", {"items": ITEMS, "user": user, **more})
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def terms(self, item: str) -> tuple[dict[str, Any], dict[str, float], dict[str, float], float]:
        """What somebody new is served of an item: the answer, values and weights by name, the logit."""
        answer = self.rank("somebody", explain=True)
        part = next(part for part in answer["explain"] if part["id"] == item)
        named = {term["name"]: term for term in part["terms"] if term["weight"] is not None}
        values = {name: term["value"] for name, term in named.items()}
        return answer, values, {name: term["weight"] for name, term in named.items()}, part["logit"]

    def until(self, done: Callable[[], bool], seconds: float, what: str) -> float:
        """Seconds until it was done."""
        began = time.monotonic()
        while not done():
            for name, child in (("serve", self.ranker), ("learn", self.learner)):
                gone = child.poll() is not None and child.returncode != -signal.SIGKILL
                assert not gone, self._outputs[name].read_text()
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def open(self) -> None:
        """Wait for both, and send the items."""
        self.until(lambda: self.call("GET", "/health/ready")[0] == 200, 90, "the ranker is ready")
        self.send(*({"event": "item", "item": name, "fields": {"title": f"red lamp {name}"}} for name in ITEMS))
        self.until(lambda: self.rank("somebody")["version"] >= 1, 90, "the learner publishes")

        def quiet() -> bool:
            status = self.call("GET", "/v1/status")[1]
            return not status["items_waiting"] and status["trainer"].get("behind") == {"records": 0, "ms": 0}

        self.until(quiet, 60, "everything is read")

    def end(self) -> None:
        for child in (self.ranker, self.learner):
            if child.poll() is None:
                child.terminate()
        for child in (self.ranker, self.learner):
            child.wait(30)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    place = tmp_path_factory.mktemp("two") / "data"
    place.mkdir()
    made = Shop(place)
    try:
        made.open()
        yield made
    finally:
        made.end()


@pytest.mark.timeout(240)
def test_a_click_is_in_everybodys_counters_and_weights_a_hold_later(shop: Shop) -> None:
    before, values, weights, logit = shop.terms("i7")
    assert values["rt.item.click.1h"] == 0
    shown = shop.rank("anna")
    ranking = shown["request_id"]
    positions = [{"id": name, "position": k + 1} for k, name in enumerate(shown["ids"])]
    shop.send({"event": "ranking", "id": ranking, "user": "anna", "items": positions})
    shop.send({"event": "interaction", "type": "click", "user": "anna", "item": "i7", "ranking": ranking})
    began = time.monotonic()
    shop.until(lambda: shop.terms("i7")[1]["rt.item.click.1h"] > 0, PATIENCE, "counters follow")
    assert time.monotonic() - began > HOLD_MS / 1_000 - 0.1, "not before the hold"
    shop.until(lambda: shop.terms("i7")[2] != weights, PATIENCE, "weights follow")
    after, _, learned, moved = shop.terms("i7")
    assert after["weights_version"] > before["weights_version"]
    assert moved != logit
    assert learned["intercept"] != weights["intercept"]
    assert after["ages_ms"]["counters"] < HOLD_MS + 3_000


@pytest.mark.timeout(240)
def test_the_ranker_serves_on_without_the_learner_and_says_so(shop: Shop) -> None:
    scores = shop.rank("bert")["scores"]
    shop.learner.kill()
    shop.learner.wait(30)
    waited = shop.until(lambda: shop.rank("bert")["stale"], 20, "the answer is stale")
    assert waited > 5.0, "ten seconds after the last heartbeat, which is a second old unless the machine is crowded"
    status = shop.call("GET", "/v1/status")[1]
    assert status["stale_reason"] == "trainer"
    assert len(shop.rank("bert")["scores"]) == len(scores)
    token = shop.send({"event": "interaction", "type": "click", "user": "bert", "item": "i3"})
    answer = shop.rank("bert", after=token, explain=True)
    own = next(part for part in answer["explain"] if part["id"] == "i3")["terms"]
    assert next(term["value"] for term in own if term["name"] == "rt.own.click") > 0
    assert shop.call("GET", "/v1/status")[1]["trainer"]["behind"]["records"] > 0
    shop.learner = shop.start("learn")
    shop.until(lambda: not shop.rank("bert")["stale"], 60, "the learner is back")
