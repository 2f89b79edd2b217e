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
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from features.errors import SettingsError
from service.buckets import shared_memory
from service.child import Child, end_all, one_thread_each, ready_to_fork, require_linux
from service.listener import bind
from service.logs import set_up
from service.processes import why_ended
from service.settings import Settings
from service.shared_place import ANNOUNCED, folder_of
from service.worker import Worker, this_worker

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
_TICK = 0.2


class Slot(Child):
    """One worker."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.pipe = -1
        self.ready = self.was_ready = False

    def start(self, settings: Settings, listener: socket.socket, rates: int, metrics: Path) -> None:
        """Fork a worker."""
        pipe, told = os.pipe()
        worker = Worker(self.number, listener.fileno(), told, rates, early=self.number == 0 and not self.was_ready)

        def work() -> int:
            os.close(pipe)
            os.environ.update(worker.to_environment(metrics))
            from service.app import serve

            serve(settings)
            return 0

        self.fork(work)
        os.close(told)
        self.pipe, self.ready = pipe, False

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
        """As of any child; what it told is forgotten."""
        status = super().ended()
        if status is not None:
            self.ready = False
            self.drop_pipe()
        return status


def prepare() -> None:
    """Import what workers need, once for all of them."""
    one_thread_each()  # as many processes as cores answer: a library's own threads are in the way
    import service.app
    from features import event_log_kafka_kernels, hash_window_kernels, key_kernels, user_state_kernels
    from service.memory import few_heaps

    few_heaps()
    assert service.app
    for kernels in (key_kernels, hash_window_kernels, user_state_kernels, event_log_kafka_kernels):
        kernels.warm()  # what loads a kernel is 25 MB, once loaded
    ready_to_fork()


class Workers:
    """The workers of one service, until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, listener: socket.socket, ready: Callable[[], None] | None) -> None:
        self._settings, self._listener, self._ready = settings, listener, ready
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._rates = shared_memory()
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
                    extra={"worker": slot.number, "why": why_ended(status), "in_seconds": slot.pause},
                )
            if not slot.pid and time.monotonic() >= slot.due and (slot is leader or leader.was_ready):
                slot.start(self._settings, self._listener, self._rates, self._metrics)
        return None

    def _forget(self, slot: Slot) -> None:
        """What a dead worker had waiting counts no more; what it counted does."""
        for path in self._metrics.glob(f"gauge_live*_{slot.number}.db"):
            path.unlink(missing_ok=True)

    def _end(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after GRACE_SECONDS."""
        for slot in end_all(self._slots, GRACE_SECONDS):
            log.error("a worker did not end and was killed", extra={"worker": slot.number})


def supervised(settings: Settings, ready: Callable[[], None] | None = None) -> bool:
    """Run `settings.workers` workers until told to stop; False, at once, where this process is to answer by itself.

    Raises SettingsError; SystemExit with the status of a worker 0 that could not start.
    """
    if settings.workers == 1 or this_worker() is not None:
        return False
    require_linux("workers", settings.workers, "set it to 1")
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
