"""The running service: settings, log, stores, engine and the threads that keep it up to date. It knows no HTTP.

`start` loads everything in a thread, so that `/health/live` answers at once; until it is done `ready_reasons` says
what is missing and ranking raises NotReady.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from features.errors import LogError, NotReady, ReplError
from features.event_log import EventLog, open_log
from features.realtime import RealtimeConfig
from features.records import partitions_in
from service import logs
from service.arm_weights import ArmWeights
from service.auth import Auth, open_auth
from service.background import Background
from service.base_loader import BaseLoader, FollowedLoader, Loader
from service.bases import AnyRanker, AnyRetriever, Bases, LoadedBase
from service.drain import Drain
from service.encoders import ChangedRows, Encoders
from service.engine import Engine, close_engine, has_base, load_engine
from service.event_applying import STREAM, ids_seen
from service.experiments import Experiments
from service.following import FollowedEncoder, FollowedReplica
from service.impressions import Impressions
from service.intake import Intake
from service.item_encoder import ItemEncoder
from service.janitor import Janitor
from service.limits import Limits
from service.local_copy import Copier, LocalCopy
from service.metrics import Metrics
from service.objectives import Objectives
from service.progress import Progress
from service.ranker import Ranker
from service.replica import REALTIME, Replica
from service.retriever import Retriever
from service.settings import Settings, require_beside
from service.shared_tables import Publisher
from service.states_beside import BesideUserStates, StatesWatch
from service.status import Freshness
from service.timed_store import timed
from service.title_index import TitleIndexer
from service.user_state_consumer import UserStateConsumer
from service.warm_up import warm_up
from service.weight_store import WeightStore, open_weight_store
from service.worker import Worker

log = logging.getLogger(__name__)

NO_BASE = "there is no base model: candidates are answered in the order they came; train one and start anew"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Running:
    """What exists once the engine is loaded."""

    def __init__(self, service: Service, engine: Engine) -> None:
        settings, metrics, clock = service.settings, service.metrics, service.clock
        self._log = service.log
        self._service = service
        engine.users.store = timed(engine.users.store, metrics.store_seconds)
        self._follows = service.worker is not None and not service.worker.leads
        self._changes = ChangedRows(engine.catalogue)
        home = None if self._follows else self._encoder(engine)
        self._encoders = None if home is None else Encoders(home, engine.lock)
        self.watch = self._watch(engine)
        self.consumer = UserStateConsumer(
            service.log,
            engine.schema,
            engine.users if self.watch is None else None,
            engine.catalogue,
            engine.catalogue_store,
            self._encoders,
            engine.offsets,
            engine.lock,
            metrics,
            clock,
            ids_seen(service.log, settings) if self.watch is None else None,
            told=self.watch,
        )
        self.read: Progress = (self.watch or self.consumer).progress
        """How far the log's events are in the user states that are served."""
        self.experiments = Experiments(settings.experiments)
        self.arms = ArmWeights(self.experiments.versions, clock)
        self.impressions = Impressions(service.log, settings.served_queue, metrics)
        self.janitor = Janitor(
            service.log,
            service.store,
            lambda: self.consumer.progress.positions,
            metrics,
            clock,
            tidies=not self._follows,
        )
        self.titles = TitleIndexer(engine.catalogue, engine.lock)
        self.bases = Bases()
        self.replica = self._replica(service, engine)
        self.encoder = self._waiting()
        self.copies = LocalCopy(settings.data_dir / "local-copy")
        self.copier = self._copier(service) if settings.weights_url is not None and not self._follows else None
        self.publisher = self._publisher(service, engine) if service.worker is not None and not self._follows else None
        self.freshness = Freshness(
            lambda: (self.watch or self.consumer).through,
            self.failing,
            self.replica,
            engine.artifact.manifest.through,
            metrics,
        )
        self.bases.begin(self._loaded(engine, home), self.replica)
        self.ranker, self.retriever = AnyRanker(self.bases), AnyRetriever(self.bases)
        self.loader = self._loader(service)

    def bases_status(self) -> dict[str, Any]:
        """Which bases are loaded, which answers, what is being loaded and why the last one could not be."""
        return {**self.bases.status(), "loading": self.loader.loading, "failed": self.loader.failed}

    def _loader(self, service: Service) -> Loader:
        """Other bases, beside the first."""

        def warm(made: LoadedBase) -> None:
            warm_up(made, service.objectives, service.clock())

        metrics = service.metrics.bases
        if self._encoders is None:
            return FollowedLoader(
                service.settings, self.bases, self.replica, lambda made: self._loaded(made, None), warm, metrics
            )
        return BaseLoader(
            service.settings,
            self.bases,
            self._encoders,
            self.replica,
            lambda made: self._loaded(made, self._encoder(made)),
            warm,
            metrics,
        )

    def _watch(self, engine: Engine) -> StatesWatch | None:
        """Of user states that others keep."""
        if not isinstance(engine.users, BesideUserStates):
            return None
        service = self._service
        return StatesWatch(engine.users, lambda: self.consumer.log_key, service.metrics, service.clock)

    def _encoder(self, engine: Engine) -> ItemEncoder:
        return ItemEncoder(
            engine.catalogue,
            engine.vectors,
            engine.scorer,
            engine.lock,
            self._service.metrics,
            engine.waiting,
            self._changes,
        )

    def _loaded(self, engine: Engine, encoder: ItemEncoder | None) -> LoadedBase:
        """Everything that answers by this engine's base."""
        settings = self._service.settings
        ranker = Ranker(
            engine,
            self.replica,
            self.freshness,
            self.impressions,
            self._service.metrics,
            log_items=settings.log_items,
            tenant=settings.tenant,
            experiments=self.experiments,
        )
        return LoadedBase(engine, ranker, Retriever(engine, ranker, self.titles), encoder)

    @property
    def engine(self) -> Engine:
        """That of the base that answers."""
        return self.bases.live.engine

    def _waiting(self) -> Encoders | FollowedEncoder:
        if isinstance(self.replica, FollowedReplica):
            return FollowedEncoder(self.replica)
        assert self._encoders is not None
        return self._encoders

    def _replica(self, service: Service, engine: Engine) -> Replica:
        if self._follows:
            return FollowedReplica(
                service.store, self.bases, engine, service.settings.data_dir, service.metrics, service.clock, self.arms
            )
        return Replica(
            service.store,
            self.bases,
            engine.prior,
            engine.realtime,
            engine.lock,
            service.metrics,
            service.clock,
            self.bases.use_realtime,
            self.arms,
        )

    def _publisher(self, service: Service, engine: Engine) -> Publisher:
        """For the other workers of this machine."""
        waiting = self.encoder
        made = Publisher(
            service.settings.data_dir, engine.realtime, self.bases, self.replica, lambda: waiting.waiting, service.clock
        )
        self.replica.changing = made.changing
        return made

    def _copier(self, service: Service) -> Copier:
        """Where the store is another machine's: what it held last is kept here."""
        replica = self.replica
        return Copier(
            self.copies,
            service.store,
            lambda: 0 if replica.failing or replica.copied else replica.snapshot.version,
            REALTIME,
            service.metrics,
        )

    def failing(self) -> str | None:
        """The neighbour that does not answer, if any: log, state."""
        if self.impressions.failing:
            return "log"
        return self.consumer.failing or ("state" if self.watch is not None and self.watch.failing else None)

    def events_behind(self) -> int | None:
        """Events of the log that are not in user states and catalogue yet; None where the log does not answer."""
        try:
            ends = self._log.end_offsets()
        except LogError:
            return None
        positions = self.read.positions
        return sum(max(0, ends[name] - positions.get(name, 0)) for name in partitions_in(STREAM, ends))

    def start(self) -> None:
        """Start the threads. Before this returns weights and counters are those of the store, and user state has
        begun to follow the log: an answer's ages are known from the first one on."""
        self.replica.poll()
        if self.copier is not None and not self.replica.snapshot.version:
            any(self.replica.start_from(copy) for copy in self.copies.load())
        self.consumer.step()
        if self.watch is not None:
            self.watch.look()
        if self.publisher is not None:
            self.publisher.look()
        for part in self._threads():
            part.start()

    def _threads(self) -> list[Background]:
        """In the order in which they start."""
        every = (
            self.watch, self.consumer, self.bases.live.encoder, self.replica, self.impressions, self.janitor,
            self.titles, self.copier, self.publisher, self.loader,
        )  # fmt: skip
        return [part for part in every if part is not None]

    def stop(self) -> None:
        """End the threads and write what waits."""
        for part in reversed(self._threads()):
            part.stop()
        if self._encoders is not None:
            self._encoders.stop()
        close_engine(self.engine)


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
