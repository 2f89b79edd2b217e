"""Loads the bases that the weight store names beside those that answer, and lets go of those it names no more.

One thread, slow on purpose: fetch, check, load, encode the whole catalogue in small parts with pauses, warm up. Only
then the base is among those that may answer. A base that cannot be had is tried again half a minute later; what is
there goes on answering with its own weights. It decides on no answer (`bases.py` does).

Of several workers the one that writes does all this, and another one does the rest once the vectors are there
(`FollowedLoader`): it loads the graphs from the same data directory and maps those vectors.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.assembler import Assembler, ZLayout
from features.errors import ReplError
from service.artifact import Artifact
from service.background import Background
from service.base_fetch import fetch, tidy
from service.bases import Bases, LoadedBase
from service.encoders import Encoders
from service.engine import Engine, find_installed, unknown_vectors
from service.item_vectors import ItemVectors
from service.last_layer import term_bounds
from service.memory import trim
from service.metrics_base import BaseMetrics
from service.replica import Replica
from service.scorer import Scorer
from service.settings import Settings
from service.snapshot import stack
from service.user_vectors import SideVectors

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
RETRY_SECONDS = 30.0
GRACE_SECONDS = 30.0
"""How long a base that nobody names stays: requests that began with it end meanwhile."""
NICE = 10
PACE = 1.0
"""Pause after each batch of items, as a share of what it took."""
Make = Callable[[Engine], LoadedBase]


def engine_beside(home: Engine, artifact: Artifact, vectors: Path, *, follows: bool = False) -> Engine:
    """An engine of another base over the same lock, catalogue, user states and counters; nothing is encoded yet.

    vectors: where item vectors lie; follows: another process encodes them.
    Raises ArtifactError, SchemaError, StoreError."""
    artifact.require_schema(home.schema)
    layout = ZLayout(artifact.manifest.hidden, home.schema)
    artifact.require_layout(layout.names, layout.fingerprint)
    scorer = Scorer(artifact)
    places = ItemVectors(vectors / artifact.sha256, unknown_vectors(scorer), follows=follows)
    places.reserve(len(home.catalogue))
    waiting = 0 if follows else len(home.catalogue)
    terms = layout.terms()
    return replace(
        home,
        artifact=artifact,
        scorer=scorer,
        layout=layout,
        assembler=Assembler(layout, home.schema, home.catalogue, home.realtime),
        vectors=places,
        sides=SideVectors(scorer),
        terms=terms,
        bounds=term_bounds(terms),
        prior=stack({head: mean for head, (mean, _) in artifact.prior.items()}),
        waiting=np.arange(waiting, dtype=np.int64),  # what is up to date is seen by its content
    )


class Loader(Background):
    """`loading`: the base it is at work on; `failed`: why the last one could not be had.

    What follows `_unused` is what a role may do in its own way."""

    def __init__(
        self,
        settings: Settings,
        bases: Bases,
        replica: Replica,
        make: Make,
        warm: Callable[[LoadedBase], None],
        metrics: BaseMetrics,
    ) -> None:
        """make: ranker, retriever and encoder around an engine; warm: run its kernels and graphs once."""
        self._settings, self._bases, self._replica, self._metrics = settings, bases, replica, metrics
        self._make, self._warm = make, warm
        self._vectors = settings.data_dir / "vectors"
        self._failed_at: dict[str, float] = {}
        self._unnamed: dict[str, float] = {}
        self.loading: str | None = None
        self.failed: str | None = None
        super().__init__("base-loader", 30.0)

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # of this thread alone, on Linux
        while not self._stop.is_set():
            self.look()
            self._stop.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Load one that is named and not here, or let one go."""
        named = self._replica.named
        self._metrics.here(self._bases.loaded, named)
        now = time.monotonic()
        for sha256, url in named.items():
            waits = now - self._failed_at.get(sha256, -RETRY_SECONDS) < RETRY_SECONDS
            if sha256 not in self._bases.loaded and not waits:
                self._try(sha256, url, now)
                return
        if named:
            self._let_go(set(named), now)

    def _try(self, sha256: str, url: str, now: float) -> None:
        self.loading = sha256
        try:
            self._load(sha256, url)
            self._failed_at.pop(sha256, None)
            self.failed = None
        except ReplError as error:
            self._failed_at = {sha256: now}
            if self.failed != error.message:
                log.error("a base cannot be loaded", extra={"base": sha256, "reason": str(error)})
            self.failed = error.message
        except Exception as error:  # the thread must not end with one bad base
            self._failed_at, self.failed = {sha256: now}, repr(error)
            log.exception("a base cannot be loaded", extra={"base": sha256})
        finally:
            self.loading = None

    def _load(self, sha256: str, url: str) -> None:
        began = time.monotonic()
        artifact = find_installed(self._settings, sha256) or fetch(url, self._settings.data_dir / "base", sha256)
        made = self._make(self._engine(artifact))
        try:
            if not self._prepared(made):
                self._dropped(made)
                return
            self._warm(made)
        except Exception:
            self._dropped(made)
            raise
        while not self._add(made):
            if self._stop.wait(0.05) or sha256 not in self._replica.named:  # it ends, or nobody speaks of it any more
                self._dropped(made)
                return
        self._replica.choose_again()
        self._tidy()
        seconds = time.monotonic() - began
        self._metrics.seconds.set(seconds)
        log.info("a base is loaded", extra={"base": sha256, "seconds": round(seconds, 2)})

    def _let_go(self, named: set[str], now: float) -> None:
        """Drop what was named by no version for a while, and does not answer."""
        self._unnamed = {name: self._unnamed.get(name, now) for name in self._unused(named)}
        for name, since in self._unnamed.items():
            if self._over(name, now - since):
                with self._bases.live.engine.lock:
                    dropped = self._bases.drop(name)
                self._dropped(dropped)
                log.info("a base was let go", extra={"base": name})
                del dropped
                trim()
                return

    def _add(self, made: LoadedBase) -> bool:
        """Let it answer; False where it cannot yet."""
        with made.engine.lock:
            if not self._complete(made.engine):
                return False
            made.engine.use_realtime(self._bases.live.engine.realtime)
            self._bases.add(made)
        return True

    def _unused(self, named: set[str]) -> set[str]:
        """Bases that nobody needs."""
        snapshot = self._replica.snapshot
        return set(self._bases.loaded) - named - {snapshot.base, snapshot.beside}

    def _engine(self, artifact: Artifact) -> Engine:
        return engine_beside(self._bases.live.engine, artifact, self._vectors)

    def _prepared(self, made: LoadedBase) -> bool:
        """Wait until all items have vectors; False where this thread has to end before."""
        raise NotImplementedError

    def _complete(self, engine: Engine) -> bool:
        """Whether every row has a place; the caller holds the lock."""
        return True

    def _over(self, name: str, seconds: float) -> bool:
        """Whether a base goes that was not named for so long."""
        return seconds >= GRACE_SECONDS

    def _dropped(self, made: LoadedBase) -> None:
        """It does not answer, any more or at all."""

    def _tidy(self) -> None:
        """One more is loaded."""


class BaseLoader(Loader):
    """Of a ranker alone, and of the worker that writes: it encodes, and keeps the directories of bases and vectors."""

    def __init__(
        self,
        settings: Settings,
        bases: Bases,
        encoders: Encoders,
        replica: Replica,
        make: Make,
        warm: Callable[[LoadedBase], None],
        metrics: BaseMetrics,
    ) -> None:
        """See `Loader`."""
        super().__init__(settings, bases, replica, make, warm, metrics)
        self._encoders = encoders

    def _prepared(self, made: LoadedBase) -> bool:
        encoder = made.encoder
        assert encoder is not None
        encoder.pace = PACE
        encoder.start()
        while encoder.waiting:
            encoder.wake()
            if self._stop.wait(0.05):
                return False
        encoder.pace = 0.0
        self._encoders.add(encoder)
        return True

    def _tidy(self) -> None:
        tidy(self._settings.data_dir / "base", {*self._bases.loaded, *self._replica.named})

    def _dropped(self, made: LoadedBase) -> None:
        assert made.encoder is not None
        self._encoders.drop(made.encoder)
        if made.sha256 not in self._replica.named:
            shutil.rmtree(self._vectors / made.sha256, ignore_errors=True)


class FollowedLoader(Loader):
    """Of a worker that follows: `Replica.named` are the bases that the writer has loaded."""

    def _engine(self, artifact: Artifact) -> Engine:
        return engine_beside(self._bases.live.engine, artifact, self._vectors, follows=True)

    def _prepared(self, made: LoadedBase) -> bool:
        return True

    def _complete(self, engine: Engine) -> bool:
        engine.vectors.reserve(len(engine.catalogue))
        return engine.vectors.capacity >= len(engine.catalogue)

    def _unused(self, named: set[str]) -> set[str]:
        """Those whose vectors were let go of, too: the writer may make new ones, which what is mapped here is not."""
        live, loaded = self._bases.live.sha256, self._bases.loaded
        return super()._unused(named) | {name for name in loaded if name != live and self._replaced(name)}

    def _over(self, name: str, seconds: float) -> bool:
        return self._replaced(name) or super()._over(name, seconds)

    def _replaced(self, name: str) -> bool:
        return self._bases.loaded[name].engine.vectors.replaced
