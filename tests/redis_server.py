"""A real `redis-server` for tests: on a free port, in a directory of its own, started, stopped, killed and restarted.

To be replaced by the shared starter of deploy/local; only `tests/conftest.py` and the Redis tests import it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

BINARY = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")


def require_redis() -> str:
    """The program; a loud failure in CI where it is missing, a skip with the reason elsewhere."""
    if BINARY is None:
        assert os.environ.get("CI") != "true", "redis-server is missing: apt-get install -y redis-server"
        pytest.skip("redis-server is missing (apt-get install -y redis-server, or REDIS_SERVER=path)")
    return BINARY


class RedisServer:
    """One server; `options` are those of its command line."""

    def __init__(self, directory: Path, *options: str, password: str | None = None) -> None:
        self.directory, self._options, self._password = directory, options, password
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it over what lies in the directory, and wait until it answers."""
        secret = ["--requirepass", self._password] if self._password else []
        command = [
            require_redis(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--daemonize", "no", *secret, *self._options,
        ]  # fmt: skip
        with (self.directory / "redis.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + 20
        while not self._answers():
            said = (self.directory / "redis.log").read_text(errors="replace")
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.01)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16)[:5] in (b"+PONG", b"-NOAU")
        return False

    def signal(self, number: int) -> None:
        """Send it a signal (SIGSTOP, SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(20)
            self._process = None
