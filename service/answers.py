"""What the ranker answers, as structs: the source of the OpenAPI schemas, and of the small answers themselves.

The hot answers (rank, retrieve) are written column by column from numpy arrays in `service/answer_bytes.py`; a test
keeps both in step.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """What went wrong, where, and what to do."""

    code: str
    message: str
    field: str | None = None
    value: str | None = None
    hint: str | None = None


class ErrorAnswer(msgspec.Struct):
    """The one shape of every error."""

    error: ErrorBody
    request_id: str


class Ages(msgspec.Struct):
    """How old each of the three states is, in milliseconds; null before there is one."""

    user: int | None
    counters: int | None
    weights: int | None


class Removed(msgspec.Struct):
    """Candidates that were sent and not ranked, by reason."""

    duplicates: int
    excluded: int
    filtered: int
    unavailable: int


class Term(msgspec.Struct):
    """One term of a logit: contribution = value · weight; blocks have value and weight null."""

    name: str
    value: float | None
    weight: float | None
    contribution: float


class Explanation(msgspec.Struct):
    """Why an item stands where it does: the terms of its click logit, which add up to it exactly."""

    id: str
    logit: float
    terms: list[Term]


class _Head(msgspec.Struct):
    request_id: str
    base: str | None
    version: int
    weights_version: int
    arm: Literal["live", "control"]
    mode: Literal["rank", "passthrough"]
    experiments: dict[str, str]
    ages_ms: Ages
    trained_through: int | None
    stale: bool
    objective: str
    removed: Removed


class RankAnswer(_Head):
    """POST /v1/rank and /v1/retrieve, columns: all lists have the same order, best first; null without a base."""

    ids: list[str]
    scores: list[float] | None
    click: list[float] | None
    purchase: list[float] | None
    ctcvr: list[float] | None
    coarse: list[float] | None
    explain: list[Explanation] | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct):
    """One item of an answer in format rows."""

    id: str
    score: float | None
    click: float | None
    purchase: float | None
    ctcvr: float | None
    coarse: float | None


class RankRows(_Head):
    """The same answer with `format: "rows"`."""

    items: list[Row]
    explain: list[Explanation] | msgspec.UnsetType = msgspec.UNSET


class Rejected(msgspec.Struct, omit_defaults=True):
    """One event that was not taken."""

    index: int
    message: str
    field: str | None = None
    value: str | None = None
    hint: str | None = None


class EventsAnswer(msgspec.Struct, omit_defaults=True):
    """POST /v1/events; `token` goes into `after` of the next rank request."""

    accepted: int
    duplicates: int
    rejected: list[Rejected]
    token: str | None
    reason: str | None = None


class Vectors(msgspec.Struct):
    """Vectors of a list, in its order."""

    ids: list[str]
    coarse: list[list[float]]
    tower: list[list[float]]
    known: list[bool]


class EmbeddingsAnswer(msgspec.Struct):
    """POST /v1/embeddings; a list that was not asked for is empty."""

    request_id: str
    base: str
    users: Vectors
    items: Vectors
    queries: Vectors


class Item(msgspec.Struct):
    """An item of the catalogue."""

    id: str
    fields: dict[str, Any]
    available: bool


class ItemsAnswer(msgspec.Struct):
    """GET /v1/items."""

    request_id: str
    items: list[Item]


class VersionInfo(msgspec.Struct):
    """A weight version without its weights."""

    v: int
    base: str
    kind: str
    weights_version: int
    offsets: dict[str, int]
    watermark: int
    counters_through: int
    held: str | None
    hash: str
    created: int
    pinned: bool


class VersionList(msgspec.Struct):
    """Versions, newest first; `next` goes into `before` for the following page."""

    request_id: str
    serving: int
    pinned: int | None
    versions: list[VersionInfo]
    next: int | None


class VersionAnswer(msgspec.Struct):
    """One version, with the norm of its weights and its distance from the prior (or `against`), by head."""

    request_id: str
    version: VersionInfo
    norms: dict[str, float]
    moved: dict[str, float]


class ControlAnswer(msgspec.Struct):
    """A pin, unpin or rollback: `pending` until the trainer has done it (status 202)."""

    request_id: str
    pending: bool
    serving: int
    offset: int


class BasesAnswer(msgspec.Struct):
    """GET /v1/bases: what the trainer says of the rollout, as `base status --json` (null: there is no trainer), and
    what this ranker has loaded."""

    request_id: str
    version: int | None
    ranker: dict[str, Any]
    live: str | None = None
    staged: str | None = None
    beside: str | None = None
    state: str | None = None
    behind: int | None = None
    percent: float | None = None
    figures: dict[str, float | None] | None = None
    hinders: str | None = None
    fetch_failed: str | None = None
    counts: dict[str, int] | None = None
    last: dict[str, Any] | None = None


class BaseControlAnswer(msgspec.Struct):
    """A stage, promotion or revert: `pending` until the trainer has done it (status 202); `sha256`: of which base."""

    request_id: str
    pending: bool
    offset: int
    sha256: str | None


class ModeAnswer(msgspec.Struct):
    """GET and POST /v1/mode: the mode of each surface, `recommendation` and `search`."""

    request_id: str
    modes: dict[str, Literal["rank", "passthrough"]]


class HealthAnswer(msgspec.Struct, omit_defaults=True):
    """Liveness or readiness; `reasons` says what is missing."""

    status: Literal["ok", "not_ready"]
    reasons: list[str] = []


class StatusAnswer(msgspec.Struct):
    """Numbers for the page. `behind`: events of the log that are not in user states yet (null: the log does not
    answer). `trainer`: the trainer's own status, and its `behind`: records that it has not learned, and for how many
    ms the oldest of them has waited. `bases`: those loaded here, which one `answers`, the `percent` of the
    users that another one answers, what is `loading` and why one `failed`."""

    request_id: str
    base: str | None
    version: int
    weights_version: int
    ages_ms: Ages
    trained_through: int | None
    stale: bool
    stale_reason: str | None
    bases: dict[str, Any]
    items: int
    items_waiting: int
    events: dict[str, int]
    events_per_second: float
    served: dict[str, int]
    import_shift_ms: int | None
    objectives: list[str]
    behind: int | None
    trainer: dict[str, Any]
