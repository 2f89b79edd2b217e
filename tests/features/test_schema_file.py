"""The schema: what is read, what the fingerprint covers, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from features.errors import SchemaError
from features.schema import CLICK, PURCHASE, REFUND, NumericField, Schema

SPEC: dict[str, Any] = {
    "schema": 1,
    "fields": [
        {"name": "title", "scope": "item", "role": "title"},
        {"name": "cat", "scope": "item", "role": "category"},
        {"name": "margin", "scope": "item", "role": "numeric", "default": 0.2, "mean": 0.3, "std": 0.1},
        {"name": "bm25", "scope": "candidate", "role": "numeric"},
    ],
    "behaviours": {"click": ["click", "view"], "purchase": ["buy"]},
    "languages": ["en", "zh"],
}


def write(tmp_path: Path, spec: Any) -> Path:
    path = tmp_path / "schema.yaml"
    path.write_text(spec if isinstance(spec, str) else yaml.safe_dump(spec), encoding="utf-8")
    return path


def test_a_schema_is_read(tmp_path: Path) -> None:
    schema = Schema.load(write(tmp_path, SPEC))
    assert (schema.title, schema.category, schema.brand, schema.price) == ("title", "cat", None, None)
    assert schema.numeric == (
        NumericField("margin", "item", 0.2, 0.3, 0.1),
        NumericField("bm25", "candidate"),
    )
    assert (schema.behaviour("view"), schema.behaviour("buy"), schema.behaviour("wave")) == (
        CLICK,
        PURCHASE,
        -1,
    )
    assert schema.languages == ("en", "zh")
    assert Schema.from_dict(schema.to_dict()).fingerprint == schema.fingerprint


def test_the_default() -> None:
    schema = Schema.load(None)
    assert (schema.title, schema.price) == ("title", "price")
    assert schema.behaviour("refund") == REFUND
    assert schema.fingerprint == GOLDEN, "artifacts carry it: it must not change"


GOLDEN = "0059e8bd4324721c5bae4dd46056c5bd550897884873d6b2baa4d723a22cd65a"


def test_values_are_standardised() -> None:
    field = NumericField("margin", "item", 0.2, 0.3, 0.1)
    assert field.scaled(0.5) == pytest.approx(2.0)
    assert field.scaled(float("nan")) is None
    assert field.scaled("x") is None
    assert field.scaled(None) is None


def test_the_fingerprint_covers_meaning_and_not_the_order_of_keys() -> None:
    same = {**SPEC, "fields": [dict(reversed(entry.items())) for entry in SPEC["fields"]]}
    prints = {Schema(SPEC).fingerprint, Schema(same).fingerprint}
    assert len(prints) == 1
    for name, value in (
        ("languages", ["en"]),
        ("behaviours", {"click": ["click"], "purchase": ["buy", "view"]}),
        ("fields", [*SPEC["fields"][:3], {**SPEC["fields"][3], "scope": "request"}]),
        ("fields", [*SPEC["fields"][:2], {**SPEC["fields"][2], "mean": 0.4}, SPEC["fields"][3]]),
    ):
        prints.add(Schema({**SPEC, name: value}).fingerprint)
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": 2}, "schema"),
        ({"colour": 1}, "schema"),
        ({"fields": "x"}, "fields"),
        ({"fields": [{"role": "title"}]}, "fields[0]"),
        ({"fields": [{"name": "a", "role": "titel"}]}, "fields[0].role"),
        ({"fields": [{"name": "a", "role": "title", "scope": "request"}]}, "fields[0].scope"),
        ({"fields": [{"name": "a", "role": "numeric", "scope": "shop"}]}, "fields[0].scope"),
        ({"fields": [{"name": "a", "role": "numeric", "std": 0}]}, None),
        ({"fields": [{"name": "a", "role": "numeric", "mean": float("nan")}]}, None),
        ({"fields": [{"name": "a", "role": "title"}, {"name": "b", "role": "title"}]}, "fields"),
        ({"fields": [{"name": "a", "role": "numeric"}, {"name": "a", "role": "numeric"}]}, "fields"),
        ({"fields": [{"name": str(i), "role": "numeric"} for i in range(17)]}, "fields"),
        ({"behaviours": {"wave": ["x"]}}, "behaviours.wave"),
        ({"behaviours": {"click": "x"}}, "behaviours.click"),
        ({"behaviours": {"click": ["x"], "cart": ["x"]}}, "behaviours.cart"),
        ({"behaviours": ["click"]}, "behaviours"),
        ({"languages": 5}, "languages"),
        ({"languages": "en"}, "languages"),
    ],
)
def test_what_is_refused(change: dict[str, Any], field: str | None) -> None:
    with pytest.raises(SchemaError) as refused:
        Schema({**SPEC, **change})
    assert refused.value.field
    assert field is None or refused.value.field == field


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00", "x: !!python/object/apply:os.system [ls]"])
def test_a_file_that_is_no_schema(tmp_path: Path, text: str) -> None:
    with pytest.raises(SchemaError):
        Schema.load(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="missing"):
        Schema.load(tmp_path / "missing.yaml")
