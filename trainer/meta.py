"""The small things of a checkpoint: where the trainer stands, and what it served last. Only a form."""

from __future__ import annotations

from typing import Any

import msgspec


class Meta(msgspec.Struct):
    """The small things: where the trainer stands, and what it served last."""

    base: str
    v: int
    weights_version: int
    watermark: int
    offsets: dict[str, int]
    last: bytes
    served: dict[str, bytes]
    skipped: list[tuple[int, int]]
    skips: dict[str, list[tuple[int, int]]]
    totals: dict[str, int]
    poisoned: list[int]
    rules: dict[str, Any]
    log: dict[str, str] = {}  # cluster and topic ids that `offsets` belong to
    left_out: list[tuple[int, int]] = []  # places that counters were rebuilt without
    generation: int = 0  # logs gone through before this one
    first_cut: int = 0  # version v is cut at offset v - 1 - first_cut
    configured: str = ""  # the base that the settings named last; another one may answer since
    kept: float = 1.0  # share of negatives that the last cut learned
