"""Candidates with what the first look at them gave, and which of them reach the fine ranking. It scores nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.user_state import UserState
from service.candidates import Candidates
from service.experiments import Play
from service.objectives import order
from service.ranked import Question
from service.user_vectors import History

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]


@dataclass(slots=True)
class Found:
    """Candidates with what the first look gave: rows i32 (n,), towers f32 (n, 64), coarse f32 (n, 32).

    ids None: those of the rows, looked up for what is answered only.
    """

    ids: Candidates | None
    rows: Rows
    towers: F32
    item_coarse: F32
    bias: F32
    removed: dict[str, int]
    state: UserState | None
    history: History


def kept(question: Question, play: Play, found: Found, coarse: F32) -> tuple[Found, F32]:
    """What reaches the fine ranking: with `pre_rank` the best of the coarse one, in the order they came.

    Where the order sent is kept, no more is ranked than is answered; /v1/retrieve, which is sent none, has the coarse
    ranking's order.
    """
    n = len(found.rows)
    if play.keeps_order:
        if found.ids is None:
            return _some(found, coarse, order(coarse)[: question.top_k])
        top = min(n, question.top_k or n)
        return (found, coarse) if top == n else _some(found, coarse, np.arange(top))
    if question.pre_rank is None or question.pre_rank >= n:
        return found, coarse
    return _some(found, coarse, np.sort(order(coarse)[: question.pre_rank]))


def _some(found: Found, coarse: F32, keep: npt.NDArray[np.int64]) -> tuple[Found, F32]:
    """The candidates at these places."""
    ids = None if found.ids is None else found.ids.take(keep)
    small = Found(
        ids,
        found.rows[keep],
        found.towers[keep],
        found.item_coarse[keep],
        found.bias[keep],
        found.removed,
        found.state,
        found.history,
    )
    return small, coarse[keep]
