"""Waits for services by the health checks that docker-compose.yml gives them, and says how far they are."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from deploy.local import programs
from deploy.local.compose import Service
from deploy.local.daemons import Daemon
from deploy.local.places import Places
from deploy.local.servers import ServerError

TELL_SECONDS = 5.0
AGAIN_SECONDS = 0.1
REST = 3.0
"""A check is not run again before so many times as long as it took: checks must not slow down what they wait for."""


@dataclass
class _Open:
    """A service that is waited for: since when, what its check said last, and when to ask again."""

    service: Service
    daemon: Daemon
    since: float
    why: str = "not asked yet"
    again: float = 0.0


class Waiting:
    """The services that were started and are not known to be healthy yet."""

    def __init__(self, places: Places, home: Path, say: Callable[[str], None]) -> None:
        self._places, self._home, self._say = places, home, say
        self._open: dict[str, _Open] = {}
        self._told = time.monotonic()

    def add(self, service: Service, daemon: Daemon) -> None:
        """Wait for this one, too, from now on."""
        self._open[service.name] = _Open(service, daemon, time.monotonic())

    def until(self, names: Collection[str] | None = None) -> None:
        """Return once these (None: all) are healthy. Raises ServerError, with the log's end, for one that ended or had
        its time.
        """
        wanted = set(self._open if names is None else names)
        while wanted & set(self._open):
            for one in list(self._open.values()):
                self._look(one)
            if wanted & set(self._open):
                self._tell()
                time.sleep(AGAIN_SECONDS)

    def _tell(self) -> None:
        """A line for each open service, every few seconds."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            for name, one in self._open.items():
                self._say(f"{name}: not healthy yet ({one.why.splitlines()[-1][:160]})")

    def _look(self, one: _Open) -> None:
        """Ask a service if it is time to; a healthy one is waited for no longer. Raises ServerError."""
        name, log = one.service.name, f"its log, {one.daemon.output}, ends with:\n"
        if one.daemon.pid() is None:
            raise ServerError(f"{name} ended; {log}{one.daemon.tail()}")
        began = time.monotonic()
        if began < one.again:
            return
        why, now = self.check(one.service), time.monotonic()
        if why is None:
            self._say(f"{name}: healthy after {now - one.since:.1f} s (pid {one.daemon.pid()})")
            del self._open[name]
            return
        one.why, one.again = why, now + REST * (now - began)
        assert one.service.health is not None
        if now - one.since > one.service.health.patience:
            raise ServerError(f"{name} is not healthy after {now - one.since:.0f} s ({why}); {log}{one.daemon.tail()}")

    def check(self, service: Service) -> str | None:
        """Run a health check once: None if it passes, else what it says."""
        assert service.health is not None
        try:
            done = subprocess.run(
                programs.check(service, self._places),
                env=programs.environment(service, self._places),
                cwd=self._home,
                capture_output=True,
                text=True,
                timeout=service.health.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {service.health.timeout:g} s"
        said = (done.stderr or done.stdout).strip() or f"its check ended with status {done.returncode}"
        return None if done.returncode == 0 else said
