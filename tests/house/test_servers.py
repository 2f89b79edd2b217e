"""deploy/local/servers.py: real servers start, answer and end; what is missing is named, with its apt line."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local import servers
from deploy.local.servers import Redis, Server, ServerError, program
from tests.conftest import unavailable


def test_a_real_redis_answers(redis_url: str) -> None:
    host, port = redis_url.removeprefix("redis://").split(":")
    with socket.create_connection((host, int(port.split("/")[0])), 5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(16) == b"+PONG\r\n"


def test_a_server_starts_again_on_its_port_and_ends_alone(redis_url: str, tmp_path: Path) -> None:
    server = Redis(tmp_path / "redis")
    with server.start():
        first = server.pid
        assert first
        assert server.start().pid == first  # it runs already
        server.kill()
        assert server.pid is None
        again = server.start().pid
        assert again not in (None, first)
    assert server.pid is None
    assert server.url != redis_url
    test_a_real_redis_answers(redis_url)  # the other one still runs


def test_a_missing_program_is_named_with_its_apt_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    with pytest.raises(ServerError, match=r"redis-server is not installed.*sudo apt-get install -y redis-server"):
        program("redis-server", "redis-server")


class Failing(Server):
    """Says why and ends."""

    name = "failing"

    def _command(self) -> Sequence[str]:
        return ("sh", "-c", "echo the port is taken; exit 7")

    def _answers(self) -> bool:
        return False


class Silent(Failing):
    """Never answers."""

    def _command(self) -> Sequence[str]:
        return ("sleep", "60")


def test_a_server_that_ends_or_never_answers_says_so_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match=r"failing ended with status 7(.|\n)*the port is taken"):
        Failing(tmp_path / "one").start()
    monkeypatch.setattr(servers, "START_SECONDS", 0.2)
    silent = Silent(tmp_path / "two")
    with pytest.raises(ServerError, match="did not answer"):
        silent.start()
    assert silent.pid is None


def test_a_missing_server_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="why"):
        unavailable("why")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="why"):
        unavailable("why")
