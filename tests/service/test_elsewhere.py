"""Bound to another address than loopback: writing and asking need the key, and the key is never logged."""

from __future__ import annotations

import logging

import pytest

CALLS = [
    ("POST", "/v1/rank", {"items": ["a"]}),
    ("POST", "/v1/retrieve", {}),
    ("POST", "/v1/events", {"id": "e", "timestamp": 1, "event": "item", "item": "a"}),
    ("POST", "/v1/embeddings", {"items": ["a"]}),
    ("GET", "/v1/items?ids=a", None),
    ("POST", "/v1/versions/1/pin", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_calls_need_the_key(repl_service_factory, method: str, path: str, body: object, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    shop = repl_service_factory(host="0.0.0.0")
    status, answer = shop.call(method, path, body)
    assert (status, answer["error"]["code"]) == (401, "unauthorised")
    wrong = shop.call(method, path, body, {"Authorization": "Bearer nonsense"})
    assert wrong[0] == 401
    right = shop.call(
        method, path, body, {"Authorization": f"Bearer {shop.admin_key}", "Host": "shop.example"}
    )
    assert right[0] in (200, 404)
    for open_path in ("/health/live", "/metrics", "/v1/versions"):
        assert shop.call("GET", open_path)[0] == 200
    assert shop.admin_key not in caplog.text
