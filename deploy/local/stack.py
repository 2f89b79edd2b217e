"""The stack of docker-compose.yml without containers: `make stack`, `make stop`.

    python -m deploy.local.stack up|stop|status [--data DIR] [--port FIRST]

`up` starts what does not run yet, each service once those that it needs are healthy, on 127.0.0.1 and on ports of its
own; `stop` ends what `up` started, nothing else. Data stay in DIR. What stands for what: `programs.py`; addresses and
paths: `places.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.local import ports, programs
from deploy.local.compose import ComposeError, Service, read
from deploy.local.daemons import Daemon, all_of
from deploy.local.health import Waiting
from deploy.local.places import LOOPBACK, Places
from deploy.local.servers import ServerError

ROOT = Path(__file__).resolve().parent.parent.parent
PROFILE = "minimal"
VARIABLES = ("BASE_MODEL",)
"""Of docker-compose.yml's variables those that mean something without containers, too."""
ONCE_SECONDS = 120.0
LEFT = "what was started goes on: `make stop` ends it"


def say(text: str) -> None:
    """One line of progress."""
    print(f"[stack] {text}", file=sys.stderr, flush=True)


class Stack:
    """The services of one file in one data directory."""

    def __init__(self, file: Path, data: Path, first_port: int) -> None:
        """first_port: of the ports that are counted up from it; 0: any that are free. Raises ComposeError."""
        self.data = data
        given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        self.services = read(file, given | {"REPL_ADMIN_KEY": self._key()}, PROFILE)
        self._port_file = data / "ports.json"
        self.ports = ports.chosen(self._port_file, self.services.values(), first_port)
        self.places = Places(ROOT, data / "volumes", self.ports)
        self.waiting = Waiting(self.places, data, say)

    def _key(self) -> str:
        """The administrator's key: of the environment, else one that is made for this directory."""
        if given := os.environ.get("REPL_ADMIN_KEY"):
            return given
        file = self.data / "admin.key"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        return file.read_text(encoding="ascii").strip()

    def daemon(self, name: str) -> Daemon:
        """The process of a service."""
        return Daemon(name, self.data / "run" / f"{name}.json", self.data / "logs" / f"{name}.log")

    def up(self) -> None:
        """Start what does not run; return when everything is healthy. Raises ServerError with the log's end."""
        left_out = self._left_out()
        (self.data / "logs").mkdir(exist_ok=True)
        for service in self.services.values():
            if service.name in left_out:
                say(f"{service.name}: left out, no program for it here ({left_out[service.name]})")
                continue
            self.waiting.until(service.needs)
            if service.once:
                self._run_once(service)
            else:
                self._start(service)
                self.waiting.add(service, self.daemon(service.name))
        self.waiting.until()

    def _left_out(self) -> dict[str, str]:
        """Services that nothing here can run and that no other needs → what to install. Raises ServerError."""
        needed = {need for service in self.services.values() for need in service.needs}
        lacking = {name: programs.missing(service) for name, service in self.services.items()}
        for name in needed:
            if lacking[name] is not None:
                raise ServerError(f"{name} needs: apt-get install -y {lacking[name]}")
        return {name: f"apt-get install -y {what}" for name, what in lacking.items() if what is not None}

    def _home(self, service: Service) -> Path:
        """The service's directory; it and its volumes are made where they are missing."""
        for volume in self.places.volumes(service):
            volume.mkdir(parents=True, exist_ok=True)
        home = self.data / "services" / service.name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _start(self, service: Service) -> None:
        """Start a service unless it runs. Raises ServerError."""
        daemon, home = self.daemon(service.name), self._home(service)
        pid = daemon.pid()
        if pid is None:
            ports.require_free(service.name, self.ports, self._port_file)
        command = programs.command(service, self.places, home)
        definition = json.dumps([command, self.places.environment(service)], sort_keys=True)
        digest = hashlib.sha256(definition.encode()).hexdigest()
        if pid is None:
            daemon.start(command, programs.environment(service, self.places), home, digest, service.grace)
            return
        changed = "" if daemon.digest() == digest else "; its definition has changed since: make stop, then make stack"
        say(f"{service.name}: runs already (pid {pid}){changed}")

    def _run_once(self, service: Service) -> None:
        """Run a service to its end. Raises ServerError."""
        daemon, home = self.daemon(service.name), self._home(service)
        with daemon.output.open("wb") as out:
            done = subprocess.run(
                programs.command(service, self.places, home),
                cwd=home,
                env=programs.environment(service, self.places) | {"REPL_DATA_DIR": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=ONCE_SECONDS,
                check=False,
            )
        if done.returncode:
            end = f"its log, {daemon.output}, ends with:\n{daemon.tail()}"
            raise ServerError(f"{service.name} ended with status {done.returncode}; {end}")
        say(f"{service.name}: done")

    def lines(self) -> Iterator[str]:
        """A line for each service: whether it runs, and where it is reached."""
        for name, service in self.services.items():
            if not service.once:
                pid = self.daemon(name).pid()
                where = [_url(service, port, here) for port, here in self.ports.get(name, {}).items()]
                if programs.kind(service) == programs.KAFKA:
                    where = where[:1]  # the one for clients; the others are the broker's own
                yield f"{name:<10} {f'pid {pid}' if pid else 'down':<13} {', '.join(where) or 'no port'}"


def _url(service: Service, port: int, here: int) -> str:
    address = f"{LOOPBACK}:{here}"
    path = "/metrics" if port == 8404 else "/"
    return {"redis": f"redis://{address}/0", programs.KAFKA: address}.get(
        programs.kind(service), f"http://{address}{path}"
    )


def stop(data: Path) -> None:
    """End what was started in this directory, the last one first, whatever docker-compose.yml says by now."""
    ended = {daemon.name: how for daemon in all_of(data / "run", data / "logs") if (how := daemon.stop())}
    for name, how in ended.items():
        say(f"{name}: {how}")
    if not ended:
        say("nothing runs")


@contextlib.contextmanager
def alone(data: Path) -> Iterator[None]:
    """One `up` or `stop` at a time in a directory; the others wait."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "stack.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(what: str, file: Path, data: Path, port: int) -> None:
    """One of the three commands. Raises ServerError, ComposeError."""
    with alone(data):
        if what == "stop":
            stop(data)
            return
        stack = Stack(file, data, port)
        if what == "up":
            stack.up()
        print("\n".join(stack.lines()), flush=True)


def main() -> None:
    """The command of `make stack` and `make stop`."""
    options = argparse.ArgumentParser(description="The stack of docker-compose.yml without containers")
    options.add_argument("what", choices=["up", "stop", "status"])
    options.add_argument("--data", type=Path, default=ROOT / "data" / "stack", help="where everything of it lies")
    options.add_argument("--port", type=int, default=8180, help="first of its ports; 0: any free ones")
    options.add_argument("--file", type=Path, default=ROOT / "docker-compose.yml", help="the definition")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(given.what, given.file, given.data.resolve(), given.port)
    except (ServerError, ComposeError) as error:
        say(str(error))
        if given.what == "up":
            say(LEFT)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say(f"interrupted; {LEFT}")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
