"""Rank answers as bytes: columns straight from numpy, or rows. The shapes are those of `service/answers.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from service.candidates import Candidates
from service.ranked import Ranked

_COLUMNS = ("scores", "click", "purchase", "ctcvr", "coarse")


def _head(ranked: Ranked) -> dict[str, Any]:
    return {
        "request_id": ranked.request_id,
        "base": ranked.base,
        "version": ranked.version,
        "weights_version": ranked.weights_version,
        "arm": ranked.arm,
        "mode": ranked.mode,
        "experiments": ranked.experiments,
        "ages_ms": ranked.ages_ms,
        "trained_through": ranked.trained_through,
        "stale": ranked.stale,
        "objective": ranked.objective,
        "removed": ranked.removed,
    }


def columns(ranked: Ranked) -> bytes:
    """Format `columns`: one list a quantity, all in answer order."""
    answer = _head(ranked)
    answer["ids"] = _ids(ranked.ids)
    for name in _COLUMNS:
        answer[name] = getattr(ranked, name)
    if ranked.explain is not None:
        answer["explain"] = ranked.explain
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def rows(ranked: Ranked) -> bytes:
    """Format `rows`: one object an item."""
    answer = _head(ranked)
    listed = [_listed(getattr(ranked, name), len(ranked.ids)) for name in _COLUMNS]
    names = ("id", "score", *_COLUMNS[1:])
    answer["items"] = [dict(zip(names, row, strict=True)) for row in zip(ranked.ids, *listed, strict=True)]
    if ranked.explain is not None:
        answer["explain"] = ranked.explain
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _ids(ids: Sequence[str]) -> orjson.Fragment | list[str]:
    written = ids.json() if isinstance(ids, Candidates) else None
    return list(ids) if written is None else orjson.Fragment(written)


def _listed(values: Any, n: int) -> list[Any]:
    return list(values) if isinstance(values, np.ndarray) else [None] * n


def to_bytes(ranked: Ranked, form: str) -> bytes:
    """The answer in format `columns` or `rows`."""
    return rows(ranked) if form == "rows" else columns(ranked)
