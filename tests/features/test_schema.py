"""The schema: what its YAML may say, what its fingerprint covers, and errors that say where and what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from features.errors import SchemaError
from features.schema import CART, CLICK, PURCHASE, Schema

TEXT = """
schema: 1
fields:
  - {name: name, scope: item, role: title}
  - {name: margin, scope: item, role: numeric, default: 0.2, mean: 0.3, std: 0.1}
  - {name: bm25, scope: candidate, role: numeric}
behaviours: {click: [click, pv], purchase: [buy]}
languages: [en, de]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "schema.yaml"
    found.write_text(TEXT)
    return found


def test_a_file_says_what_fields_mean(path: Path) -> None:
    schema = Schema.load(path)
    assert (schema.title, schema.category, schema.price) == ("name", None, None)
    assert [(f.name, f.scope, f.default, f.std) for f in schema.numeric] == [
        ("margin", "item", 0.2, 0.1),
        ("bm25", "candidate", 0.0, 1.0),
    ]
    assert [schema.behaviour(kind) for kind in ("pv", "buy", "cart")] == [CLICK, PURCHASE, -1]
    assert Schema.default().behaviour("cart") == CART
    margin = schema.numeric[0]
    assert margin.scaled(0.4) == pytest.approx(1)
    assert [margin.scaled(value) for value in (None, "1", float("nan"), float("inf"))] == [None] * 4


def test_the_fingerprint_covers_meaning_only(path: Path) -> None:
    schema = Schema.load(path)
    assert Schema.from_dict(schema.to_dict()).fingerprint == schema.fingerprint
    path.write_text(
        TEXT.replace("role: numeric}", "std: 1, role: numeric, default: 0}").replace(
            "[click, pv]", "[pv, click]"
        )
    )
    assert Schema.load(path).fingerprint == schema.fingerprint
    changes = {
        "mean: 0.3": "mean: 0.4",
        "scope: candidate": "scope: request",
        "[buy]": "[buy, order]",
        "de]": "fr]",
    }
    prints = {schema.fingerprint}
    for old, new in changes.items():
        path.write_text(TEXT.replace(old, new))
        prints.add(Schema.load(path).fingerprint)
    assert len(prints) == 1 + len(changes)


def test_the_fingerprint_of_the_default_stays() -> None:
    assert Schema.load(None).fingerprint == Schema.default().fingerprint
    assert Schema.default().fingerprint.startswith("0059e8bd4324721c")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema": 2}, "schema"),
    ({"felds": []}, "schema"),
    ({"fields": None}, "fields"),
    ({"fields": ["title"]}, "fields[0]"),
    ({"fields": [{"name": "a", "role": "colour"}]}, "fields[0].role"),
    ({"fields": [{"name": "a", "role": "title", "scope": "request"}]}, "fields[0].scope"),
    ({"fields": [{"name": "a", "role": "numeric", "scope": "user"}]}, "fields[0].scope"),
    ({"fields": [{"name": "a", "role": "numeric", "std": 0}]}, "fields[0].std"),
    ({"fields": [{"name": "a", "role": "numeric", "mean": "x"}]}, "fields[0].mean"),
    ({"fields": [{"name": "a", "role": "title", "mean": 1}]}, "fields[0].mean"),
    ({"fields": [{"name": "a", "role": "title", "weight": 1}]}, "fields[0]"),
    ({"fields": [{"name": "a", "role": "title"}, {"name": "b", "role": "title"}]}, "fields"),
    ({"fields": [{"name": "a", "role": "numeric"}] * 2}, "fields"),
    ({"fields": [{"name": f"a{n}", "role": "numeric"} for n in range(17)]}, "fields"),
    ({"behaviours": None}, "behaviours"),
    ({"behaviours": {"look": ["a"]}}, "behaviours.look"),
    ({"behaviours": {"click": [1]}}, "behaviours.click"),
    ({"behaviours": {"click": ["a"], "cart": ["a"]}}, "behaviours.cart"),
    ({"languages": "en"}, "languages"),
    ({"languages": None}, "languages"),
]


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_errors_say_where(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SchemaError) as refused:
        Schema({"schema": 1, **change})
    assert refused.value.field == field


@pytest.mark.parametrize("text", ["[1]", "a: [", "\x00"])
def test_a_file_that_is_no_schema(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SchemaError, match="schema"):
        Schema.load(path)
    with pytest.raises(SchemaError, match="cannot read"):
        Schema.load(path.with_name("none.yaml"))
