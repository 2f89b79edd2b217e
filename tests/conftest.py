"""What every test may rely on: one thread, no settings of the developer's shell, a data directory of its
own.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported anywhere: results repeat to the bit

import pytest  # noqa: E402

from deploy.local.servers import Kafka, Redis, ServerError, free_ports  # noqa: E402
from features.kernel_cache import forget_stale_kernels  # noqa: E402

forget_stale_kernels()

RUNNING = {name: os.environ.get(name, "") for name in ("REPL_TEST_KAFKA", "REPL_TEST_REDIS")}
"""Servers that run already: host:port of a broker, a redis:// URL. Read now, because tests see no REPL_ variable."""
KAFKA_USERS = {"anna": "annaspassword"}

ROOT = Path(__file__).resolve().parent.parent


def in_ci() -> bool:
    """True where a missing system package must fail a test instead of skipping it."""
    return os.environ.get("CI") == "true"


def unavailable(reason: str) -> NoReturn:
    """What a test needs is not there: a failure in CI, else a skip that says why."""
    if in_ci():
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("REPL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def fresh_tenant() -> str:
    """A tenant that no other test uses."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A real broker of this session, with KAFKA_USERS; not to be killed, others use it too."""
    server = Kafka(tmp_path_factory.mktemp("kafka"), users=KAFKA_USERS)
    try:
        server.start()
    except ServerError as error:
        unavailable(str(error))
    yield server
    server.kill()  # its data go anyway


@pytest.fixture(scope="session")
def kafka_url(request: pytest.FixtureRequest) -> str:
    """kafka://host:port of a real broker, without a prefix: of REPL_TEST_KAFKA (host:port), else started here."""
    address = RUNNING["REPL_TEST_KAFKA"] or request.getfixturevalue("kafka").address
    return f"kafka://{address.removeprefix('kafka://')}"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """redis://host:port of a real Redis: of REPL_TEST_REDIS, else started here. A test takes a tenant of its
    own (`fresh_tenant`)."""
    if RUNNING["REPL_TEST_REDIS"]:
        yield RUNNING["REPL_TEST_REDIS"]
        return
    server = Redis(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
    except ServerError as error:
        unavailable(str(error))
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Cluster of this session (`tests/redis_several.py`): no node is to be killed, others use it too; a busy
    machine is no reason to fail over."""
    from tests.redis_several import Cluster

    with Cluster(tmp_path_factory.mktemp("redis-cluster"), node_timeout_ms=30_000) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_cluster_url(redis_cluster: Any) -> str:
    """Its redis+cluster:// URL."""
    url: str = redis_cluster.url
    return url


@pytest.fixture(scope="session")
def redis_sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """redis+sentinel:// URL of a real primary with a replica and a sentinel; not to be killed either."""
    from tests.redis_several import Sentinels

    with Sentinels(tmp_path_factory.mktemp("redis-sentinel"), sentinels=1, down_ms=30_000) as sentinels:
        yield sentinels.url


REDIS_URLS = ("redis_url", "redis_cluster_url", "redis_sentinel_url")
"""The fixtures whose URL a store in Redis is opened with; a contract suite runs on each."""


@pytest.fixture(params=REDIS_URLS)
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of a real Redis: of one server, of a Cluster, behind a sentinel."""
    found: str = request.getfixturevalue(request.param)
    return found


def free_port() -> int:
    """A port of the loopback address that nobody listens on at this moment."""
    return free_ports(1)[0]


def http_call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON answer of a request on a connection of its own; (0, None) where nobody answers."""
    return exchange(http.client.HTTPConnection("127.0.0.1", port, timeout=20), method, path, body)


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """As `http_call`, on a connection that is closed afterwards."""
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionError:
        return 0, None
    finally:
        connection.close()


@dataclass(frozen=True)
class Shop:
    """`repl-ranker run --sample` in a process of its own."""

    url: str
    data_dir: Path
    output: Path
    seconds_to_ready: float

    def status(self) -> dict[str, Any]:
        """What /v1/status says."""
        with urllib.request.urlopen(f"{self.url}v1/status", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def wait_until_read(self, seconds: float = 240) -> None:
        """`run` shows its URL before a slow machine has read everything; tests want all of it."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            lag = status["trainer"].get("lag_ms", 1e9)
            if not status.get("behind") and not status["items_waiting"] and lag < 60_000:
                return
            assert time.monotonic() < deadline, status
            time.sleep(0.25)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Ranker and trainer on the shipped data, as `make run` starts them, with a short hold and quick labels."""
    home = tmp_path_factory.mktemp("shop")
    output, port = home / "output.txt", free_port()
    command = [sys.executable, "-m", "trainer.cli", "run", "--sample", "--data-dir", str(home / "data")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPL_")}
    environment |= {"REPL_HOLD_MS": "1000", "REPL_NEGATIVE_AFTER_MS": "2000"}
    started = time.monotonic()
    with output.open("wb") as file:
        running = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, stdout=file, stderr=file, env=environment
        )
    try:
        while b"ready:" not in output.read_bytes():
            assert running.poll() is None, output.read_text()
            assert time.monotonic() - started < 240, output.read_text()
            time.sleep(0.1)
        made = Shop(f"http://127.0.0.1:{port}/", home / "data", output, time.monotonic() - started)
        made.wait_until_read()
        yield made
    finally:
        running.terminate()
        running.wait(30)
    assert running.returncode == 0, output.read_text()
