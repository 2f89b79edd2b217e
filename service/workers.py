"""Several workers on one port: starts them, starts again what ends by itself, ends them together. It answers nothing.

The socket is one: each worker accepts from it once it is ready, so that a worker that is gone or starting takes no
request with it. Worker 0 is started first, because the others read its tables.

Workers are forked from this process, which has imported what they need and runs no thread: what is not written is in
memory once. It loads no model, no table and no setting that a worker does not load anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from features.errors import InvalidInput, ReplError, SettingsError
from service.console import note
from service.listener import bind
from service.logs import set_up
from service.processes import _end_with_parent, _why
from service.settings import Settings
from service.shared_place import ANNOUNCED, folder_of
from service.worker import Worker, this_worker

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds before a worker is started again; doubled each time it did not live STEADY_SECONDS."""

STEADY_SECONDS = 30.0
GRACE_SECONDS = 20.0
_TICK = 0.2


class Slot:
    """One worker: its process, and when it may be started again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.pipe = -1
        self.ready = self.was_ready = False
        self.started = self.due = 0.0
        self.pause = FIRST_PAUSE

    def start(self, settings: Settings, listener: socket.socket, metrics: Path) -> None:
        """Fork a worker."""
        self.pipe, told = os.pipe()
        worker = Worker(self.number, listener.fileno(), told, early=self.number == 0 and not self.was_ready)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            _be(worker, settings, metrics, parent)
        os.close(told)
        self.ready, self.started = False, time.monotonic()

    def look(self) -> bool:
        """Whether it became ready just now."""
        if self.ready or self.pipe < 0 or not select.select([self.pipe], [], [], 0)[0]:
            return False
        self.ready = os.read(self.pipe, 1) == b"r"
        self.was_ready |= self.ready
        if not self.ready:  # closed: it is about to end
            self.drop_pipe()
        return self.ready

    def drop_pipe(self) -> None:
        """Close what it tells its readiness through."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def ended(self) -> int | None:
        """Its exit status (negative: the signal) where it has ended since the last look."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.pid, self.ready = 0, False
        self.drop_pipe()
        lived = time.monotonic() - self.started
        self.pause = FIRST_PAUSE if lived > STEADY_SECONDS else min(LONGEST_PAUSE, 2 * self.pause)
        self.due = time.monotonic() + self.pause
        return os.waitstatus_to_exitcode(status)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.pid:
            os.kill(self.pid, number)


def _be(worker: Worker, settings: Settings, metrics: Path, parent: int) -> NoReturn:
    """A worker, in its own process, to its end. Errors are said as the command line says them."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _end_with_parent()
        if os.getppid() != parent:  # it was gone before the line above
            os._exit(1)
        os.environ.update(worker.to_environment(metrics))
        from service.app import serve

        serve(settings)
        status = 0
    except ReplError as error:
        note(f"repl-ranker: {error}")
        status = 2 if isinstance(error, InvalidInput) else 1
    except BaseException:
        log.exception("a worker ended")
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)


def prepare() -> None:
    """Import what workers need, once for all of them, and keep it out of their garbage collections."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # as many processes as cores answer: a library's own threads are in the way
    import service.app
    from features import hash_window_kernels, key_kernels, user_state_kernels
    from service.memory import few_heaps, give_back

    few_heaps()
    assert service.app
    for kernels in (key_kernels, hash_window_kernels, user_state_kernels):
        kernels.warm()  # what loads a kernel is 25 MB, once loaded
    give_back()
    running = len(list(Path("/proc/self/task").iterdir()))
    if running > 1:
        log.warning("a library runs threads: workers are forked without them", extra={"threads": running})


class Workers:
    """The workers of one service, until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, listener: socket.socket, ready: Callable[[], None] | None) -> None:
        self._settings, self._listener, self._ready = settings, listener, ready
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._metrics = folder_of(settings.data_dir) / "metrics"
        self._stopping = False

    def run(self) -> int:
        """Watch until told to stop: 0; the exit status of worker 0 where it never became ready."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        prepare()
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir(parents=True)
        (folder_of(self._settings.data_dir) / ANNOUNCED).unlink(missing_ok=True)
        try:
            while not self._stopping:
                status = self._look()
                if status is not None:
                    return status
                time.sleep(_TICK)
            return 0
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _look(self) -> int | None:
        """Start what is due, note what ended; a status where there is no point in going on."""
        leader = self._slots[0]
        for slot in self._slots:
            if slot.look() and all(one.ready for one in self._slots) and self._ready is not None:
                self._ready()
                self._ready = None
            status = slot.ended()
            if status is not None:
                self._forget(slot)
                if slot is leader and not slot.was_ready:
                    return status or 1
                log.error(
                    "a worker ended by itself and is started again",
                    extra={"worker": slot.number, "why": _why(status), "in_seconds": slot.pause},
                )
            if not slot.pid and time.monotonic() >= slot.due and (slot is leader or leader.was_ready):
                slot.start(self._settings, self._listener, self._metrics)
        return None

    def _forget(self, slot: Slot) -> None:
        """What a dead worker had waiting counts no more; what it counted does."""
        for path in self._metrics.glob(f"gauge_live*_{slot.number}.db"):
            path.unlink(missing_ok=True)

    def _end(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after GRACE_SECONDS."""
        for slot in self._slots:
            slot.signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for slot in self._slots:
            while slot.pid and slot.ended() is None and time.monotonic() < until:
                time.sleep(0.02)
            if slot.pid:
                log.error("a worker did not end and was killed", extra={"worker": slot.number})
                slot.signal(signal.SIGKILL)
                os.waitpid(slot.pid, 0)


def supervised(settings: Settings, ready: Callable[[], None] | None = None) -> bool:
    """Run `settings.workers` workers until told to stop; False, at once, where this process is to answer by itself.

    Raises SettingsError; SystemExit with the status of a worker 0 that could not start.
    """
    if settings.workers == 1 or this_worker() is not None:
        return False
    if sys.platform != "linux":
        raise SettingsError("several workers need Linux", field="workers", value=settings.workers, hint="set it to 1")
    set_up(settings.log_level)
    if settings.tenants:
        raise SettingsError(
            "several tenants are served by one worker", field="workers", value=settings.workers,
            hint="set workers to 1, or start a ranker for each tenant (serve with REPL_TENANT)",
        )  # fmt: skip
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        status = Workers(settings, listener, ready).run()
    if status:
        raise SystemExit(status)
    return True
