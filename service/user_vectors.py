"""User and query vectors of the base model, kept between requests. It holds no user state and scores nothing."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue
from features.user_state import UserState
from service.item_vectors import ItemVectors
from service.item_vectors_kernels import gather
from service.lru import Lru
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
    made_from = np.where(rows >= 0, vectors.content[np.maximum(rows, 0)], 0)
    stamp = hash((state.offset, len(state), made_from.tobytes()))
    return History(towers, state.kinds[-LENGTH:].copy(), state.times[-LENGTH:].copy(), stamp)


class SideVectors:
    """Least recently used vectors: a user's by (user, session, what her history is), a query's by its text."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lock = threading.Lock()
        self._users: Lru[tuple[int, int], SideVector] = Lru(CAPACITY)
        self._queries: Lru[str, SideVector] = Lru(CAPACITY)

    def user(self, actor: int, history: History) -> SideVector:
        """The vector of an actor key (0: nobody); `history.stamp` tells whether one of before still holds."""
        key = (actor, history.stamp)
        with self._lock:
            found = self._users.get(key)
        if found is None:
            found = self._scorer.encode_actor(actor, history.towers, history.kinds, history.times)
            with self._lock:
                self._users.put(key, found)
        return found

    def query(self, text: str | None) -> SideVector | None:
        """The query's vector; None without words (recommendation)."""
        if text is None:
            return None
        with self._lock:
            found = self._queries.get(text)
        if found is None:
            found = self._scorer.encode_query(text)
            if found is not None:
                with self._lock:
                    self._queries.put(text, found)
        return found
