"""`repl-ranker schema diff`: what each change asks for, held against what a ranker and a base do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from features.errors import SchemaError
from features.layout import ZLayout
from features.schema import DEFAULT, Schema
from service.artifact import load_artifact
from service.cli import app
from service.schema_diff import ORDER, Side, differences, verdict_of
from service.testkit import BASE
from tests.trainer.learning_kit import make_base

SAMPLE = Path("deploy/sample/base")
MARGIN = {"name": "margin", "scope": "item", "role": "numeric", "default": 0.2, "mean": 0.3, "std": 0.1}
HOUR = {"name": "hour", "scope": "request", "role": "numeric"}
NEW = {"name": "n", "role": "numeric"}
USUAL = {**DEFAULT, "fields": [*DEFAULT["fields"], MARGIN, HOUR]}


def changed(**parts: Any) -> Side:
    return Side(Schema({**USUAL, **parts}), None, None)


def fields(*kept: dict[str, Any]) -> list[dict[str, Any]]:
    return [*DEFAULT["fields"], *kept]


def renamed(role: str, name: str | None) -> list[dict[str, Any]]:
    found = [{**one, "name": name} if one["role"] == role else one for one in USUAL["fields"]]
    return [one for one in found if one["name"] is not None]


def behaviours(**parts: list[str]) -> dict[str, list[str]]:
    return {**DEFAULT["behaviours"], **parts}


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "compatible", ""),
    ({"behaviours": behaviours(click=["pv", "view", "click"])}, "compatible", ""),
    ({"fields": fields(HOUR, MARGIN)}, "refit last layer", "order of numeric: margin, hour → hour, margin"),
    ({"fields": fields(MARGIN)}, "refit last layer", "numeric hour: an input → gone"),
    ({"fields": fields(MARGIN, HOUR, NEW)}, "refit last layer", "numeric n: none → an input"),
    ({"fields": fields({**MARGIN, "std": 0.2}, HOUR)}, "refit last layer", "numeric margin.std: 0.1 → 0.2"),
    ({"fields": fields({**MARGIN, "mean": 0.0}, HOUR)}, "refit last layer", "numeric margin.mean: 0.3 → 0.0"),
    ({"fields": fields({**MARGIN, "default": 0.0}, HOUR)}, "refit last layer", "numeric margin.default: 0.2 → 0.0"),
    ({"fields": fields(MARGIN, {**HOUR, "scope": "candidate"})}, "refit last layer", "hour.scope: request → candidate"),
    ({"fields": renamed("price", None)}, "refit last layer", "price: price → none"),
    ({"fields": renamed("title", "name")}, "retrain", "title: title → name"),
    ({"fields": renamed("category", None)}, "retrain", "category: category → none"),
    ({"fields": renamed("brand", "maker")}, "retrain", "brand: brand → maker"),
    ({"behaviours": behaviours(click=["click", "view", "pv", "tap"])}, "refit last layer", "type tap: none → click"),
    ({"behaviours": behaviours(refund=["refund"])}, "refit last layer", "type return: refund → none"),
    (
        {"behaviours": behaviours(click=["click", "pv"], favourite=[*DEFAULT["behaviours"]["favourite"], "view"])},
        "retrain",
        "type view: click → favourite",
    ),
    ({"languages": ["de"]}, "retrain", "languages: en → de"),
    ({"languages": ["en", "de"]}, "refit last layer", "languages: en → en, de"),
]


@pytest.mark.parametrize(("parts", "verdict", "says"), CASES)
def test_each_change(parts: dict[str, Any], verdict: str, says: str) -> None:
    a, b = changed(), changed(**parts)
    found = differences(a, b)
    assert verdict_of(found) == verdict
    assert (verdict == "compatible") is (a.schema.fingerprint == b.schema.fingerprint), "as a ranker judges"
    if says:
        assert len(found) == 1, found
        assert says in str(found[0])
        assert found[0].why
        back = differences(b, a)
        assert verdict_of(back) == verdict, "the way back asks for the same"


def test_what_refits_changes_no_input_of_the_network_and_what_retrains_does() -> None:
    """Adding, dropping, moving numeric fields moves z's `field` block alone."""
    hidden = 24
    before = ZLayout(hidden, changed().schema)
    for parts, verdict, _ in CASES:
        after = ZLayout(hidden, changed(**parts).schema)
        same = [name for name in before.names if not name.startswith("field.")]
        assert [name for name in after.names if not name.startswith("field.")] == same
        if verdict == "retrain":
            old, new = changed().schema, changed(**parts).schema
            moved = any(getattr(old, role) != getattr(new, role) for role in ("title", "category", "brand"))
            assert moved or parts.keys() & {"languages", "behaviours"}


def test_the_hardest_one_is_the_verdict_and_stands_first() -> None:
    found = differences(changed(), changed(fields=[*renamed("title", "name"), NEW], languages=["en", "fr"]))
    assert [one.verdict for one in found] == ["retrain", "refit last layer", "refit last layer"]
    assert verdict_of(found) == ORDER[-1]


def call(*words: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["schema", "diff", *words, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_the_command_takes_bases_and_files(tmp_path: Path, root: Path) -> None:
    same, other = tmp_path / "same.yml", tmp_path / "other.yml"
    base = load_artifact(BASE)
    same.write_text(yaml.safe_dump(base.schema.to_dict()))
    other.write_text(yaml.safe_dump({**base.schema.to_dict(), "languages": ["fr"]}))
    assert call(str(BASE), str(same))[1]["verdict"] == "compatible"
    base.require_schema(Schema.load(same))  # and so it is
    status, answer = call(str(same), str(other))
    assert (status, answer["verdict"]) == (1, "retrain")
    assert "repl-ranker train" in answer["next"]
    with pytest.raises(SchemaError):
        base.require_schema(Schema.load(other))
    made = make_base(tmp_path / "made")
    status, answer = call(str(BASE), str(made.dir))
    assert (status, answer["verdict"]) == (1, "refit last layer")
    assert {one["field"] for one in answer["differences"]} == {"base"}
    assert call(str(BASE), str(BASE))[0] == 0


def test_what_is_not_there_or_no_schema_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yml", tmp_path):
        done = CliRunner().invoke(app, ["schema", "diff", str(path), str(BASE)])
        assert done.exit_code != 0
        assert "is not there" in str(done.exception) or "manifest.json is missing" in str(done.exception)
