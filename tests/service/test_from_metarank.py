"""What docs/from-metarank.md says of Metarank's events and requests, held against a real ranker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from features.schema import Schema
from service.testkit import ManualClock, ReplService


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = ReplService(tmp_path_factory.mktemp("shop"), ManualClock(1_769_860_900_000))
    yield made
    made.stop()


def test_its_events_are_taken_as_they_are(root: Path, shop: ReplService) -> None:
    text = (root / "docs/from-metarank.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = block.strip().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["item", "user", "ranking", "interaction"]
    status, answer = shop.call("POST", "/v1/events", block.encode())
    assert (status, answer["accepted"], answer["rejected"]) == (200, 4, [])
    again = shop.call("POST", "/v1/events", block.encode())[1]
    assert (again["accepted"], again["duplicates"]) == (0, 4), "an event counts once by its id"
    shop.settle()
    (item,) = shop.call("GET", "/v1/items?ids=item1")[1]["items"]
    assert item["fields"] == {"title": "Red lantern", "color": ["red", "white"], "is_new": True}
    stored = [json.loads(record.body) for record in shop.service.log.read("event", 0)]
    assert stored[2]["items"][0]["id"] == "item1"
    assert "relevancy" not in stored[2]["items"][0]


def test_a_request_in_its_form_needs_what_the_document_says(shop: ReplService) -> None:
    fields = [{"name": "relevancy", "value": 2.0}]
    body = {"user": "user1", "session": "session1", "items": [{"id": "item1", "fields": fields}, {"id": "item2"}]}
    for extra in ({"id": "81f46c36"}, {"timestamp": "1769860801000"}):
        status, answer = shop.call("POST", "/v1/rank", {**body, **extra})
        assert (status, answer["error"]["field"]) == (422, next(iter(extra)))
    answer = shop.rank(body["items"], query="lantern", format="rows")  # type: ignore[arg-type]
    assert {"id", "score", "click", "purchase"} <= answer["items"][0].keys()


def test_the_schema_takes_what_the_table_of_features_names() -> None:
    numbers = [("margin", "item"), ("hour", "request"), ("relevancy", "candidate")]
    spec = {"schema": 1, "fields": [{"name": n, "scope": s, "role": "numeric"} for n, s in numbers]}
    assert [(field.name, field.scope) for field in Schema(spec).numeric] == numbers
