"""Faults in what a shop reports, on a real `repl-ranker run`: six minutes of a simulated shop over HTTP.

Clicks are shuffled, three categories are flooded, clicks are lost; a tenth of the answers is never reported as shown
and has to be inferred. Each fault is held and rolled back by the gate of the live process, and status, metrics,
versions and log say so. The gate's rules and their effect on what is served are tested on a truth that is known in
tests/trainer/test_gate.py; here it is whether all of that happens where it runs.
"""

from __future__ import annotations

import heapq
import http.client
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, free_port

COMMAND = [sys.executable, "-m", "trainer.cli"]
SETTINGS = {
    "REPL_HOLD_MS": "500",
    "REPL_NEGATIVE_AFTER_MS": "3000",
    "REPL_INFER_SHOWN": "true",
    "REPL_CONTROL_SHARE": "0.1",
}
ITEMS, CATEGORIES, USERS, LIKED, LIST = 300, 10, 60, 5, 10
FLOODED = range(3)
RATE = 15.0  # answers a second
WARM_S = 195  # the gate judges labels after three minutes
CLICK_DELAY_S = 0.8


class SimulatedShop:
    """Users who click what they clicked before, and what is popular; seeded, as far as its own choices go."""

    def __init__(self, port: int) -> None:
        self._wire = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._random = random.Random(11)
        self._quality = [self._random.gauss(0.0, 1.2) for _ in range(ITEMS)]
        self._liked: list[set[int]] = [set(self._random.sample(range(ITEMS), LIKED)) for _ in range(USERS)]
        self._clicks: list[tuple[float, int, dict[str, Any]]] = []
        self._number = 0
        self.fault: str | None = None
        self.unreported = 0

    def call(self, path: str, body: Any = None) -> Any:
        """POST with a body, else GET; the parsed answer, text of /metrics."""
        self._wire.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = self._wire.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return data.decode() if path == "/metrics" else json.loads(data)

    def stock(self) -> None:
        """The items."""
        now = _now()
        for start in range(0, ITEMS, 100):
            self.call("/v1/events", [
                {"id": f"item-{k}", "timestamp": now, "event": "item", "item": f"i{k}",
                 "fields": {"title": f"thing {k}", "category": f"c{k % CATEGORIES}", "price": 1 + k % 30}}
                for k in range(start, start + 100)
            ])  # fmt: skip

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Business as usual, or with a fault, for so long, or until something holds (looked at each second)."""
        began = time.monotonic()
        answers, looked = 0, began
        while (now := time.monotonic()) < began + seconds:
            if now - looked >= 1.0:
                looked = now
                if until():
                    return True
            if answers < (now - began) * RATE:
                answers += 1
                self._visit()
            self._report(now)
            time.sleep(max(0.0, min(1 / RATE, began + answers / RATE - time.monotonic())))
        return False

    def _visit(self) -> None:
        self._number += 1
        user = self._random.randrange(USERS)
        mixed = self._random.sample(sorted(self._liked[user]), 2) + self._random.sample(range(ITEMS), LIST - 2)
        asked = [f"i{k}" for k in dict.fromkeys(mixed)]
        found = self.call("/v1/rank", {"user": f"u{user}", "items": asked})
        shown = [int(item[1:]) for item in found["ids"]]
        rid, now = found["request_id"], _now()
        if self._random.random() < 0.1:
            self.unreported += 1
        else:
            items = [{"id": item} for item in found["ids"]]
            event = {"id": rid, "timestamp": now, "event": "ranking", "user": f"u{user}", "items": items}
            self.call("/v1/events", event)
        for item in self._clicked(user, shown):
            due = time.monotonic() + self._random.expovariate(1 / CLICK_DELAY_S)
            event = {"id": f"{rid}-{item}", "event": "interaction", "type": "click", "user": f"u{user}",
                     "item": f"i{item}", "ranking": rid}  # fmt: skip
            heapq.heappush(self._clicks, (due, self._number * 1_000 + item, event))

    def _clicked(self, user: int, shown: list[int]) -> list[int]:
        chances = [0.01 * 2.0 ** self._quality[k] + (0.4 if k in self._liked[user] else 0.0) for k in shown]
        clicked = [k for k, chance in zip(shown, chances, strict=True) if self._random.random() < chance]
        if self.fault == "lost":
            return []
        if self.fault == "shuffled":
            return self._random.sample(shown, len(clicked))
        if self.fault == "flood":
            return [k for k in shown if k in clicked or k % CATEGORIES in FLOODED]
        return clicked

    def _report(self, now: float) -> None:
        due = []
        while self._clicks and self._clicks[0][0] <= now:
            due.append(heapq.heappop(self._clicks)[2] | {"timestamp": _now()})
        if due:
            self.call("/v1/events", due)

    # what the service says of itself

    def gate(self) -> dict[str, Any]:
        """The gate, from /v1/status."""
        found: dict[str, Any] = self.call("/v1/status")["trainer"]["gate"]
        return found

    def figures(self) -> dict[str, Any]:
        """What the trainer says of its learning."""
        found = self.call("/v1/status")["trainer"]
        return {name: found[name] for name in ("counts", "progressive", "calibration", "lag_ms")}

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    def metric(self, name: str) -> float:
        """The value of one sample of /metrics; 0 where there is none."""
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", self.call("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0


def _now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def shop(data_dir: Path) -> Iterator[SimulatedShop]:
    port, output = free_port(), data_dir.parent / "output.txt"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPL_")} | SETTINGS
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "run", "--data-dir", str(data_dir), "--port", str(port)],
            cwd=ROOT, stdout=file, stderr=file, env=environment,
        )  # fmt: skip
    try:
        while "ready:" not in output.read_text():
            assert process.poll() is None, output.read_text()
            time.sleep(0.2)
        with closing(SimulatedShop(port)) as made:
            yield made
    finally:
        process.terminate()
        process.wait(30)


def rollback_after(shop: SimulatedShop, version: int) -> dict[str, Any] | None:
    """The newest version that went back, if it is newer than this one."""
    found = shop.call("/v1/versions?limit=1000")["versions"]
    return next((one for one in found if one["kind"] == "rollback" and one["v"] > version), None)


def suffer(shop: SimulatedShop, fault: str, reasons: tuple[str, ...]) -> dict[str, Any]:
    """Have a fault until the gate holds, and until it lets go again after its end. Returns what was seen."""
    version = shop.call("/v1/status")["trainer"]["version"]
    shop.fault = fault
    began = time.monotonic()
    held = shop.run(150, lambda: shop.gate()["held"] is not None)
    assert held, f"{fault}: nothing was held in 150 s; {shop.gate()}, {shop.figures()}"
    seconds = time.monotonic() - began
    reason = shop.gate()["held"]
    assert reason.startswith(reasons), (fault, reason)
    assert shop.run(20, lambda: rollback_after(shop, version) is not None), f"{fault}: not rolled back"
    assert shop.run(10, lambda: shop.metric("repl_weights_held") == 1.0)
    assert shop.metric(f'repl_gate_holds_total{{reason="{reason.split(":")[0]}"}}') >= 1.0
    back = rollback_after(shop, version)
    weights = shop.call("/v1/status")["trainer"]["weights_version"]
    shop.run(10)
    assert shop.call("/v1/status")["trainer"]["weights_version"] == weights, "no weights go out while they are held"
    shop.fault = None
    assert shop.run(400, lambda: shop.gate()["held"] is None), f"{fault}: the hold does not end; {shop.gate()}"
    assert shop.run(20, lambda: shop.metric("repl_weights_held") == 0.0)
    assert shop.run(20, lambda: shop.call("/v1/status")["trainer"]["weights_version"] > weights), "learning goes on"
    print(fault, reason, round(seconds), back)
    return {"fault": fault, "reason": reason, "held_after_s": round(seconds), "rollback": back}


@pytest.mark.long
@pytest.mark.timeout(2_400)
def test_faults_are_held_rolled_back_and_told_by_the_live_processes(shop: SimulatedShop, data_dir: Path) -> None:
    shop.stock()
    shop.run(WARM_S)
    assert shop.run(120, lambda: shop.gate()["held"] is None), shop.gate()
    print(f"after the warm-up: {shop.gate()}, {shop.figures()}")
    seen = [
        suffer(shop, "lost", ("clicks",)),
        suffer(shop, "flood", ("clicks", "auc")),
        suffer(shop, "shuffled", ("auc", "log loss", "clicks by category")),
    ]
    print(json.dumps(seen, indent=1))
    counts = shop.call("/v1/status")["trainer"]["counts"]
    assert shop.unreported > 50
    assert counts["inferred"] > 50, "answers that nobody reported as shown"
    said = (data_dir / "logs" / "trainer.log").read_text()
    assert said.count("the gate holds the weights") >= 3
    assert said.count("the gate rolls back") >= 3
    assert said.count("the gate lets weights go again") >= 3
    newest = shop.call("/v1/versions?limit=1")["versions"][0]["v"]
    verified = subprocess.run(
        [*COMMAND, "versions", "verify", str(newest), "--data-dir", str(data_dir), "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr
