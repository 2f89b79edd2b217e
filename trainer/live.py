"""The live loop of the trainer: whose turn it is, what it opens, and what it does when log or store do not answer.

What a tick does stands in `online.py`.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
from contextlib import closing
from functools import partial

from features.errors import Fenced, LogError, OffsetLost, StoreError
from features.event_log import open_log, system_clock
from service.settings import Settings
from service.weight_keeping import Keeping
from service.weight_store import open_weight_store
from trainer.bases import base_by_sha, current_base, fetch_base
from trainer.online import OnlineTrainer
from trainer.turn import turn

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5


def run(
    settings: Settings, stop: threading.Event, *, standby: bool = False, resume_at: str | None = None
) -> None:
    """The live loop: until `stop`; a standby first waits for its turn; resume_at: see `OnlineTrainer.start`.

    Raises Fenced, ArtifactError, LogError, StoreError with what to do."""
    with turn(settings, stop, standby=standby) as ours:
        if ours:
            _train(settings, stop, resume_at)


def run_until_told(settings: Settings, *, standby: bool = False, resume_at: str | None = None) -> None:
    """`run` in this process's main thread, until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop, standby=standby, resume_at=resume_at)


def _train(settings: Settings, stop: threading.Event, resume_at: str | None) -> None:
    with closing(open_log(settings)) as event_log:
        fsync, keeping = settings.durable == "fsync", Keeping.of(settings)
        store = open_weight_store(settings, fsync=fsync, keeping=keeping, writer=True)
        with closing(store):
            trainer = OnlineTrainer(
                event_log, store, current_base(settings), settings,
                base_of=lambda sha256: base_by_sha(settings, sha256),
                fetch=partial(fetch_base, settings),
            )  # fmt: skip
            trainer.start(resume_at)
            gc.freeze()
            gc.set_threshold(100_000, 20, 100)  # cuts hold many small objects and no cycles
            _follow(trainer, settings, stop)


def _follow(trainer: OnlineTrainer, settings: Settings, stop: threading.Event) -> None:
    """Tick until `stop`. A log or store that fails in the middle of a cut leaves nothing half done: what is in
    memory is thrown away, and the newest checkpoint and the recorded cuts are taken up again."""
    sound = True
    while not stop.is_set():
        began = system_clock()
        try:
            if not sound:
                trainer.start()
                sound = True
            trainer.tick()
        except (Fenced, OffsetLost):
            raise
        except (LogError, StoreError) as error:
            log.error("log or store does not answer; starting anew", extra={"reason": error.message})
            sound = False
            stop.wait(RETRY_SECONDS)
            continue
        if trainer.caught_up:
            stop.wait(max(0, settings.publish_every_ms - (system_clock() - began)) / 1_000)
