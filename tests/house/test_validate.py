"""`validate`: a verdict a check, each of which can be made to warn or fail by one kind of damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from features.errors import InvalidInput
from trainer.validate import Check, validate_file

T = 1_700_000_000_000


def item(name: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"i-{name}",
        "timestamp": T,
        "event": "item",
        "item": name,
        "fields": {"title": name},
        **more,
    }


def ranking(number: int, items: list[str], **more: Any) -> dict[str, Any]:
    shown = [{"id": name} for name in items]
    event = {"id": f"r-{number}", "timestamp": T + number, "event": "ranking", "user": "u", "items": shown}
    return event | more


def act(number: int, name: str, kind: str = "click", **more: Any) -> dict[str, Any]:
    event = {"id": f"a-{number}", "timestamp": T + number, "event": "interaction", "type": kind}
    return event | {"item": name, "user": "u", **more}


GOOD = [
    item("a"),
    item("b"),
    item("c"),
    ranking(1, ["a", "b", "c"]),
    ranking(2, ["a", "b", "c"]),
    ranking(3, ["a", "b", "c"]),
    act(4, "a", ranking="r-1"),
    act(5, "b", ranking="r-2"),
    act(6, "c", ranking="r-3"),
    act(7, "c", "purchase", ranking="r-3"),
]


def checks(path: Path, events: list[Any]) -> dict[str, Check]:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    path.write_text("\n".join(lines) + "\n")
    return {check.name: check for check in validate_file(path)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_good_file_passes(path: Path) -> None:
    found = checks(path, GOOD)
    assert {check.verdict for check in found.values()} == {"PASS"}
    assert list(found) == [
        "lines", "schema", "order", "duplicates", "items", "actors", "joins", "click rate", "purchase rate",
    ]  # fmt: skip
    assert found["click rate"].text.startswith("3 of 9 shown items")
    assert found["purchase rate"].text.startswith("1 of 3 clicks")


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("schema", [act(8, "a", "stare")], "stare"),
        ("schema", [item("d", fields={})], "1 of 4 items"),
        ("order", [act(0, "a", timestamp=T - 5_000)], "1 events"),
        ("duplicates", [GOOD[6]], "1 event ids"),
        ("items", [act(8, "never-said")], "1 of 4 named items"),
        ("actors", [{**act(8, "a"), "user": None}], "1 events"),
        ("joins", [act(8, "a", ranking="lost")], "1 ranking not found"),
        ("joins", [item("d"), act(8, "d", ranking="r-1")], "1 item was not shown"),
        ("click rate", [ranking(9, ["a", "b"]), *[act(9 + n, x, ranking=f"r-{r}") for n, (x, r) in enumerate(
            [("a", 9), ("b", 9), ("a", 2), ("a", 3), ("b", 3)])]], "8 of 11"),
    ],
)  # fmt: skip
def test_damage_is_a_warning(path: Path, name: str, damage: list[dict[str, Any]], says: str) -> None:
    found = checks(path, GOOD + damage)
    assert found[name].verdict == "WARN"
    assert says in found[name].text


@pytest.mark.parametrize(
    "bad", ["{", json.dumps({**GOOD[6], "timestamp": "yesterday"}), json.dumps({"event": "no"}), "[]"]
)
def test_a_line_outside_the_dialect_fails_with_its_number(path: Path, bad: str) -> None:
    found = checks(path, [*GOOD[:2], bad, *GOOD[2:]])
    assert found["lines"].verdict == "FAIL"
    assert "line 3:" in found["lines"].text
    assert "1 cannot be read" in found["lines"].text


def test_without_rankings_there_is_nothing_to_join(path: Path) -> None:
    found = checks(path, [item("a"), act(1, "a", "purchase")])
    assert found["joins"].verdict == "WARN"
    assert "no ranking events" in found["joins"].text
    assert "click rate" not in found


def test_an_empty_file_fails(path: Path) -> None:
    assert checks(path, [""])["lines"].verdict == "FAIL"


def test_compressed_files_are_read_and_damaged_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, GOOD)).encode()))
    assert {check.verdict for check in validate_file(path)} == {"PASS"}
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match="cannot read"):
        validate_file(path)
