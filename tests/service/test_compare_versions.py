"""Two weight versions are compared, by the command line and over HTTP (invariant 3)."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.testkit import ReplService
from service.weight_store import Version, encode_weights, open_weight_store


def version(v: int, click: list[float], purchase: list[float], base: str = "ab" * 32) -> Version:
    weights = encode_weights(np.array(click), np.array(purchase))
    return Version(v, base, "push", v, weights, {"event/0": v}, v, v, None, f"hash-{v}", v)


@pytest.fixture
def stored(data_dir: Path) -> Path:
    """Version 2 is 5 away from version 1 in the click head, and nowhere else; 3 is of another base."""
    with closing(open_weight_store(data_dir)) as store:
        store.commit(version(1, [1.0, 0.0, 2.0], [0.0, 1.0, 0.0]), b"")
        store.commit(version(2, [4.0, 4.0, 2.0], [0.0, 1.0, 0.0]), b"")
        store.commit(version(3, [1.0, 1.0], [1.0, 1.0], base="cd" * 32), b"")
    return data_dir


def show(root: Path, data_dir: Path, *words: str) -> tuple[int, Any, str]:
    """Exit status, what is on stdout (JSON where it was asked for), what is on stderr."""
    command = [sys.executable, "-m", "trainer.cli", "versions", "show", *words, "--data-dir", str(data_dir)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    out = json.loads(done.stdout) if "--json" in words and done.stdout else done.stdout
    return done.returncode, out, done.stderr


def test_the_command_line_compares(root: Path, stored: Path) -> None:
    status, shown, _ = show(root, stored, "2", "--against", "1", "--json")
    assert (status, shown["v"], shown["against"]) == (0, 2, 1)
    assert shown["moved"] == {"click": 5.0, "purchase": 0.0}
    assert shown["norms"] == {"click": 6.0, "purchase": 1.0}
    assert "weights" not in shown
    status, text, _ = show(root, stored, "1", "--against", "2")
    assert (status, "click 5, purchase 0" in text) == (0, True)
    assert "moved" not in show(root, stored, "1", "--json")[1]


def test_what_cannot_be_compared_is_said(root: Path, stored: Path) -> None:
    status, _, error = show(root, stored, "2", "--against", "3")
    assert (status, "versions 2 and 3 are of different bases" in error) == (2, True)
    status, _, error = show(root, stored, "2", "--against", "9")
    assert (status, "version 9 is not in the store" in error) == (1, True)
    assert "Traceback" not in error


def test_http_compares(repl_service: ReplService) -> None:
    shop = repl_service
    first = shop.publish(click={"intercept": 1.0})
    second = shop.publish(click={"intercept": 4.0}, purchase={"intercept": -1.0})
    prior = shop.service.running.replica.prior[:, shop.names.index("intercept")]
    plain = shop.call("GET", f"/v1/versions/{second}")[1]
    assert plain["moved"] == pytest.approx({"click": abs(4.0 - prior[0]), "purchase": abs(-1.0 - prior[1])})
    compared = shop.call("GET", f"/v1/versions/{second}?against={first}")[1]
    assert compared["moved"] == pytest.approx({"click": 3.0, "purchase": abs(-1.0 - prior[1])})
    assert compared["version"]["v"] == second
    assert compared["norms"] == plain["norms"]
    shop.service.store.commit(version(9, [1.0], [1.0]), b"")
    status, answer = shop.call("GET", f"/v1/versions/{second}?against=9")
    assert (status, answer["error"]["field"]) == (422, "against")
    assert shop.call("GET", f"/v1/versions/{second}?against=77")[0] == 404
    assert shop.call("GET", f"/v1/versions/{second}?against=x")[0] == 422
