"""Makes the first request as fast as the later ones: runs every kernel and graph once on real rows. Logs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.objectives import Objectives
from service.ranked import Question

if TYPE_CHECKING:
    from service.core import Running

_ROWS = 200


def warm_up(running: Running, objectives: Objectives, t: int) -> None:
    """Rank up to 200 items of the catalogue and one unknown, with and without a query, and explain."""
    catalogue = running.engine.catalogue
    ids = [catalogue.ids(row) for row in range(min(_ROWS, len(catalogue)))]
    for query in (None, "warm up"):
        question = Question(
            "warm-up", t, objectives.get(None), "live", user="warm-up", query=query, explain=True, log=False
        )
        running.ranker.rank(question, [*ids, "\0unknown"], {})
    running.retriever.retrieve(
        Question("warm-up", t, objectives.get(None), "live", query="warm up", top_k=10, log=False), None, 100
    )
