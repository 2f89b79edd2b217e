"""Requests and answers that the OpenAPI document shows. They are shown, never sent."""

from __future__ import annotations

from typing import Any

BASE = "6f1c…"
RANK: dict[str, Any] = {
    "user": "17705",
    "query": "lantern",
    "items": ["22423", "85123A", {"id": "47566", "fields": {"delivery_days": 2}}],
    "filter": [{"field": "price", "op": "lt", "value": 20}],
    "objective": "purchase",
    "top_k": 10,
}
RETRIEVE: dict[str, Any] = {"user": "17705", "query": "lantern", "top_k": 20}
RANKED: dict[str, Any] = {
    "request_id": "3f9a0c5d1e2b4a6878c0d1e2",
    "base": BASE,
    "version": 4711,
    "weights_version": 4709,
    "arm": "live",
    "mode": "rank",
    "experiments": {"frozen-or-not": "learning"},
    "ages_ms": {"user": 12, "counters": 5214, "weights": 5214},
    "trained_through": 1765432100000,
    "stale": False,
    "objective": "purchase",
    "removed": {"duplicates": 0, "excluded": 0, "filtered": 1, "unavailable": 0},
    "ids": ["85123A", "22423"],
    "scores": [-4.1, -5.7],
    "click": [0.11, 0.05],
    "purchase": [0.15, 0.067],
    "ctcvr": [0.0165, 0.00335],
    "coarse": [1.2, 0.4],
}
EVENTS: list[dict[str, Any]] = [
    {
        "id": "e-1",
        "timestamp": 1765432100000,
        "event": "interaction",
        "type": "click",
        "item": "85123A",
        "user": "17705",
        "ranking": "3f9a0c5d1e2b4a6878c0d1e2",
    }
]
EVENTS_TAKEN: dict[str, Any] = {
    "accepted": 1,
    "duplicates": 0,
    "rejected": [],
    "token": "eyJldmVudC8wIjo0Mn0",
}
EMBEDDINGS: dict[str, Any] = {"users": ["17705"], "items": ["85123A"], "queries": ["lantern"]}
VERSION: dict[str, Any] = {
    "v": 4711,
    "base": BASE,
    "kind": "push",
    "weights_version": 4709,
    "offsets": {"event/0": 99, "served/0": 12},
    "watermark": 1765432100000,
    "counters_through": 1765432095000,
    "held": None,
    "hash": "9b2e…",
    "created": 1765432100200,
    "pinned": False,
}
CONTROL: dict[str, Any] = {
    "request_id": "3f9a0c5d1e2b4a6878c0d1e2",
    "pending": False,
    "serving": 4711,
    "offset": 3,
}
