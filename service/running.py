"""What a running service holds once its base is loaded: the parts that rank, and the threads that keep them up to date.

It opens neither log nor weight store (`core.py` does), and knows no HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from features.errors import LogError
from features.records import partitions_in
from service.arm_weights import ArmWeights
from service.background import Background
from service.base_loader import BaseLoader, FollowedLoader, Loader
from service.bases import AnyRanker, AnyRetriever, Bases, LoadedBase
from service.encoders import ChangedRows, Encoders
from service.engine import Engine, close_engine
from service.event_applying import STREAM, ids_seen
from service.experiments import Experiments
from service.following import FollowedEncoder, FollowedReplica
from service.impressions import Impressions
from service.item_encoder import ItemEncoder
from service.janitor import Janitor
from service.local_copy import Copier, LocalCopy
from service.progress import Progress
from service.ranker import Ranker
from service.replica import REALTIME, Replica
from service.retriever import Retriever
from service.shared_tables import Publisher
from service.states_beside import BesideUserStates, StatesWatch
from service.status import Freshness
from service.timed_store import timed
from service.title_index import TitleIndexer
from service.user_state_consumer import UserStateConsumer
from service.warm_up import warm_up

if TYPE_CHECKING:
    from service.core import Service


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
