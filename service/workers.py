"""Several workers on one port: starts them, starts again what ends by itself, ends them together. It answers nothing.

The socket is one: each worker accepts from it once it is ready, so that a worker that is gone or starting takes no
request with it. Worker 0 is started first, because the others read its tables.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from features.errors import SettingsError
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
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe = -1
        self.ready = self.was_ready = False
        self.started = self.due = 0.0
        self.pause = FIRST_PAUSE

    def start(self, listener: socket.socket, metrics: Path) -> None:
        """Start the same command line as this process's, as a worker."""
        self.pipe, told = os.pipe()
        worker = Worker(self.number, listener.fileno(), told, early=self.number == 0 and not self.was_ready)
        try:
            self.process = subprocess.Popen(
                sys.orig_argv,
                executable=sys.executable,
                stdin=subprocess.DEVNULL,
                env=os.environ | worker.to_environment(metrics),
                pass_fds=(listener.fileno(), told),
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        finally:
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
        """Its exit status where it has ended since the last look."""
        status = None if self.process is None else self.process.poll()
        if status is not None:
            self.process, self.ready = None, False
            self.drop_pipe()
            lived = time.monotonic() - self.started
            self.pause = FIRST_PAUSE if lived > STEADY_SECONDS else min(LONGEST_PAUSE, 2 * self.pause)
            self.due = time.monotonic() + self.pause
        return status


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
            if slot.process is None and time.monotonic() >= slot.due and (slot is leader or leader.was_ready):
                slot.start(self._listener, self._metrics)
        return None

    def _forget(self, slot: Slot) -> None:
        """What a dead worker had waiting counts no more; what it counted does."""
        for path in self._metrics.glob(f"gauge_live*_{slot.number}.db"):
            path.unlink(missing_ok=True)

    def _end(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after GRACE_SECONDS. The writer ends last: others read its tables."""
        running = [slot for slot in reversed(self._slots) if slot.process is not None]
        for slot in running:
            with contextlib.suppress(OSError):
                slot.process.terminate()  # type: ignore[union-attr]
        until = time.monotonic() + GRACE_SECONDS
        for slot in running:
            assert slot.process is not None
            try:
                slot.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("a worker did not end and was killed", extra={"worker": slot.number})
                slot.process.kill()
                slot.process.wait()
            slot.drop_pipe()


def supervised(settings: Settings, ready: Callable[[], None] | None = None) -> bool:
    """Run `settings.workers` workers until told to stop; False, at once, where this process is to answer by itself.

    Raises SettingsError; SystemExit with the status of a worker 0 that could not start.
    """
    if settings.workers == 1 or this_worker() is not None:
        return False
    if sys.platform != "linux":
        raise SettingsError("several workers need Linux", field="workers", value=settings.workers, hint="set it to 1")
    set_up(settings.log_level)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        status = Workers(settings, listener, ready).run()
    if status:
        raise SystemExit(status)
    return True
