"""Reads docker-compose.yml: the services, their commands, environments, health checks and order. It starts nothing.

Only what that file uses is understood (`${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `$$`, lists for commands,
short volumes); `tests/house/test_compose.py` holds the file to that and to the compose specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
OURS = "repl-ranker/"
"""How the names of images begin that are built from this source tree."""


class ComposeError(Exception):
    """The file cannot be used: says where and why."""


@dataclass(frozen=True)
class Health:
    """A health check: its command and how long to wait for it."""

    test: tuple[str, ...]
    timeout: float
    patience: float
    """Seconds until a service that is still not healthy is an error: start period and all retries."""


@dataclass(frozen=True)
class Service:
    """One service as the file tells it, variables filled in. `built`: from this source tree; `mounts`: path in the
    container → volume or path here.
    """

    name: str
    image: str
    built: bool
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: tuple[int, ...]
    mounts: Mapping[str, str]
    needs: Mapping[str, str]
    health: Health | None
    grace: float

    @property
    def once(self) -> bool:
        """Whether it runs to its end instead of staying."""
        return self.health is None


def fill(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with every variable in its strings filled in. Raises ComposeError where a required one is missing."""
    if isinstance(value, dict):
        return {key: fill(part, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [fill(part, variables) for part in value]
    return _VARIABLE.sub(lambda found: _filled(found, variables), value) if isinstance(value, str) else value


def _filled(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, rest = found.groups()
    if name is None:
        return "$"
    given = variables.get(name, "")
    if given or kind is None:
        return given
    if kind == "?":
        raise ComposeError(f"the variable {name} is not set: {rest}")
    return str(rest)


def seconds(text: str) -> float:
    """A duration such as 1m30s, in seconds. Raises ComposeError."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ComposeError(f"not a duration: {text!r} (such as 1m30s)")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def _health(entry: Mapping[str, Any]) -> Health | None:
    if entry.get("disable", False):
        return None
    tries = seconds(entry["start_period"]) + entry["retries"] * seconds(entry["interval"])
    kind, *command = entry["test"]
    if kind != "CMD":
        raise ComposeError(f"a health check must be of the kind CMD, not {kind!r}")
    return Health(tuple(command), seconds(entry["timeout"]), tries)


def _mounts(entries: list[str]) -> dict[str, str]:
    return {place.split(":")[1]: place.split(":")[0] for place in entries}


def _ports(entry: Mapping[str, Any]) -> tuple[int, ...]:
    published = [int(text.rpartition(":")[2]) for text in entry.get("ports", [])]
    return tuple(dict.fromkeys([*published, *map(int, entry.get("expose", []))]))


def _service(name: str, entry: Mapping[str, Any]) -> Service:
    needs = {other: rule["condition"] for other, rule in entry.get("depends_on", {}).items()}
    return Service(
        name=name,
        image=entry["image"],
        built=entry["image"].startswith(OURS),
        command=tuple(entry.get("command", [])),
        environment=dict(entry.get("environment", {})),
        ports=_ports(entry),
        mounts=_mounts(entry.get("volumes", [])),
        needs=needs,
        health=_health(entry["healthcheck"]),
        grace=seconds(entry.get("stop_grace_period", "10s")),
    )


def read(path: Path, variables: Mapping[str, str], profile: str) -> dict[str, Service]:
    """The services of a profile, each after those that it needs. Raises ComposeError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ComposeError(f"{path} cannot be read: {error}") from error
    entries = {name: entry for name, entry in raw["services"].items() if profile in entry.get("profiles", [profile])}
    services = {name: _service(name, fill(entry, variables)) for name, entry in entries.items()}
    ordered: dict[str, Service] = {}
    while len(ordered) < len(services):
        ready = [one for one in services.values() if one.name not in ordered and set(one.needs) <= set(ordered)]
        if not ready:
            raise ComposeError(f"{path}: depends_on is a circle, or names a service that is not in {profile!r}")
        ordered |= {one.name: one for one in ready}
    return ordered
