"""Ranks candidates: rows, user state, vectors, fine network, assembler, last layer, order. It knows no HTTP.

The lock is held twice and shortly: to look at catalogue, user state and vectors, and to assemble the inputs from the
counters together with the snapshot of weights they belong to. The network runs without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.assembler import RequestView
from features.errors import StoreError
from features.keys import actor_key
from features.records import offsets_of
from features.user_state import UserState
from service import filters
from service.candidates import Candidates
from service.engine import Engine
from service.experiments import Experiments
from service.explain import explain_all
from service.found import Found, kept
from service.impressions import Answered, Impressions, fitting
from service.item_vectors_kernels import gather, write_columns
from service.last_layer import logits, sigmoid
from service.metrics import Metrics
from service.objectives import scores
from service.plays import Plays
from service.ranked import KnownState, Question, Ranked
from service.replica import Replica
from service.scorer import SideVector
from service.snapshot import Snapshot
from service.status import Freshness
from service.user_vectors import history_of

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]
_NO_PRICE = np.full(1, np.nan, np.float32)
Fields = Mapping[str, Mapping[str, Any]]


class Ranker:
    """Stateless beside its engine; safe from several threads."""

    def __init__(
        self,
        engine: Engine,
        replica: Replica,
        freshness: Freshness,
        impressions: Impressions,
        metrics: Metrics,
        *,
        log_items: int,
        tenant: str,
        experiments: Experiments | None = None,
    ) -> None:
        self._engine, self._replica, self._freshness = engine, replica, freshness
        self._impressions, self._metrics = impressions, metrics
        self._log_items, self._tenant = log_items, tenant
        self._plays = Plays(experiments or Experiments({}), replica, metrics, engine.artifact.sha256)

    def rank(self, question: Question, ids: Sequence[str], fields: Fields) -> Ranked:
        """Rank candidates; `ids` may hold repeats, `fields` are those that candidates brought along."""
        candidates = ids if isinstance(ids, Candidates) else Candidates.of(ids)
        unique = candidates.distinct()
        removed = {"duplicates": len(ids) - len(unique), "excluded": 0, "filtered": 0, "unavailable": 0}
        if question.exclude:
            kept = unique.without(question.exclude)
            removed["excluded"] = len(unique) - len(kept)
            unique = kept
        found = self._find(question, unique, removed)
        return self.finish(question, found, fields)

    def _find(self, question: Question, ids: Candidates, removed: dict[str, int]) -> Found:
        engine = self._engine
        with engine.lock:
            rows = engine.catalogue.rows_of_keys(ids.keys)
            mask = filters.available(engine.catalogue, rows)
            removed["unavailable"] = len(rows) - int(np.count_nonzero(mask))
            if question.filters:
                both = mask & filters.holds(engine.catalogue, question.filters, rows)
                removed["filtered"] = int(np.count_nonzero(mask)) - int(np.count_nonzero(both))
                mask = both
            if not mask.all():
                ids, rows = ids.take(np.flatnonzero(mask)), rows[mask]
            return self.look(self.state(question), ids, rows, removed)

    def look(
        self, state: UserState | None, ids: Candidates | None, rows: Rows, removed: dict[str, int]
    ) -> Found:
        """Vectors of candidates and of the asker's history, as copies; the caller holds the lock."""
        vectors, n = self._engine.vectors, len(rows)
        towers = np.empty((n, vectors.tower.shape[1]), np.float32)
        coarse = np.empty((n, vectors.coarse.shape[1]), np.float32)
        bias = np.empty((n, 1), np.float32)
        tower, flat, least = vectors.unknown
        gather(vectors.tower, rows, tower, towers)
        gather(vectors.coarse, rows, flat, coarse)
        gather(vectors.bias.reshape(-1, 1), rows, least.reshape(1), bias)
        history = history_of(self._engine.catalogue, vectors, state)
        return Found(ids, rows, towers, coarse, bias[:, 0], removed, state, history)

    def state(self, question: Question) -> UserState | None:
        """The asker's state as a copy, None where nothing is known or the store does not answer (said in the answer).

        The one read of a store that a request may cost; the caller holds the lock."""
        known = question.known or self._look_up(actor_key(question.user, question.session))
        if known.failed:
            self._metrics.failures.labels("state").inc()
            self._freshness.state_failed(question.t)
        return known.state

    def _look_up(self, key: int) -> KnownState:
        try:
            state = self._engine.users.get(key) if key else None
        except StoreError:
            return KnownState(failed=True)
        return KnownState(None if state is None else state.until(1 << 62))

    def finish(self, question: Question, found: Found, fields: Fields) -> Ranked:
        """Fine ranking of what was found, logged and as an answer."""
        sides = self._engine.sides
        user = sides.user(actor_key(question.user, question.session), found.history)
        query = sides.query(question.query)
        play = self._plays.of(question, 0 if query is None else 1)
        scorer = self._engine.scorer
        coarse = scorer.coarse(found.item_coarse, found.bias, user, query)
        found, coarse = kept(question, play, found, coarse)
        z = self._engine.assembler.empty(len(found.rows))
        for place, hidden in scorer.hidden_parts(found.towers, user, query):
            self._engine.assembler.put_hidden(z, place, hidden)
        snapshot, price = self._assemble(question, found, z, fields, query)
        base = self._engine.artifact.sha256
        if question.log:
            self._metrics.bases.answered(base, snapshot.base, snapshot.beside)
        if play.version is not None:
            snapshot = self._replica.pinned_to(snapshot, play.version, base)
        frozen = question.arm == "control" or play.does == "prior"
        weights, weights_version = snapshot.weights_of(base)
        if frozen or weights is None:
            weights, weights_version = self._engine.prior, 0
        raw = logits(z, weights, self._engine.bounds)
        keys = scores(question.objective, raw, price)
        places, chances = self._plays.arranged(question, play, found, coarse, keys)
        ranked = self._answer(question, found, snapshot, weights_version, raw, keys, coarse, places)
        ranked.mode, ranked.experiments = play.mode, play.experiments
        if play.version is not None and snapshot.weights_through is not None:
            ranked.trained_through = snapshot.weights_through
            ranked.ages_ms["weights"] = max(0, question.t - snapshot.weights_through)
        if question.explain:
            self._explain(ranked, z, places, weights, raw)
        self._log(question, found, snapshot, ranked, z, places, chances, query)
        return ranked

    def _assemble(
        self, question: Question, found: Found, z: F32, fields: Fields, query: SideVector | None
    ) -> tuple[Snapshot, F32]:
        """Fill all of z but the hidden block: the snapshot of weights that belongs to it, and prices f32 (n,)."""
        engine = self._engine
        view = RequestView(
            t=question.t,
            surface=0 if query is None else 1,
            history=found.state,
            fields=engine.request_numbers(question.fields),
        )
        extra = engine.candidate_numbers(found.ids, fields) if found.ids is not None else None
        price = np.empty((len(found.rows), 1), np.float32)
        with engine.lock:
            for _ in engine.reading():
                engine.assembler.fill(z, view, found.rows, extra)
                snapshot = self._replica.snapshot
            gather(engine.catalogue.price.reshape(-1, 1), found.rows, _NO_PRICE, price)
        return snapshot, price[:, 0]

    def _answer(
        self,
        question: Question,
        found: Found,
        snapshot: Snapshot,
        weights_version: int,
        raw: npt.NDArray[np.float64],
        keys: F32,
        coarse: F32,
        places: npt.NDArray[np.int64],
    ) -> Ranked:
        chances = sigmoid(raw[:, places])
        freshness = self._freshness.of(question, snapshot)
        self._metrics.ranked(len(found.rows))
        self._metrics.duplicates.inc(found.removed["duplicates"])
        self._metrics.unknown.inc(int(np.count_nonzero(found.rows < 0)))
        return Ranked(
            request_id=question.request_id,
            base=self._engine.artifact.sha256,
            version=snapshot.version,
            weights_version=weights_version,
            arm=question.arm,
            ages_ms=freshness.ages_ms,
            trained_through=freshness.trained_through,
            stale=freshness.stale,
            objective=question.objective.name,
            removed=found.removed,
            ids=self._names(found, places),
            scores=keys[places],
            click=chances[0].astype(np.float32),
            purchase=chances[1].astype(np.float32),
            ctcvr=(chances[0] * chances[1]).astype(np.float32),
            coarse=coarse[places],
        )

    def _names(self, found: Found, places: npt.NDArray[np.int64]) -> Sequence[str]:
        if found.ids is not None:
            return found.ids.take(places)
        with self._engine.lock:
            return [self._engine.catalogue.ids(row) for row in found.rows[places].tolist()]

    def _explain(
        self,
        ranked: Ranked,
        z: F32,
        places: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float64],
        raw: npt.NDArray[np.float64],
    ) -> None:
        columns = np.empty((len(places), z.shape[0]), np.float32)
        write_columns(z, places, columns)
        engine = self._engine
        ranked.explain = explain_all(
            ranked.ids, raw[0, places], columns, weights[0], engine.terms, engine.bounds
        )

    def _log(
        self,
        question: Question,
        found: Found,
        snapshot: Snapshot,
        ranked: Ranked,
        z: F32,
        places: npt.NDArray[np.int64],
        chances: F32 | None,
        query: SideVector | None,
    ) -> None:
        if not question.log or not self._log_items or not ranked.ids:
            return
        names = list(ranked.ids[: self._log_items])
        count = fitting(self._log_items, z.shape[0], names)
        columns = np.empty((count, z.shape[0]), np.float32)
        write_columns(z, places[:count], columns)
        assert ranked.scores is not None
        self._impressions.put(
            Answered(
                request_id=question.request_id,
                t=question.t,
                tenant=self._tenant,
                user=question.user,
                session=question.session,
                arm=question.arm,
                mode=ranked.mode,
                experiments=ranked.experiments,
                base=ranked.base or "",
                version=snapshot.version,
                counters=dict(snapshot.offsets),
                user_state={} if found.state is None else offsets_of("event", found.state.offset),
                objective=question.objective.name,
                surface=0 if query is None else 1,
                query=question.query,
                fields=self._engine.request_numbers(question.fields),
                items=names[:count],
                scores=ranked.scores[:count],
                hidden=self._engine.scorer.hidden_width,
                z=columns.astype(np.float16),
                propensity=None if chances is None else chances[:count],
            )
        )
