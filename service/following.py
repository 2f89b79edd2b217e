"""A worker that reads another's tables: its replica, its user states, its view of the encoder. It writes no store.

The worker that writes may die at any time: what it wrote stays mapped here and is served on, `stale`, until the one
that takes its place announces tables of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from features.catalogue_followed import FollowedCatalogue
from features.errors import NotReady, StoreError, UnknownVersion
from features.feature_store import FeatureStore
from features.realtime import RealtimeConfig, RealtimeState
from features.shared_pages import SharedPages
from features.user_state import UserState
from service.arm_weights import ArmWeights
from service.bases import Bases
from service.engine import Engine
from service.metrics import Metrics
from service.replica import Replica
from service.shared_place import Announcement, announced
from service.shared_tables import Tables
from service.shared_users import SharedUserStates
from service.weight_store import WeightStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.02
SWITCH_SECONDS = 0.2
SILENT_MS = 3_000
"""After this long without a sign of the writer answers are stale."""
PATIENCE = 300.0


def wait_for_tables(data_dir: Path) -> Announcement:
    """Where the tables lie, once they can be attached. Raises NotReady after PATIENCE seconds."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = announced(data_dir)
        if found is not None:
            with suppress(StoreError):  # those of a writer that is gone
                SharedPages(found.catalogue)
                SharedPages(found.counters)
                return found
        time.sleep(0.05)
    raise NotReady("the worker that writes the shared tables did not start", hint="its log says why")


def counters_at(place: str, config: RealtimeConfig) -> RealtimeState:
    """Counters in another process's pages: read, never applied to. Raises StoreError."""
    pages = SharedPages(place)
    return RealtimeState(config, lambda: pages)


class FollowedReplica(Replica):
    """Looks what the writer has told and where its tables lie; `poll` and the thread are those of every replica."""

    def __init__(
        self,
        store: WeightStore,
        bases: Bases,
        engine: Engine,
        data_dir: Path,
        metrics: Metrics,
        clock: Callable[[], int],
        arms: ArmWeights | None = None,
    ) -> None:
        """engine: loaded from the tables that are announced in `data_dir`; arms: what experiments serve."""
        super().__init__(
            store,
            bases,
            engine.prior,
            engine.realtime,
            engine.lock,
            metrics,
            clock,
            bases.use_realtime,
            arms,
        )
        assert isinstance(engine.catalogue, FollowedCatalogue)
        self._catalogue, self._data_dir = engine.catalogue, data_dir
        self._tables = Tables(engine.realtime)
        self._count = -1
        self._switched = 0.0
        self.waiting = 0
        self._says_failing = False
        engine.reading = self.reading

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.poll()
            except Exception:  # the thread is all that follows: what is there is served on, and looked at again
                log.exception("shared tables could not be followed")
                self.failing = True
                self._stop.wait(SWITCH_SECONDS)

    def poll(self) -> bool:
        """Take what is new; False while the writer says that the store does not answer, or says nothing."""
        now = time.monotonic()
        if now - self._switched >= SWITCH_SECONDS:
            self._switched = now
            self._switch()
            if not self._says_failing:
                self._look_at_switches()
        if self._catalogue.behind():
            with self._lock:
                self._catalogue.follow(self._room())
        if self._tables.count != self._count or self._again:
            with self._lock:
                self._take()
        self.failing = self._says_failing or self._silent() or self._tables.head.torn
        return not self.failing

    def _room(self) -> int:
        """Rows that the vectors of all bases have, as far as one may answer; the caller holds the lock."""
        loaded, snapshot = self._bases.loaded, self.snapshot
        may = {self._bases.live.sha256, snapshot.beside, *self.named} & loaded.keys()
        places = [loaded[name].engine.vectors for name in may]
        for vectors in places:
            vectors.reserve(int(self._catalogue.published))
        return min(vectors.capacity for vectors in places)

    def _look_at_switches(self) -> None:
        """Passthrough and the arms' versions are asked of the store: the writer's tables do not hold them."""
        try:
            self._switches()
        except (StoreError, UnknownVersion, ValueError):
            self._metrics.failures.labels("store").inc()

    def _silent(self) -> bool:
        return self._clock() - self._tables.beat > SILENT_MS

    def _switch(self) -> None:
        """Go over to tables that were announced since: those of a new writer, or the same one's, made anew."""
        found = announced(self._data_dir)
        if found is None:
            return
        try:
            if found.catalogue != self._catalogue.place:
                fresh = SharedPages(found.catalogue)
                with self._lock:
                    self._catalogue.attach(fresh)
                    self._catalogue.follow(self._room())
            if found.counters != self._tables.place:
                tables = Tables(counters_at(found.counters, self._realtime.config))
                with self._lock:
                    self._tables, self._realtime = tables, tables.state
                    self._on_reload(tables.state)
                    self._take()
                self._metrics.reloads.inc()
        except StoreError as error:  # its writer has gone, too: the next one announces its own
            log.warning("shared tables cannot be attached", extra={"reason": error.message})

    def _take(self) -> None:
        """What the writer told last; the caller holds the lock."""
        self._count = self._tables.count
        told = self._tables.told()
        if told is None or not told.loaded:  # it was killed while it told, the first time or a later one
            return
        self._again = False
        self._tables.state.items.follow()
        self._tables.state.categories.follow()
        self.beat, self.copied = told.beat, told.copied
        self._says_failing, self.waiting = told.failing, told.waiting
        self.named = dict.fromkeys(told.loaded, "")
        self.offer, self.snapshot = told.offer, self._chosen(told.offer)
        self._metrics.version.set(told.offer.version)

    def reading(self) -> Iterator[None]:
        """Around what is read of counters together with the snapshot: again where both have changed meanwhile."""
        for _ in self._tables.head.reading():
            if self._tables.count != self._count:
                self._take()
            yield


class FollowedEncoder:
    """How many items wait, as the writer says; nothing is encoded here."""

    def __init__(self, replica: FollowedReplica) -> None:
        self._replica = replica

    @property
    def waiting(self) -> int:
        """Rows that are not encoded yet."""
        return self._replica.waiting


class FollowedUserStates(SharedUserStates):
    """Applies events as the writer does, and waits until the writer has stored them instead of storing them.

    A state stays in memory until the store holds all that was applied to it here.
    """

    writes = False

    def __init__(self, store: FeatureStore, capacity: int, history: int) -> None:
        super().__init__(store, capacity, history)
        self._waiting: tuple[set[int], set[int], dict[str, int]] | None = None
        self._again: set[int] = set()

    def put(self, state: UserState) -> None:
        """See UserStates.put."""
        super().put(state)
        self._again.add(state.key)

    def delete(self, key: int) -> None:
        """See UserStates.delete."""
        super().delete(key)
        self._again.add(key)

    def flush_beside(self, lock: threading.Lock, offsets: Mapping[str, int]) -> None:
        """Let go of what the writer has stored since it was applied here. Raises StoreError."""
        if self._waiting is None:
            with lock:
                self._waiting = set(self._dirty), set(self._deleted), dict(offsets)
                self._again.clear()
        changed, deleted, through = self._waiting
        stored = self.store.offsets()
        if any(stored.get(name, 0) < at for name, at in through.items()):
            return
        with lock:
            self._dirty -= changed - self._again
            self._deleted -= deleted - self._again
            self._waiting = None
            self._evict()
