"""The service: settings, log, stores, and what is loaded (`running.py`). It knows no HTTP.

`start` loads everything in a thread, so that `/health/live` answers at once; until it is done `ready_reasons` says
what is missing and ranking raises NotReady.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from features.errors import NotReady, ReplError
from features.event_log import EventLog, open_log
from features.realtime import RealtimeConfig
from service import logs
from service.auth import Auth, open_auth
from service.drain import Drain
from service.engine import has_base, load_engine
from service.intake import Intake
from service.limits import Limits
from service.metrics import Metrics
from service.objectives import Objectives
from service.running import Running
from service.settings import Settings, require_beside
from service.warm_up import warm_up
from service.weight_store import WeightStore, open_weight_store
from service.worker import Worker

log = logging.getLogger(__name__)

NO_BASE = "there is no base model: candidates are answered in the order they came; train one and start anew"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Service:
    """One ranker process. `start`, then `running` once `ready_reasons()` is empty, then `stop`."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], int] = now_ms,
        realtime: RealtimeConfig | None = None,
        shared: tuple[Auth, Drain] | None = None,
        worker: Worker | None = None,
    ) -> None:
        """Open log and weight store; raises LogError, StoreError, SettingsError.

        shared: what the tenants of one process have in common (service/tenants.py), whose owner starts and stops it;
        worker: the one of several on this machine that this is.
        """
        if settings.user_states == "beside":
            require_beside(settings)
        self.settings = settings
        self.worker = worker
        self.clock = clock
        self.metrics = Metrics()
        self.objectives = Objectives(settings.objectives, settings.objective)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._alone = shared is None
        self.auth, self.drain = shared or (open_auth(settings), Drain(settings.drain_seconds))
        self.limits = Limits(settings, self.metrics, shared=None if worker is None else worker.rates)
        self.log: EventLog = open_log(settings, clock)
        self.store: WeightStore = open_weight_store(settings, fsync=settings.durable == "fsync")
        self.intake = Intake(self.log, settings, clock, self.metrics, self._events_taken)
        self._realtime = realtime
        self._running: Running | None = None
        self._reasons = ["the service is starting"]
        self.without_base = False
        self._failure: ReplError | None = None
        self._loaded = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> Running:
        """The loaded parts; raises NotReady before."""
        if self._running is None or self._reasons:
            why = self._failure.message if self._failure else self._reasons[0]
            raise NotReady(why, hint="wait until /health/ready answers 200")
        return self._running

    def _events_taken(self) -> None:
        """Something was appended by this process: user state is read at once."""
        if self._running is not None:
            self._running.consumer.wake()

    def ready_reasons(self) -> list[str]:
        """What is missing until requests can be answered; empty when ready."""
        return list(self._reasons)

    def start(self, ready: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> None:
        """Load in a thread of its own; `ready` is called once requests can be answered, then `after`."""
        if self._alone:
            self.auth.start()
        self._thread = threading.Thread(target=self._load, args=(ready, after), name="loading", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether loading ended with an error."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raise what loading raised, if anything."""
        if self._failure is not None:
            raise self._failure

    def wait_loaded(self) -> None:
        """Wait until loading has ended, well or not."""
        self._loaded.wait()

    def wait(self, seconds: float) -> None:
        """Wait until loaded. Raises what loading raised, NotReady after `seconds`."""
        if not self._loaded.wait(seconds):
            raise NotReady(f"not ready after {seconds:g} s", hint="look into the log")
        self.raise_failure()

    def _load(self, ready: Callable[[], None] | None, after: Callable[[], None] | None) -> None:
        began = time.perf_counter()
        if not self._alone:
            logs.TENANT.set(self.settings.tenant)
        if not has_base(self.settings):
            self.without_base = True
            self._reasons = [NO_BASE]
            log.warning(NO_BASE)
            self._loaded.set()
            if ready is not None:
                ready()
            return
        try:
            running = Running(self, load_engine(self.settings, self.clock, realtime=self._realtime, worker=self.worker))
            running.start()
            self._running = running
            warm_up(running.bases.live, self.objectives, self.clock())
        except ReplError as error:
            log.error("the service cannot start", extra={"reason": str(error)})
            self._fail(error)
            return
        except Exception as error:  # a thread's exception would be lost: the process has to end with it
            log.exception("the service cannot start")
            self._fail(NotReady(f"loading failed: {error!r}", hint="the log has the traceback"))
            return
        self._reasons = []
        seconds = round(time.perf_counter() - began, 3)
        log.info("ready", extra={"seconds": seconds, "items": len(running.engine.catalogue)})
        self._loaded.set()
        for call in (ready, after):
            if call is not None:
                call()

    def _fail(self, error: ReplError) -> None:
        self._failure = error
        self._reasons = [error.message]
        self._loaded.set()

    def stop(self) -> None:
        """End all threads, write what waits, close log and stores."""
        if self._alone:
            self.auth.stop()
        if self._thread is not None:
            self._thread.join(60.0)
        running, self._running = self._running, None
        if running is not None:
            running.stop()
        self.log.close()
        self.store.close()
