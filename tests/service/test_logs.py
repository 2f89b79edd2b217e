"""What is logged of requests: a JSON line each where the settings say so, errors under the request's id, no payload."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service.logs import JsonFormatter

ASK = {"items": ["i-secret"], "user": "anna-secret", "query": "lamp-secret"}


class Lines:
    def __init__(self) -> None:
        self.text = io.StringIO()

    def of(self, message: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [line for line in lines if line["message"].startswith(message)]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the process would write at level info."""
    made = Lines()
    handler = logging.StreamHandler(made.text)
    handler.setFormatter(JsonFormatter())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield made
    root.removeHandler(handler)
    root.setLevel(level)


def test_one_line_a_request_without_payload_or_key(repl_service_factory, lines: Lines) -> None:
    shop = repl_service_factory(request_log="info")
    status, answer = shop.call("POST", "/v1/rank", ASK, {"Authorization": f"Bearer {shop.admin_key}"})
    refused = shop.call("POST", "/v1/rank", {**ASK, "itmes-secret": 1})
    shop.call("GET", "/health/ready")
    assert (status, refused[0]) == (200, 422)
    first, second = lines.of("answered")
    assert (first["request_id"], first["route"], first["method"]) == (answer["request_id"], "/v1/rank", "POST")
    assert (first["status"], first["tenant"], first["key"], first["level"]) == (200, "default", "admin", "info")
    assert 0 < first["ms"] < 5_000
    assert (second["request_id"], second["status"], second["key"]) == (refused[1]["request_id"], 422, None)
    assert "secret" not in lines.text.getvalue()
    assert shop.admin_key not in lines.text.getvalue()


def test_by_default_only_the_slow_and_the_failed_are_told(repl_service_factory, lines: Lines) -> None:
    shop = repl_service_factory()
    assert shop.call("POST", "/v1/rank", ASK)[0] == 200
    assert lines.of("answered") == []


def test_every_line_of_an_unforeseen_error_carries_the_id(repl_service_factory, lines: Lines, monkeypatch) -> None:
    shop = repl_service_factory()

    def fails(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(shop.service.running.ranker, "rank", fails)
    status, answer = shop.call("POST", "/v1/rank", ASK)
    assert status == 500
    told = [line for line in lines.of("") if line["level"] == "error"]
    assert len(told) >= 2, "ours with the traceback, and the server's"
    assert {line["request_id"] for line in told} == {answer["request_id"]}
    assert any("a defect" in line.get("exception", "") for line in told)
    assert "secret" not in lines.text.getvalue()
