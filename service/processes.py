"""Two or more processes kept as one: started together, watched, ended together. It restarts nothing.

Only what was started here is ever signalled. Each child writes to its own log file; when one ends by
itself, the others are ended and its last lines are shown.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from features.errors import NotReady, ReplError, SettingsError

_PR_SET_PDEATHSIG = 1  # Linux: the kernel sends this signal to a child whose parent is gone


def end_with_parent() -> None:
    """In a child: SIGTERM when the parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """A group of child processes. Use as a context manager: leaving it ends all that still run."""

    def __init__(self, log_dir: Path | None) -> None:
        """log_dir: where `<name>.log` is written; None lets children write to this terminal."""
        self._log_dir = log_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def __enter__(self) -> Processes:
        self._before = {
            number: signal.signal(number, self._stop)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child in a session of its own, so that a Ctrl-C reaches it through this process only."""
        out = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            out = (self._log_dir / f"{name}.log").open("wb")
        try:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if out else None,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        finally:
            if out is not None:
                out.close()

    def wait_until(self, ready: Callable[[], bool], seconds: float, otherwise: str | None = None) -> bool:
        """True once `ready()`; False when asked to stop or when time runs out, then NotReady if `otherwise`
        is given.

        Raises ReplError as soon as a child ends by itself.
        """
        deadline = time.monotonic() + seconds
        while not self._stopping:
            self._check()
            if ready():
                return True
            if time.monotonic() > deadline:
                if otherwise is not None:
                    raise NotReady(f"{otherwise} after {seconds:.0f} s", hint=self._where())
                return False
            time.sleep(0.1)
        return False

    def watch(self) -> None:
        """Return when asked to stop (Ctrl-C, SIGTERM); raise ReplError as soon as a child ends by itself."""
        while not self._stopping:
            self._check()
            time.sleep(0.2)

    def end(self, grace: float = 10.0) -> None:
        """Ask every child to end (SIGTERM), wait `grace` seconds, then kill what is left."""
        running = {name: child for name, child in self._children.items() if child.poll() is None}
        for child in running.values():
            child.terminate()
        deadline = time.monotonic() + grace
        for name, child in running.items():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"the {name} did not end within {grace:.0f} s and was killed", file=sys.stderr)
                child.kill()
                child.wait()

    def pids(self) -> dict[str, int]:
        """The process id of every child, by name."""
        return {name: child.pid for name, child in self._children.items()}

    def _check(self) -> None:
        for name, child in self._children.items():
            status = child.poll()
            if status is not None and not self._stopping:
                raise ReplError(f"the {name} ended by itself ({why_ended(status)})", hint=self._tail(name))

    def _tail(self, name: str, lines: int = 12) -> str:
        if self._log_dir is None:
            return self._where()
        path = self._log_dir / f"{name}.log"
        last = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]
        return f"Its log, {path}, ends with:\n" + "\n".join(f"    {line}" for line in last or ["(nothing)"])

    def _where(self) -> str:
        return f"logs: {self._log_dir}" if self._log_dir else "see its messages above"


def why_ended(status: int) -> str:
    """An exit status (negative: the signal) in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def this_process() -> str:
    """HOST:PID, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises SettingsError, with the remedy, when it cannot be listened
    on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            what = "is taken by another program" if taken else f"cannot be used: {error.strerror}"
            hint = f"choose another: make run PORT={port + 1}, or repl-ranker run --port {port + 1}"
            raise SettingsError(
                f"port {port} on {host} {what}", field="port", value=port, hint=hint
            ) from error
        found: int = probe.getsockname()[1]
        return found
