"""Waits for services by the health checks that docker-compose.yml gives them, and says how far they are."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path

from deploy.local import programs
from deploy.local.compose import Service
from deploy.local.daemons import Daemon
from deploy.local.places import Places
from deploy.local.servers import ServerError

TELL_SECONDS = 5.0
AGAIN_SECONDS = 0.2


class Waiting:
    """The services that were started and are not known to be healthy yet."""

    def __init__(self, places: Places, home: Path, say: Callable[[str], None]) -> None:
        self._places, self._home, self._say = places, home, say
        self._since: dict[str, tuple[float, Service, Daemon]] = {}
        self._told = time.monotonic()

    def add(self, service: Service, daemon: Daemon) -> None:
        """Wait for this one, too, from now on."""
        self._since[service.name] = (time.monotonic(), service, daemon)

    def until(self, names: Collection[str] | None = None) -> None:
        """Return once these (None: all) are healthy. Raises ServerError, with the log's end, for one that ended or had
        its time.
        """
        wanted = set(self._since if names is None else names)
        while wanted & set(self._since):
            reasons = {name: why for name in list(self._since) if (why := self._look(name))}
            if reasons and time.monotonic() - self._told > TELL_SECONDS:
                self._told = time.monotonic()
                for name, why in reasons.items():
                    self._say(f"{name}: not healthy yet ({why.splitlines()[-1][:160]})")
            if wanted & set(self._since):
                time.sleep(AGAIN_SECONDS)

    def _look(self, name: str) -> str | None:
        """Why it is not healthy; None: it is, and is waited for no longer."""
        since, service, daemon = self._since[name]
        if daemon.pid() is None:
            raise ServerError(f"{name} ended; its log, {daemon.output}, ends with:\n{daemon.tail()}")
        why, seconds = self.check(service), time.monotonic() - since
        if why is None:
            self._say(f"{name}: healthy after {seconds:.1f} s (pid {daemon.pid()})")
            del self._since[name]
            return None
        assert service.health is not None
        if seconds > service.health.patience:
            log = f"its log, {daemon.output}, ends with:\n{daemon.tail()}"
            raise ServerError(f"{name} is not healthy after {seconds:.0f} s ({why}); {log}")
        return why

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
