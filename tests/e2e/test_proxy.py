"""deploy/proxy/haproxy.cfg on a real HAProxy, before servers that break off as a dying ranker does."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from deploy.local.servers import free_ports
from tests.conftest import ROOT, unavailable

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BODY = b"0123456789"
HEAD = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"


class Server:
    """Answers every request with 200; a connection's later requests it drops, in one of two ways, if told."""

    def __init__(self, breaks: str | None) -> None:
        """breaks: `closed` (read, then closed without an answer), `reset` (not even read), None: never."""
        self._breaks = breaks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        answered = 0
        with closing(connection), suppress(OSError):
            while first := connection.recv(1, socket.MSG_PEEK):
                breaks = self._breaks if answered and first == b"P" else None  # not the health checks, which are GET
                if breaks == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    receive(connection, BODY if first == b"P" else b"\r\n\r\n")
                if breaks:
                    self.dropped += 1
                    return
                connection.sendall(ANSWER)
                answered += 1


def receive(connection: socket.socket, end: bytes) -> None:
    """Read until these bytes came. Raises ConnectionError where the other side ends before."""
    data = b""
    while not data.endswith(end):
        part = connection.recv(65_536)
        if not part:
            raise ConnectionError
        data += part


@contextmanager
def proxy(first: int, second: int) -> Iterator[int]:
    """The project's HAProxy before two servers; its port."""
    if shutil.which("haproxy") is None:
        unavailable("haproxy is not installed: apt-get install -y haproxy")
    port, stats = free_ports(2)
    where = {
        "LISTEN": f"127.0.0.1:{port}", "STATS": f"127.0.0.1:{stats}",
        "RANKER_1": f"127.0.0.1:{first}", "RANKER_2": f"127.0.0.1:{second}",
    }  # fmt: skip
    process = subprocess.Popen(
        ["haproxy", "-db", "-f", "deploy/proxy/haproxy.cfg"],
        cwd=ROOT, env=os.environ | where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 20
        while True:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
                break
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def ask(connection: socket.socket) -> bytes:
    """One request, its body in a packet of its own; what came back."""
    connection.sendall(HEAD)
    time.sleep(0.002)
    connection.sendall(BODY)
    return connection.recv(4_096)


@pytest.mark.parametrize("breaks", ["closed", "reset"])
def test_a_request_that_a_ranker_dropped_is_answered_by_the_other(breaks: str) -> None:
    with (
        closing(Server(None)) as good,
        closing(Server(breaks)) as bad,
        proxy(good.port, bad.port) as port,
    ):
        for _ in range(20):
            with closing(socket.create_connection(("127.0.0.1", port), 5)) as connection:
                connection.settimeout(5)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for _ in range(4):
                    assert ask(connection).startswith(b"HTTP/1.1 200")
        assert bad.dropped > 5
