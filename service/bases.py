"""The base models that are loaded in this ranker, and which of them answers whom. It loads none.

A request is answered by one base from its first look to its last: its engine, its vectors, its weights, its layout.
Which one, the snapshot of the weight store says, read once; another snapshot changes it for the requests to come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from features.keys import actor_key
from features.realtime import RealtimeState
from service.engine import Engine
from service.item_encoder import ItemEncoder
from service.ranked import Question, Ranked
from service.ranker import Fields, Ranker
from service.retriever import Match, Retriever

if TYPE_CHECKING:
    from service.replica import Replica
    from service.snapshot import Snapshot

BUCKETS = 10_000


@dataclass(frozen=True)
class LoadedBase:
    """One base, ready to answer."""

    engine: Engine
    ranker: Ranker
    retriever: Retriever
    encoder: ItemEncoder | None
    """None in a worker that reads what another one encodes."""

    @property
    def sha256(self) -> str:
        return self.engine.artifact.sha256


def bucket(base: str, actor: int) -> int:
    """Where an actor stands among BUCKETS in the rollout of this base."""
    return xxhash.xxh3_64_intdigest(actor.to_bytes(8, "little"), int(base[:8], 16)) % BUCKETS


class Bases:
    """`loaded` is replaced as a whole: readers take it without a lock."""

    def __init__(self) -> None:
        self.loaded: Mapping[str, LoadedBase] = {}
        self.home = ""
        """The base to fall back on: that which the settings name, while it is loaded."""

    def begin(self, home: LoadedBase, replica: Replica) -> None:
        """The first one, and who says which one answers."""
        self.loaded, self.home, self._replica = {home.sha256: home}, home.sha256, replica

    def add(self, base: LoadedBase) -> None:
        """One more; the caller holds the engine's lock."""
        self.loaded = {**self.loaded, base.sha256: base}

    def drop(self, sha256: str) -> LoadedBase:
        """One less. Where it was the one to fall back on, the one that answers becomes it."""
        dropped = self.loaded[sha256]
        self.loaded = {name: one for name, one in self.loaded.items() if name != sha256}
        if sha256 == self.home:
            self.home = self.live.sha256
        return dropped

    def use_realtime(self, fresh: RealtimeState) -> None:
        """Put a newly loaded real-time state in place of the old one; the caller holds the engine's lock."""
        for base in self.loaded.values():
            base.engine.use_realtime(fresh)

    @property
    def priors(self) -> dict[str, npt.NDArray[np.float64]]:
        """The prior (2, d) of every base that is loaded."""
        return {name: base.engine.prior for name, base in self.loaded.items()}

    @property
    def live(self) -> LoadedBase:
        """The base that answers those who are in no rollout."""
        loaded = self.loaded
        return loaded.get(self._replica.snapshot.base) or loaded[self.home]

    def of(self, question: Question) -> LoadedBase:
        """The base that answers this question."""
        snapshot = self._replica.snapshot
        if snapshot.percent:
            chosen = self._in_rollout(snapshot, actor_key(question.user, question.session))
            if chosen is not None:
                return chosen
        return self.live

    def status(self) -> dict[str, Any]:
        """Plain JSON values: who answers, and who could."""
        snapshot = self._replica.snapshot
        some = {snapshot.beside: snapshot.percent} if snapshot.percent else {}
        return {"answers": self.live.sha256, "loaded": sorted(self.loaded), "percent": some}

    def _in_rollout(self, snapshot: Snapshot, actor: int) -> LoadedBase | None:
        mine = actor != 0 and bucket(snapshot.beside, actor) < snapshot.percent / 100.0 * BUCKETS
        return self.loaded.get(snapshot.beside) if mine else None


class AnyRanker:
    """`Ranker.rank` by the base that answers."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def rank(self, question: Question, ids: Sequence[str], fields: Fields) -> Ranked:
        """See `Ranker.rank`."""
        return self._bases.of(question).ranker.rank(question, ids, fields)


class AnyRetriever:
    """`Retriever.retrieve` by the base that answers."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def retrieve(self, question: Question, match: Match | None, keep: int) -> Ranked:
        """See `Retriever.retrieve`."""
        return self._bases.of(question).retriever.retrieve(question, match, keep)


