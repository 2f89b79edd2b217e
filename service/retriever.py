"""Retrieval: candidates from the whole catalogue, then the fine ranking. The order of the answer is the ranker's."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from features.keys import actor_key
from features.user_state import UserState
from features.words import words
from service import filters
from service.engine import Engine
from service.ranked import Question, Ranked
from service.ranker import Ranker
from service.retrieval import best_rows
from service.title_index import TitleIndexer

Match = Literal["words", "none"]
Mask = npt.NDArray[np.bool_]
NEIGHBOURS = 64
RECENT = 20
OWN = 256
FEW = 10_000
"""Titles that a request indexes itself where they are not yet."""


class Retriever:
    """Coarse scores over all items, united with i2i neighbours of the user's recent items and her own items."""

    def __init__(self, engine: Engine, ranker: Ranker, titles: TitleIndexer) -> None:
        self._engine, self._ranker, self._titles = engine, ranker, titles

    def retrieve(self, question: Question, match: Match | None, keep: int) -> Ranked:
        """The best `question.top_k` of the catalogue; `keep` items reach the fine ranking.

        match: with `words` (the default with a query) only items whose title holds every word of the query, any
        of them where no title holds all; `none` leaves the query to the network. While more than a few titles
        are not indexed (after a start with many items) every query is left to the network.
        """
        engine = self._engine
        removed = {"duplicates": 0, "excluded": 0, "filtered": 0, "unavailable": 0}
        with engine.lock:
            engine.vectors.reserve(len(engine.catalogue))
            mask = self._allowed(question, match, removed)
            state = self._ranker.state(question)
            own = self._own(state, mask)
            found = self._ranker.look(state, None, np.zeros(0, np.int32), dict(removed))
        user = engine.sides.user(actor_key(question.user, question.session), found.history)
        query = engine.sides.query(question.query)
        left = user.coarse + (query.coarse if query is not None else np.float32(0.0))
        rows, _ = best_rows(engine.vectors, left, mask, max(keep - len(own), question.top_k or 1))
        rows = united(rows, own)
        with engine.lock:
            found = self._ranker.look(state, None, rows, removed)
        return self._ranker.finish(question, found, {})

    def _allowed(self, question: Question, match: Match | None, removed: dict[str, int]) -> Mask:
        catalogue = self._engine.catalogue
        mask = catalogue.available & ~catalogue.deleted
        removed["unavailable"] = len(mask) - int(np.count_nonzero(mask))
        if question.query is not None and match != "none" and self._titles.left < FEW:
            mask &= self._with_words(question.query, len(mask))
        before = int(np.count_nonzero(mask))
        if question.filters:
            mask &= filters.holds(catalogue, question.filters, None)
            removed["filtered"] = before - int(np.count_nonzero(mask))
        if question.exclude:
            rows = catalogue.rows(list(question.exclude))
            known = rows[rows >= 0]
            removed["excluded"] = int(np.count_nonzero(mask[known]))
            mask[known] = False
        return mask

    def _with_words(self, query: str, n: int) -> Mask:
        """Rows whose title holds all words of the query; any of them where none holds all."""
        catalogue = self._engine.catalogue
        wanted = words(query, next(iter(catalogue.schema.languages), "en"))
        if not wanted:
            return np.ones(n, np.bool_)
        every, some = np.ones(n, np.bool_), np.zeros(n, np.bool_)
        for word in set(wanted):
            having = np.zeros(n, np.bool_)
            having[catalogue.postings(word)] = True
            every &= having
            some |= having
        return every if every.any() else some

    def _own(self, state: UserState | None, mask: Mask) -> npt.NDArray[np.int32]:
        """Rows of the user's own items and of the neighbours of her recent ones, as far as they are allowed."""
        engine = self._engine
        if state is None or not len(state):
            return np.zeros(0, np.int32)
        own = np.unique(state.items[-OWN:])
        near = engine.realtime.neighbours(state.items[-RECENT:][::-1].copy(), NEIGHBOURS)
        rows = engine.catalogue.rows_of_keys(np.concatenate([own, near]))
        rows = np.unique(rows[rows >= 0])
        return rows[mask[rows]]


def united(rows: npt.NDArray[np.int32], more: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Both, ascending, each row once; both are so already, and `more` is short."""
    if not len(rows) or not len(more):
        return rows if len(rows) else more
    at = np.searchsorted(rows, more)
    new = rows[np.minimum(at, len(rows) - 1)] != more
    return np.insert(rows, at[new], more[new])
