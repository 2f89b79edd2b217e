"""Loads the bases that the weight store names beside those that answer, and lets go of those it names no more.

One thread, slow on purpose: fetch, check, load, encode the whole catalogue in small parts with pauses, warm up. Only
then the base is among those that may answer. A base that cannot be had is tried again half a minute later; what is
there goes on answering with its own weights. It decides on no answer (`bases.py` does).
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
from service.replica import Replica, stack
from service.scorer import Scorer
from service.settings import Settings
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


def engine_beside(home: Engine, artifact: Artifact, vectors: Path) -> Engine:
    """An engine of another base over the same lock, catalogue, user states and counters; nothing is encoded yet.

    vectors: where item vectors lie. Raises ArtifactError, SchemaError, StoreError."""
    artifact.require_schema(home.schema)
    layout = ZLayout(artifact.manifest.hidden, home.schema)
    artifact.require_layout(layout.names, layout.fingerprint)
    scorer = Scorer(artifact)
    places = ItemVectors(vectors / artifact.sha256, unknown_vectors(scorer))
    places.reserve(len(home.catalogue))
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
        waiting=np.arange(len(home.catalogue), dtype=np.int64),  # what is up to date is seen by its content
    )


class BaseLoader(Background):
    """`loading`: the base it is at work on; `failed`: why the last one could not be had."""

    def __init__(
        self,
        settings: Settings,
        bases: Bases,
        encoders: Encoders,
        replica: Replica,
        make: Make,
        warm: Callable[[LoadedBase], None],
    ) -> None:
        """make: ranker, retriever and encoder around an engine; warm: run its kernels and graphs once."""
        self._settings, self._bases, self._encoders, self._replica = settings, bases, encoders, replica
        self._make, self._warm = make, warm
        self._failed_at: dict[str, float] = {}
        self._unnamed: dict[str, float] = {}
        self.loading: str | None = None
        self.failed: str | None = None
        super().__init__("base-loader", 30.0)

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # of this thread alone, on Linux
        while not self._stop.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Load one that is named and not here, or let one go."""
        named = self._replica.named
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
        made = self._make(engine_beside(self._bases.live.engine, artifact, self._settings.data_dir / "vectors"))
        try:
            if not self._encoded(made):
                self._encoders.drop(made.encoder)
                return
            self._warm(made)
        except Exception:
            self._encoders.drop(made.encoder)
            raise
        self._encoders.add(made.encoder)
        with made.engine.lock:
            made.engine.use_realtime(self._bases.live.engine.realtime)
            self._bases.add(made)
        self._replica.choose_again()
        tidy(self._settings.data_dir / "base", {*self._bases.loaded, *self._replica.named})
        log.info("a base is loaded", extra={"base": sha256, "seconds": round(time.monotonic() - began, 2)})

    def _encoded(self, made: LoadedBase) -> bool:
        """Encode all items; False where this thread has to end before."""
        made.encoder.pace = PACE
        made.encoder.start()
        while made.encoder.waiting:
            made.encoder.wake()
            if self._stop.wait(0.05):
                return False
        made.encoder.pace = 0.0
        return True

    def _let_go(self, named: set[str], now: float) -> None:
        """Drop what was named by no version for a while, and does not answer."""
        snapshot = self._replica.snapshot
        unused = set(self._bases.loaded) - named - {snapshot.base, snapshot.beside}
        self._unnamed = {name: self._unnamed.get(name, now) for name in unused}
        for name, since in self._unnamed.items():
            if now - since >= GRACE_SECONDS:
                with self._bases.live.engine.lock:
                    dropped = self._bases.drop(name)
                self._encoders.drop(dropped.encoder)
                shutil.rmtree(self._settings.data_dir / "vectors" / name, ignore_errors=True)
                log.info("a base was let go", extra={"base": name})
                del dropped
                trim()
                return
