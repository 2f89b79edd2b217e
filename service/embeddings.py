"""Vectors of users, items and queries as the base model makes them. It ranks nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.keys import actor_key
from service.engine import Engine
from service.item_vectors_kernels import gather
from service.user_vectors import history_of

F32 = npt.NDArray[np.float32]


def _columns(ids: list[str], coarse: F32, tower: F32, known: list[bool]) -> dict[str, Any]:
    return {"ids": ids, "coarse": coarse, "tower": tower, "known": known}


def _items(engine: Engine, ids: list[str]) -> dict[str, Any]:
    vectors = engine.vectors
    tower = np.empty((len(ids), vectors.tower.shape[1]), np.float32)
    coarse = np.empty((len(ids), vectors.coarse.shape[1]), np.float32)
    with engine.lock:
        rows = engine.catalogue.rows(ids)
        gather(vectors.tower, rows, vectors.unknown[0], tower)
        gather(vectors.coarse, rows, vectors.unknown[1], coarse)
    return _columns(ids, coarse, tower, (rows >= 0).tolist())


def _users(engine: Engine, ids: list[str]) -> dict[str, Any]:
    towers, coarse, known = [], [], []
    for name in ids:
        key = actor_key(name, None)
        read = engine.users.get(key) if engine.users.elsewhere else None  # a round trip: nobody waits for it
        with engine.lock:
            state = read if engine.users.elsewhere else engine.users.get(key)
            history = history_of(engine.catalogue, engine.vectors, state)
        side = engine.sides.user(key, history)
        towers.append(side.tower)
        coarse.append(side.coarse)
        known.append(state is not None and len(state) > 0)
    return _columns(ids, _stack(coarse, engine.vectors.coarse), _stack(towers, engine.vectors.tower), known)


def _queries(engine: Engine, texts: list[str]) -> dict[str, Any]:
    sides = [engine.sides.query(text) for text in texts]
    none = engine.scorer.no_query
    towers = [side.tower if side is not None else none.tower for side in sides]
    coarse = [side.coarse if side is not None else none.coarse for side in sides]
    known = [side is not None for side in sides]
    return _columns(texts, _stack(coarse, engine.vectors.coarse), _stack(towers, engine.vectors.tower), known)


def _stack(rows: Sequence[F32], like: F32) -> F32:
    if not rows:
        return np.zeros((0, like.shape[1]), np.float32)
    return np.ascontiguousarray(np.stack(rows), np.float32)


def embed(engine: Engine, users: list[str], items: list[str], queries: list[str]) -> dict[str, Any]:
    """{users, items, queries}: each {ids, coarse f32 (n, 32), tower f32 (n, 64), known}, in the order sent.

    An item not in the catalogue has the vectors of an unknown item, a query without words zeros.
    """
    return {
        "users": _users(engine, users),
        "items": _items(engine, items),
        "queries": _queries(engine, queries),
    }
