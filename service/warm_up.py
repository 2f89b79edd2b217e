"""Makes the first request as fast as the later ones: runs every kernel and graph once on real rows. Logs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from service.answer_bytes import to_bytes
from service.objectives import Objectives
from service.ranked import Question
from service.requests import decode_rank

if TYPE_CHECKING:
    from service.bases import LoadedBase

_ROWS = 200


def warm_up(running: LoadedBase, objectives: Objectives, t: int) -> None:
    """Rank up to 200 items of the catalogue and one unknown, with and without a query, and explain."""
    catalogue = running.engine.catalogue
    names = [catalogue.ids(row) for row in range(min(_ROWS, len(catalogue)))]
    body = orjson.dumps({"items": [*names, "unknown item"]})
    _, ids, _ = decode_rank(body, catalogue.max_items)
    for query in (None, "warm up"):
        question = Question(
            "warm-up", t, objectives.get(None), "live", user="warm-up", query=query, explain=True, log=False
        )
        ranked = running.ranker.rank(question, ids, {})
        ranked.explain = None
        to_bytes(ranked, "columns")
    running.retriever.retrieve(
        Question("warm-up", t, objectives.get(None), "live", query="warm up", top_k=10, log=False), None, 100
    )
