"""A learner and two rankers as processes: the log on a real Kafka of three partitions, the rest in a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from features.event_log import make_kafka_topics, open_log
from features.event_log_kafka import KafkaEventLog
from service.settings import Settings
from tests.conftest import ROOT, free_port, http_call

PARTITIONS = 3
HOLD_MS = 500
ITEMS = [f"i{k}" for k in range(20)]
BASE = ROOT / "service" / "testkit_base"


class KafkaShop:
    """`rankers`: ports. Each process has a data directory of its own, as on machines of their own."""

    def __init__(self, place: Path, kafka_url: str, redis_url: str, **settings: str) -> None:
        name = uuid.uuid4().hex[:12]
        self.place = place
        self.environment = {
            "REPL_LOG_URL": f"{kafka_url}/{name}?timeout_ms=8000", "REPL_WEIGHTS_URL": redis_url,
            "REPL_USER_STATES_URL": redis_url, "REPL_TENANT": name, "REPL_BASE_DIR": str(BASE),
            "REPL_HOLD_MS": str(HOLD_MS), "REPL_CONTROL_SHARE": "0",
        } | settings  # fmt: skip
        given = {key.removeprefix("REPL_").lower(): value for key, value in self.environment.items()}
        self.settings = Settings.model_validate(given | {"data_dir": place / "learner"})
        make_kafka_topics(self.settings, PARTITIONS, 1)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"a": free_port(), "b": free_port()}

    def start(self, name: str) -> None:
        """Start `learner`, `standby`, `a`, `b`, or one whose name begins with `states` (again)."""
        words = {"learner": ["learn"], "standby": ["learn", "--standby"]}.get(name)
        words = ["states"] if name.startswith("states") else words or ["serve", "--port", str(self.ports[name])]
        known = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
        with self.output(name).open("ab") as file:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "trainer.cli", *words, "--data-dir", str(self.place / name)],
                cwd=ROOT, env=known | self.environment, stdout=file, stderr=file,
            )  # fmt: skip

    def output(self, name: str) -> Path:
        return self.place / f"{name}.log"

    def open(self, *others: str) -> None:
        """Start both rankers and `others` (else the learner), send the items, and wait until all of it is served."""
        for name in ("a", "b", *(others or ("learner",))):
            self.start(name)
        for name in ("a", "b"):
            self.until(lambda name=name: self.call(name, "GET", "/health/ready")[0] == 200, 120, f"{name} is ready")
        self.send("a", *({"event": "item", "item": one, "fields": {"title": f"lamp {one}"}} for one in ITEMS))
        for name in ("a", "b"):
            if "learner" in self.children:
                self.until(lambda name=name: self.rank(name, "nobody")["version"] >= 1, 120, "versions are served")
            self.until(lambda name=name: self.call(name, "GET", "/v1/items?ids=i7")[1]["items"], 60, "items are known")

    def call(self, name: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return http_call(self.ports[name], method, path, body)

    def send(self, name: str, *events: dict[str, Any]) -> str:
        """Send events through a ranker; the token."""
        now = int(time.time() * 1_000)
        stamped = [{"id": uuid.uuid4().hex, "timestamp": now, **event} for event in events]
        status, answer = self.call(name, "POST", "/v1/events", stamped)
        assert (status, answer["accepted"]) == (200, len(events)), answer
        token: str = answer["token"]
        return token

    def rank(self, name: str, user: str, **more: Any) -> dict[str, Any]:
        status, answer = self.call(name, "POST", "/v1/rank", {"items": ITEMS, "user": user, **more})
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def click(self, name: str, user: str, item: str, ranker: str | None = None) -> str:
        """Show `user` what a ranker answers, and click; the token of the click."""
        shown = self.rank(name, user)
        ranking = shown["request_id"]
        positions = [{"id": one, "position": k + 1} for k, one in enumerate(shown["ids"])]
        self.send(name, {"event": "ranking", "id": ranking, "user": user, "items": positions})
        event = {"event": "interaction", "type": "click", "user": user, "item": item, "ranking": ranking}
        return self.send(ranker or name, event)

    def value(self, name: str, user: str, item: str, term: str, **more: Any) -> float:
        """A last-layer input of an item, as a ranker computes it."""
        answer = self.rank(name, user, explain=True, **more)
        part = next(part for part in answer["explain"] if part["id"] == item)
        return float(next(one["value"] for one in part["terms"] if one["name"] == term))

    def until(self, done: Any, seconds: float, what: str) -> float:
        """Seconds until it was done."""
        began = time.monotonic()
        while not done():
            for name, child in self.children.items():
                assert child.poll() in (None, -9), f"{name}:\n{self.output(name).read_text()[-4_000:]}"
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def log(self) -> KafkaEventLog:
        """The log, opened by the test itself."""
        found = open_log(self.settings)
        assert isinstance(found, KafkaEventLog)
        return found

    def end(self) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        for child in self.children.values():
            child.wait(30)
