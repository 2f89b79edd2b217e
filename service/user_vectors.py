"""User and query vectors of the base model, kept between requests. It holds no user state and scores nothing."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue
from features.keys import text_key
from features.user_state import UserState
from service.item_vectors import ItemVectors
from service.item_vectors_kernels import gather
from service.lru import LruRows
from service.scorer import Scorer, SideVector

CAPACITY = 20_000
LENGTH = 50
"""Interactions that the user tower looks at."""


class History(NamedTuple):
    """The newest interactions of an actor, oldest first, as copies: towers f32 (L, 64), kinds u8, times i64."""

    towers: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.uint8]
    times: npt.NDArray[np.int64]
    stamp: int


def history_of(catalogue: Catalogue, vectors: ItemVectors, state: UserState | None) -> History:
    """The newest interactions of a state with the vectors of their items; the caller holds the engine's lock."""
    if state is None or not len(state):
        empty = np.zeros((0, vectors.tower.shape[1]), np.float32)
        return History(empty, np.zeros(0, np.uint8), np.zeros(0, np.int64), 0)
    rows = catalogue.rows_of_keys(state.items[-LENGTH:])
    towers = np.empty((len(rows), vectors.tower.shape[1]), np.float32)
    gather(vectors.tower, rows, vectors.unknown[0], towers)
    there = (rows >= 0) & (rows < len(vectors.content))  # the newest items' places are made with their vectors
    made_from = np.where(there, vectors.content[np.where(there, rows, 0)], 0)
    stamp = hash((state.offset, len(state), made_from.tobytes()))
    return History(towers, state.kinds[-LENGTH:].copy(), state.times[-LENGTH:].copy(), stamp)


class SideVectors:
    """Least recently used vectors: a user's with what her history was, a query's by its text."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lock = threading.Lock()
        self._tower = len(scorer.no_query.tower)
        width = self._tower + len(scorer.no_query.coarse)
        self._users, self._queries = LruRows(CAPACITY, width), LruRows(CAPACITY, width)

    def user(self, actor: int, history: History) -> SideVector:
        """The vector of an actor key (0: nobody); `history.stamp` tells whether the last one still holds."""
        found = self._held(self._users, actor, history.stamp)
        if found is None:
            found = self._scorer.encode_actor(actor, history.towers, history.kinds, history.times)
            self._hold(self._users, actor, found, history.stamp)
        return found

    def query(self, text: str | None) -> SideVector | None:
        """The query's vector; None without words (recommendation)."""
        if text is None:
            return None
        key = text_key("query", text)
        found = self._held(self._queries, key)
        if found is None:
            found = self._scorer.encode_query(text)
            if found is not None:
                self._hold(self._queries, key, found)
        return found

    def _held(self, rows: LruRows, key: int, stamp: int = 0) -> SideVector | None:
        with self._lock:
            row = rows.get(key, stamp)
        return None if row is None else SideVector(row[: self._tower], row[self._tower :])

    def _hold(self, rows: LruRows, key: int, made: SideVector, stamp: int = 0) -> None:
        with self._lock:
            rows.put(key, np.concatenate(made), stamp)
