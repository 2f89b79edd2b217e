"""A question to the ranker and its answer, as plain values. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.user_state import UserState
from service.arms import Arm
from service.experiments import Mode
from service.objectives import Objective
from service.requests import Condition

Column = npt.NDArray[np.float32] | None


class KnownState(NamedTuple):
    """What was read of the asker before her request is ranked: her state (None: nothing is known), or that her store
    failed."""

    state: UserState | None = None
    failed: bool = False


@dataclass(slots=True)
class Question:
    """One rank or retrieve request, checked. `t` is the time it is answered for (ms). `known`: her state, where it was
    read already (`states_beside.py`)."""

    request_id: str
    t: int
    objective: Objective
    arm: Arm
    user: str | None = None
    session: str | None = None
    query: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    filters: Sequence[Condition] = ()
    top_k: int | None = None
    pre_rank: int | None = None
    explain: bool = False
    missed_token: bool = False
    known: KnownState | None = None
    log: bool = True


@dataclass(slots=True)
class Ranked:
    """An answer: lists in answer order, best first; columns f32 (n,), None where no base model was there."""

    request_id: str
    base: str | None
    version: int
    weights_version: int
    arm: Arm
    ages_ms: dict[str, int | None]
    trained_through: int | None
    stale: bool
    objective: str
    removed: dict[str, int]
    ids: Sequence[str]
    scores: Column = None
    click: Column = None
    purchase: Column = None
    ctcvr: Column = None
    coarse: Column = None
    explain: list[dict[str, Any]] | None = None
    mode: Mode = "rank"
    experiments: Mapping[str, str] = field(default_factory=dict)
