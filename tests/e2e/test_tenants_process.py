"""Two tenants as a user runs them: settings in a file, HTTPS, a key made by the command line, one ranker, and a trainer
for one of the two.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import service.testkit
from features.errors import SettingsError
from service.settings import Settings
from service.tls import tls_options
from tests.conftest import ROOT, exchange, free_port, fresh_tenant, unavailable

BASE = Path(service.testkit.__file__).parent / "testkit_base"
ITEMS = [f"i{k}" for k in range(10)]


def certificate(directory: Path, name: str = "tls", *more: str) -> tuple[Path, Path]:
    """(certificate, key) for localhost, which signs itself."""
    if shutil.which("openssl") is None:
        unavailable("openssl is not installed")
    cert, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", "-keyout",
         str(key), "-out", str(cert), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         *(more or ("-nodes",))],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


class Shop:
    """`serve`, and `learn --tenant lamps`."""

    def __init__(self, home: Path) -> None:
        self.home, self.data_dir, self.port = home, home / "data", free_port()
        self.data_dir.mkdir()
        cert, key = certificate(home)
        self._trust = ssl.create_default_context(cafile=str(cert))
        (self.data_dir / "repl-ranker.toml").write_text(
            f'base_dir = "{BASE}"\nhold_ms = 0\ncontrol_share = 0\nrequest_log = "info"\ndrain_seconds = 0.2\n'
            f'tls_cert = "{cert}"\ntls_key = "{key}"\n[tenants.lamps]\nmax_candidates = 50\n[tenants.chairs]\n'
        )
        made = [self.run("keys", "add", "--name", name, "--tenant", name) for name in ("lamps", "chairs")]
        self.lamps, self.chairs = (line.splitlines()[-1] for line in made)
        self.processes = {
            "serve": self.start("serve", "--port", str(self.port)),
            "learn": self.start("learn", "--tenant", "lamps"),
        }

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "trainer.cli", *words, "--data-dir", str(self.data_dir)]

    def run(self, *words: str) -> str:
        return subprocess.run(self.words(*words), cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("REPL_")}
        with (self.home / f"{words[0]}.log").open("ab") as file:
            return subprocess.Popen(self.words(*words), cwd=ROOT, env=known, stdout=file, stderr=file)

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self._trust)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return exchange(connection, method, path, body, headers)

    def until(self, done: Callable[[], bool], what: str) -> None:
        began = time.monotonic()
        while not done():
            for name, process in self.processes.items():
                assert process.poll() is None, (self.home / f"{name}.log").read_text()
            assert time.monotonic() - began < 90, what
            time.sleep(0.05)

    def version(self, key: str) -> int:
        found: int = self.call("GET", "/v1/status", None, key)[1]["version"]
        return found

    def end(self) -> list[int]:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        return [process.wait(30) for process in self.processes.values()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.timeout(240)
def test_one_ranker_two_tenants_and_a_trainer_for_one(shop: Shop) -> None:
    shop.until(lambda: shop.call("GET", "/health/ready")[0] == 200, "ready")
    now = int(time.time() * 1_000)
    for tenant, key in (("lamps", shop.lamps), ("chairs", shop.chairs)):
        events = [{"id": f"e{k}", "timestamp": now, "event": "item", "item": name, "fields": {"title": tenant}}
                  for k, name in enumerate(ITEMS)]  # fmt: skip
        events += [{"id": f"c{k}", "timestamp": now, "event": "interaction", "type": "click", "user": "anna-secret",
                    "item": "i3"} for k in range(5)]  # fmt: skip
        status, answer = shop.call("POST", "/v1/events", events, key)
        assert (status, answer["accepted"]) == (200, 15)

    def clicks(key: str) -> float:
        ask = {"items": ITEMS, "user": "somebody", "explain": True}
        terms = shop.call("POST", "/v1/rank", ask, key)[1]["explain"]
        return sum(term["value"] for part in terms for term in part["terms"] if term["name"] == "rt.item.click.1h")

    shop.until(lambda: shop.version(shop.lamps) >= 1 and clicks(shop.lamps) > 0, "the trainer of lamps publishes")
    assert shop.version(shop.chairs) == clicks(shop.chairs) == 0, "and nothing of it reaches the others"
    assert shop.call("GET", "/v1/status", None, shop.chairs)[1]["trainer"] == {}
    assert shop.call("GET", "/v1/status")[0] == 401
    assert shop.call("POST", "/v1/rank", {"items": [f"x{k}" for k in range(51)]}, shop.lamps)[0] == 413
    listed = shop.run("config", "--tenant", "lamps", "--json")
    assert json.loads(listed)["max_candidates"] == {
        "value": 50, "source": "tenants.lamps", "about": "candidates of a rank request, at most",
    }  # fmt: skip
    assert shop.end() == [0, 0]
    log = (shop.home / "serve.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    answered = [line for line in lines if line["message"] == "answered"]
    assert {line["tenant"] for line in answered} == {"lamps", "chairs", None}
    assert all(line["request_id"] and line["ms"] >= 0 for line in answered)
    assert [line["tenant"] for line in lines if line["message"] == "ready"] == ["lamps", "chairs"]
    for word in (shop.lamps, shop.chairs, "secret"):
        assert word not in log


def test_tls_that_cannot_start_is_told(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    other = certificate(tmp_path, "other")[1]
    locked = certificate(tmp_path, "locked", "-passout", "pass:word")[1]
    assert tls_options(Settings(tls_cert=cert, tls_key=key)) == {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    for settings in ({"tls_cert": cert}, {"tls_key": key}, {"tls_cert": cert, "tls_key": other},
                     {"tls_cert": cert, "tls_key": tmp_path / "none"},
                     {"tls_cert": cert, "tls_key": locked}):  # fmt: skip
        with pytest.raises(SettingsError):
            tls_options(Settings(**settings))


def test_every_tenant_has_topics_of_its_own(kafka_url: str, tmp_path: Path) -> None:
    (tmp_path / "repl-ranker.toml").write_text("[tenants.a]\n[tenants.b]\n")
    prefix = fresh_tenant()
    words = [sys.executable, "-m", "trainer.cli", "topics", "--partitions", "2", "--data-dir", str(tmp_path)]
    environment = {**os.environ, "REPL_LOG_URL": f"{kafka_url}/{prefix}"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert {f"{prefix}.a.events", f"{prefix}.b.events", f"{prefix}.a.cut", f"{prefix}.b.cut"} <= made
    assert f"{prefix}.events" not in made
