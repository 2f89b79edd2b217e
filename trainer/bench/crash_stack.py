"""A real Kafka, a real Redis, the trainer and two rankers as processes, with consumers of user states beside some of
them, and what can be done to them. It chooses no moment and proves nothing.

A process that is started while a server is away ends with status 1 and says why (docs/redis.md); here, as under any
supervisor, it is started again. One that ends at another time, or otherwise, has failed. Every process has a data
directory of its own. Only what was started here is ever signalled.
"""

from __future__ import annotations

import http.client
import importlib
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from features.event_log import make_kafka_topics
from service.settings import Settings
from trainer.bench.crash_ledger import Answers
from trainer.bench.server import free_port

PARTITIONS = 3
TRAINER, RANKERS, SERVERS = "trainer", ("ranker-a", "ranker-b"), ("kafka", "redis")
STATES = {"ranker-a": "states-a", "ranker-b": "states-b"}
"""A consumer of user states for each ranker that does not keep them itself; they share the partitions."""
KEPT = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
FULL = 4_096
READY_SECONDS = 120.0
EXCUSED_SECONDS = 20.0
"""After a server was back a process may still end for its sake: it was waiting for an answer."""


class Stack:
    """`ports` of the rankers; `settings` as any of the processes has them."""

    def __init__(self, place: Path, base: Path, answers: Answers, beside: Sequence[str] = (), **more: str) -> None:
        """beside: rankers whose user states others keep; more: environment of all processes."""
        servers = importlib.import_module("deploy.local.servers")  # of the source tree: only benches and tests need it
        self.place, self.answers = place, answers
        self.kafka, self.redis = servers.Kafka(place / "kafka"), servers.Redis(place / "redis", options=KEPT)
        self.servers: dict[str, Any] = {"kafka": self.kafka, "redis": self.redis}
        self.base, self.beside, self._more = base, beside, more
        self.ports = {name: free_port() for name in RANKERS}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._killed: set[str] = set()
        self._servers_away: dict[str, float] = {}  # until when, or for ever
        self.restarts = 0

    def open(self, processes: Sequence[str] = (*RANKERS, TRAINER)) -> None:
        """Start the servers, make the topics, start trainer and rankers. Raises ServerError, RuntimeError."""
        self.redis.start()
        self.kafka.start()
        tenant = uuid.uuid4().hex[:8]
        self.environment = {
            "REPL_LOG_URL": f"kafka://{self.kafka.address}/{tenant}?timeout_ms=6000",
            "REPL_WEIGHTS_URL": self.redis.url, "REPL_USER_STATES_URL": self.redis.url, "REPL_TENANT": tenant,
            "REPL_BASE_DIR": str(self.base), "REPL_HOLD_MS": "300", "REPL_NEGATIVE_AFTER_MS": "2000",
            "REPL_CONTROL_SHARE": "0", "REPL_VERSIONS_ALL_MINUTES": "1440", "REPL_CHECKPOINT_EVERY_MS": "2000",
            "REPL_REDIS_TIMEOUT_MS": "1000", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        } | self._more  # fmt: skip
        given = {key[5:].lower(): value for key, value in self.environment.items() if key.startswith("REPL_")}
        self.settings = Settings.model_validate(given | {"data_dir": self.place / "proof"})
        make_kafka_topics(self.settings, PARTITIONS, 1)
        for name in (*(STATES[ranker] for ranker in self.beside), *processes):
            self.start(name)
        for name in processes:
            if name in RANKERS:
                self.until_ready(name)

    def start(self, name: str) -> None:
        """Start trainer, ranker or consumer of user states (again)."""
        words = ["learn"] if name == TRAINER else ["states"]
        if name in RANKERS:
            words = ["serve", "--port", str(self.ports[name])]
        known = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
        known["REPL_USER_STATES"] = "beside" if name in self.beside else "here"
        with self._lock, self.output(name).open("ab") as file:
            self._killed.discard(name)
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "trainer.cli", *words, "--data-dir", str(self.place / name)],
                stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=known | self.environment,
            )  # fmt: skip

    def output(self, name: str) -> Path:
        """What a process printed."""
        return self.place / f"{name}.log"

    def status(self, ranker: str, path: str = "/health/ready") -> int:
        """Status of a GET; 0 where nobody answers."""
        wire = http.client.HTTPConnection("127.0.0.1", self.ports[ranker], timeout=5)
        try:
            wire.request("GET", path)
            return wire.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            wire.close()

    def until_ready(self, ranker: str) -> None:
        """Return once a ranker answers. Raises RuntimeError."""
        until = time.monotonic() + READY_SECONDS
        while self.status(ranker) != 200:
            self.supervise()
            if time.monotonic() > until:
                raise RuntimeError(f"{ranker} is not ready:\n{self.tail(ranker)}")
            time.sleep(0.1)

    def tail(self, name: str) -> str:
        """The end of what a process printed."""
        return self.output(name).read_text(encoding="utf-8", errors="replace")[-3_000:]

    def supervise(self) -> None:
        """Start again what ended because a server was away. Raises RuntimeError where something else did."""
        with self._lock:
            for name, child in list(self.children.items()):
                status = child.poll()
                if status is None or name in self._killed:
                    continue
                away = max(self._servers_away.values(), default=0.0)
                if status != 1 or time.monotonic() > away + EXCUSED_SECONDS:
                    raise RuntimeError(f"{name} ended by itself with status {status}:\n{self.tail(name)}")
                self.restarts += 1
                self.start(name)

    def _away(self, name: str, until: float) -> None:
        if name in self.servers:
            self._servers_away[name] = until

    # what can be done to them

    def kill(self, name: str, seconds: float) -> None:
        """kill -9; started again after so many seconds, returns once it is back."""
        began = time.monotonic()
        if name in self.servers:
            self._away(name, math.inf)
            self.servers[name].kill()
            time.sleep(seconds)
            self.servers[name].start()
            self._away(name, time.monotonic())
            return
        with self._lock:
            self._killed.add(name)
            self.children[name].kill()
            self.children[name].wait()
        time.sleep(seconds)
        self.start(name)
        if name in RANKERS:
            self.until_ready(name)
            self.answers.was_away(name, began, time.monotonic())

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds."""
        pid, began = self.pid(name), time.monotonic()
        self._away(name, math.inf)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
            self._away(name, time.monotonic())
        if name in RANKERS:
            self.until_ready(name)
            self.answers.was_away(name, began, time.monotonic())

    def fill_redis(self, seconds: float) -> None:
        """maxmemory below what it holds (noeviction): every write is refused for so long."""
        self._away("redis", math.inf)
        self._config("maxmemory", "1mb")
        time.sleep(seconds)
        self._config("maxmemory", "0")
        self._away("redis", time.monotonic())

    def fill_disk(self, name: str, seconds: float) -> None:
        """RLIMIT_FSIZE: what a process writes to files fails (EFBIG) for so long."""
        pid = self.pid(name)
        with suppress(ProcessLookupError):  # it may end meanwhile, where a server is away: `supervise` judges that
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL, hard))
            time.sleep(seconds)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def pid(self, name: str) -> int:
        """The process id, once it runs. Raises RuntimeError where it does not come back."""
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            if name in self.servers:
                found: int | None = self.servers[name].pid
            else:
                self.supervise()
                found = self.children[name].pid if self.children[name].poll() is None else None
            if found is not None:
                return found
            time.sleep(0.1)
        raise RuntimeError(f"{name} does not run")

    def _config(self, name: str, value: str) -> None:
        with socket.create_connection(("127.0.0.1", self.redis.port), 5) as wire:
            wire.sendall(f"CONFIG SET {name} {value}\r\n".encode())
            if not wire.recv(64).startswith(b"+OK"):
                raise RuntimeError(f"Redis does not take {name} {value}")

    def close(self) -> None:
        """End everything that was started here."""
        running = [child for child in self.children.values() if child.poll() is None]
        for child in running:
            child.terminate()
        for child in running:
            _ended(child)
        for server in self.servers.values():
            server.kill()  # its data go anyway


def beside_of(settings: Settings) -> Sequence[str]:
    """The rankers whose user states these settings want kept beside them: all or none."""
    return RANKERS if settings.user_states == "beside" else ()


def _ended(child: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until(done: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Return once it is done. Raises RuntimeError with what `otherwise` says."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise RuntimeError(f"not within {seconds:g} s: {otherwise()}")
        time.sleep(0.2)
