"""A forked child process: started, looked at without waiting, and when it may be started again. It watches nothing.

The parent has imported what its children need, and runs no thread: what is not written is in memory once, and a child
is at work at once. A child has a session of its own, so that a Ctrl-C reaches it through its parent only, and ends when
its parent is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from features.errors import InvalidInput, ReplError, SettingsError
from service.console import note
from service.processes import end_with_parent

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds before a child is started again; doubled each time it did not live STEADY_SECONDS."""

STEADY_SECONDS = 30.0


class Child:
    """One child: its process, and when it may be started again."""

    def __init__(self, longest_pause: float = LONGEST_PAUSE) -> None:
        self.pid = 0
        self.started = self.due = 0.0
        self.pause = FIRST_PAUSE
        self._longest = longest_pause

    def fork(self, work: Callable[[], int]) -> None:
        """Start it: it calls `work` and ends with the exit status that this returns, or with the one of an error."""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _be(work, parent)
        self.started = time.monotonic()

    def ended(self) -> int | None:
        """Its exit status (negative: the signal) where it has ended since the last look; `due` says when it may be
        started again."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.pid = 0
        steady = time.monotonic() - self.started > STEADY_SECONDS
        self.pause = FIRST_PAUSE if steady else min(self._longest, 2 * self.pause)
        self.due = time.monotonic() + self.pause
        return os.waitstatus_to_exitcode(status)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.pid:
            os.kill(self.pid, number)


C = TypeVar("C", bound=Child)


def _be(work: Callable[[], int], parent: int) -> NoReturn:
    """The child, in its own process, to its end. Errors are said as the command line says them."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        end_with_parent()
        if os.getppid() != parent:  # it was gone before the line above
            os._exit(1)
        status = work()
    except ReplError as error:
        note(f"repl-ranker: {error}")
        status = status_of(error)
    except BaseException:
        log.exception("a process ended")
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)


def status_of(error: ReplError) -> int:
    """The exit status of the command line after this error."""
    return 2 if isinstance(error, InvalidInput) else 1


def one_thread_each() -> None:
    """Before numpy is imported: its library computes with one thread, so that none is lost by a fork."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def ready_to_fork() -> None:
    """After the imports: what they left is given back and kept out of the children's garbage collections."""
    from service.memory import give_back

    give_back()
    running = len(list(Path("/proc/self/task").iterdir()))
    if running > 1:
        log.warning("a library runs threads: children are forked without them", extra={"threads": running})


def require_linux(setting: str, value: object, hint: str) -> None:
    """Raise SettingsError where children would outlive their parent."""
    if sys.platform != "linux":
        raise SettingsError("several processes under one need Linux", field=setting, value=value, hint=hint)


def end_all(children: Sequence[C], seconds: float) -> list[C]:
    """SIGTERM to all; SIGKILL to those, which are returned, that are still there after so many seconds."""
    for child in children:
        child.signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    killed = []
    for child in children:
        while child.pid and child.ended() is None and time.monotonic() < until:
            time.sleep(0.02)
        if child.pid:
            killed.append(child)
            child.signal(signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.pid = 0
    return killed
