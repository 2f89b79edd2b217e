"""A raw keep-alive HTTP client over one socket: it measures the server, not a client library."""

from __future__ import annotations

import socket
from typing import Any

import orjson


class RawClient:
    """One connection. Requests are bytes; answers are read whole by their content-length."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 30.0) -> None:
        self._address = f"{host}:{port}".encode()
        self._socket = socket.create_connection((host, port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def request_bytes(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """A whole request, to be sent by `exchange` again and again."""
        lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: " + self._address]
        lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body), b"", b""]
        return b"\r\n".join(lines) + body

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and read its answer: (status, body)."""
        self._socket.sendall(request)
        view = memoryview(self._buffer)
        have, end = 0, -1
        while end < 0:
            have += self._receive(view[have:])
            end = self._buffer.find(b"\r\n\r\n", 0, have)
        head = bytes(view[:end]).lower()
        place = head.index(b"content-length:") + 15
        size = int(head[place : head.find(b"\r\n", place) if b"\r\n" in head[place:] else None])
        total = end + 4 + size
        view.release()
        if total > len(self._buffer):
            self._buffer.extend(bytes(total))  # grown once, kept for later answers
        view = memoryview(self._buffer)
        while have < total:
            have += self._receive(view[have:])
        return int(head[9:12]), bytes(view[end + 4 : total])

    def _receive(self, into: memoryview) -> int:
        got = self._socket.recv_into(into)
        if got == 0:
            raise ConnectionError("the server closed the connection")
        return got

    def call(self, method: str, path: str, value: Any = None) -> tuple[int, Any]:
        """Send a JSON value, read a JSON answer."""
        body = b"" if value is None else orjson.dumps(value)
        status, content = self.exchange(self.request_bytes(method, path, body))
        return status, orjson.loads(content)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
