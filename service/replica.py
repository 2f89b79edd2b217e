"""Follows the weight store: weights, counters and co-visitation of the newest version, in this ranker's memory.

Changes are applied in order with the trainer's own kernel; after a gap everything is read anew from the newest
checkpoint. When the store fails, what is there goes on being served and says that it is stale. It writes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.errors import StoreError, UnknownVersion
from features.ops import Ops
from features.realtime import RealtimeState
from service.arm_weights import ArmWeights, Fixed
from service.background import Background
from service.local_copy import CopiedStore
from service.metrics import Metrics
from service.passthrough import surfaces_of
from service.snapshot import Offer, Snapshot, named_bases, pairs_of
from service.weight_store import Version, WeightStore

if TYPE_CHECKING:
    from service.bases import Bases

log = logging.getLogger(__name__)

POLL_SECONDS = 0.03
ANNOUNCED_SECONDS = 0.25
"""Between two polls of a store that announces its versions: heartbeats, and announcements that were lost."""
REALTIME = "realtime/"
TRAINER_SILENT_MS = 10_000


class Replica(Background):
    """One thread polls the store, at once when it announces something; `snapshot` is replaced under `lock` together
    with the counters."""

    def __init__(
        self,
        store: WeightStore,
        bases: Bases,
        prior: npt.NDArray[np.float64],
        realtime: RealtimeState,
        lock: threading.Lock,
        metrics: Metrics,
        clock: Callable[[], int],
        on_reload: Callable[[RealtimeState], None],
        arms: ArmWeights | None = None,
    ) -> None:
        """bases: those that are loaded here; prior: weights (2, d) of the first of them; on_reload: called under
        `lock`; arms: what experiments serve beside the newest version."""
        self._store: WeightStore | CopiedStore = store
        self._switchboard = store
        self._bases, self._realtime = bases, realtime
        self._announce = store.follow
        self._lock, self._metrics, self._clock, self._on_reload = lock, metrics, clock, on_reload
        self.prior = prior
        self.offer = Offer()
        self.snapshot = Snapshot(0, 0, prior, None, None, base=bases.home)
        self.named: Mapping[str, str] = {}
        """sha256 → url of the bases that the versions in use speak of."""
        self._again = False
        self._pinned: int | None = None
        self._held: str | None = None
        self.beat: tuple[int, int, int] | None = None
        self.failing = False
        self.copied = False
        """Whether what is served comes from a local copy, not from the store."""
        self._hash = ""
        self.changing: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around each change of counters and snapshot, under the lock (`shared_tables.py`)."""
        self.foreign_base: str | None = None
        self.passthrough: frozenset[int] = frozenset()
        self._arms = arms
        super().__init__("replica")

    def _run(self) -> None:
        pause = ANNOUNCED_SECONDS if self._announce(self._wake.set) else POLL_SECONDS
        while not self._stop.is_set():
            self._wake.wait(0.5 if self.failing else pause)
            self._wake.clear()
            if not self._stop.is_set():
                self.poll()

    def wake(self) -> None:
        """Look at once: this process has just written something."""
        self._wake.set()

    def poll(self) -> bool:
        """Take what is new; False when the store could not be read (counted, logged, served on)."""
        try:
            self._switches()
            self._follow()
        except (StoreError, UnknownVersion, ValueError) as error:
            if not self.failing:
                log.error("the weight store cannot be followed", extra={"reason": str(error)})
            self._metrics.failures.labels("store").inc()
            self.failing = True
            return False
        counters, _ = self.through()
        self._metrics.delays.served(counters, counters if self.snapshot.following else None, self._clock())
        if self.failing:
            log.warning("the weight store answers again")
        self.failing = False
        return True

    def _switches(self) -> None:
        """Flags first: they are followed also where the weights cannot be. Then the arms' versions."""
        found = surfaces_of(self._switchboard.flags())
        if found != self.passthrough:
            log.warning("passthrough was switched", extra={"surfaces": sorted(found)})
            self._metrics.switched(found)
            self.passthrough = found
        if self._arms is not None:
            self._arms.refresh(self._switchboard, self._bases.priors)

    def start_from(self, copy: CopiedStore) -> bool:
        """Serve what a local copy holds until the store has a version; False where it is damaged (logged)."""
        store, self._store = self._store, copy
        try:
            self._follow()
        except (StoreError, UnknownVersion, ValueError, OSError) as error:
            log.error("a local copy is refused", extra={"reason": str(error)})
            return False
        finally:
            self._store = store
        self.copied = True
        log.warning("serving a local copy", extra={"version": self.snapshot.version})
        return True

    def _other_history(self, latest: Version) -> bool:
        """Whether the store may not be the one that was followed: after a copy, and where it came back without what
        was served of it. Its changes must then not be applied to what is here."""
        if self.copied:
            return True
        known = self.snapshot.version
        if not self.failing or not 0 < known <= latest.v:
            return False
        try:
            return self._store.get(known).hash != self._hash
        except UnknownVersion:
            return True

    def _follow(self) -> None:
        heartbeat = self._store.heartbeat()
        if heartbeat is not None:
            self.beat = (heartbeat.watermark, heartbeat.counters_through, heartbeat.at)
        latest, pinned = self._store.latest(), self._store.pinned()
        again, self._again = self._again, False
        try:
            self._follow_to(latest, pinned, again=again)
        except Exception:
            self._again = self._again or again  # the wish stands until it was met
            raise

    def _follow_to(self, latest: Version | None, pinned: int | None, *, again: bool) -> None:
        if latest is None:
            return
        other = self._other_history(latest)
        if latest.v == self.snapshot.version and pinned == self._pinned and not other and not again:
            return
        if other or latest.v < self.snapshot.version:
            self._reload(latest)
        elif latest.v > self.snapshot.version:
            changes = self._store.changes_since(self.snapshot.version)
            if changes is None:
                self._reload(latest)
            else:
                newest = changes[-1][0] if changes else latest.v
                latest = latest if newest == latest.v else self._store.get(newest)
                self._apply([Ops.from_bytes(body) for _, body in changes if body], latest, pinned)
                return
        self._apply([], latest, pinned)

    def _reload(self, latest: Version) -> None:
        """Counters from the newest checkpoint, then every change after it."""
        checkpoint = self._store.latest_checkpoint(latest.v)
        fresh = self._realtime.empty()
        since = 0
        if checkpoint is not None:
            fresh.restore(self._store.load_chunks(checkpoint, REALTIME))
            since = checkpoint.version
        changes = self._store.changes_since(since)
        if changes is None and checkpoint is None:
            log.warning(
                "the store has versions but neither their changes nor a checkpoint: counters are empty"
            )
        for v, body in changes or []:
            if body and v <= latest.v:
                fresh.apply(Ops.from_bytes(body))
        self._realtime = fresh
        self._metrics.reloads.inc()
        with self._lock:
            self._on_reload(fresh)

    def choose_again(self) -> None:
        """Other bases are loaded than before."""
        self._again = True
        self._wake.set()

    def _apply(self, changes: list[Ops], latest: Version, pinned: int | None) -> None:
        wanted = latest if pinned is None else self._store.get(pinned)
        self.named = named_bases(wanted, latest)
        following = pinned is None and latest.held is None
        offer = Offer(
            version=latest.v,
            pairs=pairs_of(wanted),
            weights_through=latest.watermark if following else self._trained_through(wanted),
            counters_through=latest.counters_through,
            following=following,
            offsets=latest.offsets,
        )
        fresh = self._chosen(offer)
        joined = Ops.concat(changes) if changes else None
        with self._lock, self.changing():
            if joined is not None:
                self._realtime.apply(joined)
            self.offer, self.snapshot = offer, fresh
        self._pinned, self._hash = pinned, latest.hash
        self.copied = False
        self._metrics.version.set(latest.v)
        self._metrics.hold(self._held, latest.held)
        self._held = latest.held

    def _chosen(self, offer: Offer) -> Snapshot:
        """What is served of an offer here; the prior where none of its bases is. Raises StoreError, ValueError."""
        loaded = self._bases.priors
        pair = offer.to_serve(loaded)
        self.foreign_base = offer.pairs[0].base if pair is None and offer.pairs else None
        return offer.snapshot(loaded, self._bases.home)

    def _trained_through(self, wanted: Version) -> int:
        """Event time (ms) of the weights to serve, where they are not the newest."""
        pair = Offer(pairs=pairs_of(wanted)).to_serve(self._bases.priors)
        if pair is None or pair.weights_version == wanted.v:
            return wanted.watermark
        try:
            return self._store.get(pair.weights_version).watermark
        except UnknownVersion:  # thinned out; its weights are also in `wanted`
            return wanted.watermark

    def fixed(self, base: str) -> Mapping[int, Fixed]:
        """Versions that arms of experiments serve, as far as they are here with weights of this base."""
        return {} if self._arms is None else self._arms.have.get(base, {})

    def pinned_to(self, snapshot: Snapshot, v: int, base: str) -> Snapshot:
        """The snapshot with the weights of a version of `fixed`; counters stay those of the newest."""
        found = self.fixed(base).get(v)
        if found is None:  # another base came between
            return snapshot
        return replace(
            snapshot, base=base, weights_version=v, weights=found.weights, weights_through=found.through,
            following=False,
        )  # fmt: skip

    @property
    def trainer_silent(self) -> bool:
        """Whether a trainer that once wrote heartbeats has stopped doing so."""
        return self.beat is not None and self._clock() - self.beat[2] > TRAINER_SILENT_MS

    def through(self) -> tuple[int | None, int | None]:
        """(counters, weights): event times (ms) through which each is known; None before a version.

        The trainer's heartbeat moves both on when there was nothing to publish.
        """
        snapshot = self.snapshot
        counters, weights = snapshot.counters_through, snapshot.weights_through
        if self.beat is not None and counters is not None:
            counters = max(counters, self.beat[1])
            if snapshot.following and weights is not None:
                weights = max(weights, self.beat[0])
        return counters, weights
