"""A pytest plugin with a real service for a shop's own tests: the fixture `repl_service` (docs/testkit.md).

In this process, over real HTTP on a free port, in a directory of its own, with a small untrained base model and a
clock that the test moves. No torch, no trainer: weights change when the test says so. Imports nothing heavy until used.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import uvicorn

    from service.core import Service
    from service.settings import Settings

BASE = Path(__file__).parent / "testkit_base"
START = 1_767_225_600_000
"""Where the manual clock stands at first: 2026-01-01T00:00:00Z."""

MAX_ITEMS = 20_000
READY_SECONDS = 30.0


class ManualClock:
    """A clock in ms since 1970 that stands still until `advance`. Safe from several threads."""

    def __init__(self, now: int = START) -> None:
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> int:
        return self._now

    @property
    def now(self) -> int:
        """The time, ms."""
        return self._now

    def advance(self, ms: int) -> int:
        """Move on by `ms` (never back); returns the new time."""
        if ms < 0:
            raise ValueError(f"time does not go back (advance by {ms} ms)")
        with self._lock:
            self._now += ms
            return self._now


class CallFailed(AssertionError):
    """The service answered an error; `status` and `answer` hold it."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"{status}: {json.dumps(answer)[:500]}")
        self.status, self.answer = status, answer


class ReplService:
    """A running service. `url` is where it answers, `clock` is its clock, `admin_key` its bearer key."""

    def __init__(self, data_dir: Path, clock: ManualClock, **settings: Any) -> None:
        """settings: those of service/settings.py, beside what a test needs."""
        self.clock = clock
        self.settings: Settings = _settings(data_dir, settings)
        self._ids = 0
        self._start()

    def _start(self) -> None:
        from features.realtime import RealtimeConfig
        from service.app import run_in_thread
        from service.core import Service
        from service.listener import bind

        small = RealtimeConfig(max_items=MAX_ITEMS, max_categories=4_096, max_lists=MAX_ITEMS)
        self.service: Service = Service(self.settings, clock=self.clock, realtime=small)
        self.service.start()
        self.service.wait(READY_SECONDS)
        self._socket = bind("127.0.0.1", self.settings.port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: uvicorn.Server
        self._server, self._thread = run_in_thread(self.service, self._socket)
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.002)
        self.admin_key = (self.settings.data_dir / "admin.key").read_text(encoding="ascii").strip()

    def stop(self) -> None:
        """End it; everything it was told is in the data directory."""
        self._server.should_exit = True
        self._thread.join(10.0)
        self.service.stop()
        self._socket.close()

    def restart(self) -> None:
        """Stop and start anew on the same data directory."""
        self.stop()
        self._start()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One HTTP call: (status, answer; JSON where it is JSON). Bodies of bytes are sent as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
            is_json = (answer.getheader("content-type") or "").startswith("application/json")
            return answer.status, json.loads(content) if is_json else content.decode()
        finally:
            connection.close()

    def _expect(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = self.call(method, path, body)
        if status != 200:
            raise CallFailed(status, answer)
        found: dict[str, Any] = answer
        return found

    def rank(self, items: Sequence[Any], **request: Any) -> dict[str, Any]:
        """POST /v1/rank; CallFailed unless 200."""
        return self._expect("POST", "/v1/rank", {"items": list(items), **request})

    def retrieve(self, **request: Any) -> dict[str, Any]:
        """POST /v1/retrieve; CallFailed unless 200."""
        return self._expect("POST", "/v1/retrieve", request)

    def events(self, *events: Mapping[str, Any]) -> dict[str, Any]:
        """POST /v1/events; `id` and `timestamp` (the clock's) are filled in where missing. CallFailed unless 200."""
        return self._expect("POST", "/v1/events", [self._whole(event) for event in events])

    def _whole(self, event: Mapping[str, Any]) -> dict[str, Any]:
        self._ids += 1
        return {"id": f"kit-{self.clock.now}-{self._ids}", "timestamp": self.clock.now, **event}

    def item(self, item: str, *, available: bool | None = None, **fields: Any) -> dict[str, Any]:
        """An item event: `events(item("A", title="red lamp", price=3.5))`."""
        event: dict[str, Any] = {"event": "item", "item": item, "fields": fields}
        return event if available is None else {**event, "available": available}

    def click(self, user: str, item: str, kind: str = "click", **more: Any) -> dict[str, Any]:
        """An interaction event of a user."""
        return {"event": "interaction", "type": kind, "user": user, "item": item, **more}

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until every event is in user states and catalogue, every item encoded, every served record logged."""
        from features.records import partitions_in

        running = self.service.running
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ends = self.service.log.end_offsets()
            read = running.read.reached({name: ends[name] for name in partitions_in("event", ends)})
            if read and not running.encoder.waiting and not running.impressions.waiting:
                return
            time.sleep(0.005)
        raise TimeoutError(f"the service did not settle within {seconds:g} s")

    def publish(
        self, click: Mapping[str, float] | None = None, purchase: Mapping[str, float] | None = None
    ) -> int:
        """Publish a weight version: the base's prior with some weights replaced by name (`rt.own.click`, …).

        Returns the version once the ranker serves it. The names are those of `names`.
        """
        from service.weight_store import Version, encode_weights

        running = self.service.running
        heads = [row.copy() for row in running.replica.prior]
        for head, changes in zip(heads, (click or {}, purchase or {}), strict=True):
            for name, value in changes.items():
                head[self.names.index(name)] = value
        latest = self.service.store.latest()
        v = 1 if latest is None else latest.v + 1
        now, base = self.clock.now, running.engine.artifact.sha256
        weights = encode_weights(heads[0], heads[1])
        offsets = self.service.log.end_offsets()
        version = Version(v, base, "push", v, weights, offsets, now, now, None, f"testkit-{v}", now)
        self.service.store.commit(version, b"")
        until = time.monotonic() + 5.0
        while running.replica.snapshot.version < v:
            if time.monotonic() > until:
                raise TimeoutError(f"version {v} was not taken up")
            time.sleep(0.005)
        return v

    @property
    def names(self) -> list[str]:
        """The names of the last layer's inputs in order."""
        return list(self.service.running.engine.artifact.layout_names)


def _settings(data_dir: Path, given: Mapping[str, Any]) -> Settings:
    from service.settings import Settings

    usual = {"base_dir": BASE, "port": 0, "max_items": MAX_ITEMS, "control_share": 0.0}
    return Settings(data_dir=data_dir, **{**usual, **given})


@pytest.fixture
def repl_service(tmp_path: Path) -> Iterator[ReplService]:
    """A service of this test alone, ready to answer."""
    sys.setswitchinterval(0.0005)
    service = ReplService(tmp_path / "repl", ManualClock())
    yield service
    service.stop()


@pytest.fixture
def repl_service_factory(tmp_path: Path) -> Iterator[Any]:
    """Makes services with settings of one's own: `repl_service_factory(log_items=5)`."""
    made: list[ReplService] = []

    def make(clock: ManualClock | None = None, **settings: Any) -> ReplService:
        service = ReplService(tmp_path / f"repl-{len(made)}", clock or ManualClock(), **settings)
        made.append(service)
        return service

    yield make
    for service in made:
        service.stop()
