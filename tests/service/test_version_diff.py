"""`repl-ranker versions diff`: the largest changes by the inputs' names, against numbers known by construction."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from service.artifact import load_artifact
from service.cli import app
from service.testkit import BASE
from service.weight_store import Version, encode_weights, open_weight_store

ARTIFACT = load_artifact(BASE)
NAMES = ARTIFACT.layout_names
CHANGES = {"rt.own.click": 3.0, "rt.item.click.1h": -4.0, "intercept": 0.5, "hidden.0": 1.0, "hidden.1": -1.0}


def version(v: int, click: np.ndarray, base: str = ARTIFACT.sha256) -> Version:
    weights = encode_weights(click, np.ones(len(click)))
    return Version(v, base, "push", v, weights, {"event/0": v, "event/1": 7}, 1_000 * v, v, None, f"hash-{v}", v)


@pytest.fixture
def stored(data_dir: Path) -> Path:
    before = np.linspace(-1, 1, len(NAMES))
    after = before.copy()
    for name, step in CHANGES.items():
        after[NAMES.index(name)] += step
    with closing(open_weight_store(data_dir)) as store:
        store.commit(version(1, before), b"")
        store.commit(version(2, after), b"")
        store.commit(version(3, np.zeros(3), "ab" * 32), b"")
        store.commit(version(4, np.array([0.0, 2.0, 0.0]), "ab" * 32), b"")
    (data_dir / "repl-ranker.toml").write_text(f'base_dir = "{BASE}"\n')
    return data_dir


def diff(data_dir: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["versions", "diff", *words, "--data-dir", str(data_dir)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return done.exception
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_the_largest_changes_stand_first_by_name(stored: Path) -> None:
    answer = diff(stored, "1", "2", "--json")
    click, purchase = answer["heads"]["click"], answer["heads"]["purchase"]
    assert [one["name"] for one in click["inputs"][:3]] == ["rt.item.click.1h", "rt.own.click", "hidden.0"]
    assert {one["name"]: round(one["change"], 9) for one in click["inputs"]} == CHANGES
    assert all(one["after"] - one["before"] == pytest.approx(one["change"]) for one in click["inputs"])
    assert click["distance"] == pytest.approx(np.sqrt(9 + 16 + 0.25 + 2))
    assert next(iter(click["blocks"])) == "rt"
    assert click["blocks"]["rt"] == pytest.approx(5.0)
    assert click["blocks"]["hidden"] == pytest.approx(np.sqrt(2))
    assert (purchase["distance"], purchase["inputs"]) == (0.0, [])
    assert answer["trained_ms"] == 1_000


def test_only_so_many_of_one_head_and_the_way_back(stored: Path) -> None:
    answer = diff(stored, "2", "1", "--json", "--top", "2", "--head", "click")
    assert list(answer["heads"]) == ["click"]
    assert [(one["name"], round(one["change"], 9)) for one in answer["heads"]["click"]["inputs"]] == [
        ("rt.item.click.1h", 4.0), ("rt.own.click", -3.0),
    ]  # fmt: skip
    text = diff(stored, "1", "2", "--top", "1")
    assert "rt.item.click.1h" in text
    assert "-4.0000" in text
    assert "rt.own.click" not in text
    assert "purchase: moved by 0" in text


def test_a_base_that_is_not_here_is_named_by_places(stored: Path) -> None:
    answer = diff(stored, "3", "4", "--json")
    assert [one["name"] for one in answer["heads"]["click"]["inputs"]] == ["z.1"]


def test_what_cannot_be_compared_is_said(stored: Path) -> None:
    assert "of different bases" in str(diff(stored, "1", "3"))
    assert "version 9 is not in the store" in str(diff(stored, "1", "9"))
    assert "there is no such head" in str(diff(stored, "1", "2", "--head", "clicks"))
