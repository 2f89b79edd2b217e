"""The ports of a stack on this machine: chosen once, written down, and never taken from another program."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable
from pathlib import Path

from deploy.local.compose import Service
from deploy.local.places import LOOPBACK, Ports
from deploy.local.servers import ServerError

FIRST = "proxy"


def chosen(file: Path, services: Iterable[Service], first: int) -> dict[str, dict[int, int]]:
    """service → port in its container → port here, as `file` knows them; what it does not know is added to it.

    Counted up from `first`, the proxy's before the others', so that the URL has the number that was given; 0: from a
    place where all are free.
    """
    named = [(service.name, port) for service in services for port in service.ports]
    named.sort(key=lambda one: one[0] != FIRST)
    known: dict[str, int] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    fresh = [f"{name}:{port}" for name, port in named if f"{name}:{port}" not in known]
    if fresh:
        begin = max(known.values(), default=(first or _free_block(len(fresh))) - 1) + 1
        known |= dict(zip(fresh, range(begin, begin + len(fresh)), strict=True))
        file.write_text(json.dumps(known, indent=1), encoding="utf-8")
    names = dict.fromkeys(name for name, _ in named)
    return {name: {port: known[f"{name}:{port}"] for one, port in named if one == name} for name in names}


def _free_block(count: int) -> int:
    """The first of so many free ports in a row, below those that systems give to outgoing connections."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000 - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise ServerError(f"no {count} free ports in a row between 20000 and 32000; name the first one with STACK_PORT=")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free(name: str, ports: Ports, file: Path) -> None:
    """Raise ServerError for a port that another program has: it would fail later, with a worse message."""
    for here in ports.get(name, {}).values():
        if not _is_free(here):
            raise ServerError(
                f"{name}: port {here} is taken by another program; to take others: make stop, rm {file}, "
                "make stack STACK_PORT=NUMBER"
            )
