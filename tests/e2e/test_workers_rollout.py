"""Another base is staged, promoted and taken back under load with three workers of one ranker, two of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.artifact import Artifact, load_artifact
from service.settings import Settings
from service.testkit import BASE
from tests.conftest import ROOT
from tests.e2e.rollout_kit import Load, base_command, bases_of_users, nothing_is_mixed
from tests.e2e.worker_shop import ITEMS, WorkerShop
from tests.second_base import second_base

pytestmark = pytest.mark.timeout(500)

WORKERS = 3
TIMES = 30
"""Answers in a row that say the same: that one of three workers is never among them happens once in 60,000 times."""
MORE_ITEMS = 1_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerShop]:
    place = tmp_path_factory.mktemp("workers-rollout") / "data"
    place.mkdir()
    made = WorkerShop(place, WORKERS, REPL_NEGATIVE_AFTER_MS="1000")
    try:
        made.open(WORKERS)
        more = [f"more-{k}" for k in range(MORE_ITEMS)]
        made.send(*({"event": "item", "item": one, "fields": {"title": f"red lamp {one}"}} for one in more))
        yield made
    finally:
        made.end()
    assert "Traceback" not in made.output.read_text(), made.output.read_text()


def base(shop: WorkerShop, *words: str) -> dict[str, Any]:
    done = base_command(shop.data_dir, shop.environment, *words)
    assert (done["exit"], done["done"]) == (0, True), done
    return done


def all_say(shop: WorkerShop, what: str, value: Any, seconds: float = 60.0) -> None:
    """Every worker's /v1/status has this under `bases`."""

    def says() -> bool:
        status, found = shop.call("GET", "/v1/status")
        return status == 200 and found["bases"][what] == value

    shop.always(says, seconds, f"{what} is {value}", TIMES)


def kill(shop: WorkerShop, which: int) -> None:
    """kill -9, and wait until one answers in its place."""
    starts = shop.answering()
    os.kill(shop.workers[which], signal.SIGKILL)
    shop.until(lambda: shop.answering() > starts, 60, "a worker answers in its place")


def only(shop: WorkerShop, load: Load, expected: Artifact) -> None:
    """All workers answer by this base, and from then on every answer is of it."""
    all_say(shop, "answers", expected.sha256)
    began = time.monotonic()
    time.sleep(2.0)
    assert {one.base for one in load.since(began)} == {expected.sha256}


def mapped(shop: WorkerShop, name: str) -> list[int]:
    """Workers that hold vectors of this base in memory."""
    return [pid for pid in shop.workers if f"/vectors/{name}/" in Path(f"/proc/{pid}/maps").read_text()]


def test_three_workers_take_up_a_staged_base_and_none_mixes_two(shop: WorkerShop, tmp_path: Path) -> None:
    old, new = load_artifact(BASE), second_base(tmp_path / "second")
    load = Load(
        ITEMS,
        lambda name, method, path, body: shop.call(method, path, body),
        lambda name, *events: shop.call("POST", "/v1/events", shop.stamped(*events)),
    )
    try:
        roll_out(shop, load, old, new, tmp_path)
    finally:
        load.end()
    assert load.failures == []
    assert load.broken <= 4, "two clients, two killed workers: none but what a killed one had taken"
    assert {one.base for one in load.answers} == {old.sha256, new.sha256}
    settings = Settings.model_validate({"data_dir": shop.data_dir, "base_dir": BASE})
    nothing_is_mixed(settings, {one.sha256: one for one in (old, new)}, "red lamp {}")


def roll_out(shop: WorkerShop, load: Load, old: Artifact, new: Artifact, place: Path) -> None:
    began = time.monotonic()
    base(shop, "stage", str(place / "second"))
    kill(shop, 0)  # while it loads, or soon after
    both = sorted([old.sha256, new.sha256])
    all_say(shop, "loaded", both, 120)
    kill(shop, 1)
    all_say(shop, "loaded", both, 120)
    assert {one.base for one in load.since(began)} == {old.sha256}
    assert sorted(mapped(shop, new.sha256)) == shop.workers

    base(shop, "promote", "--percent", "30", "--wait", "120")
    all_say(shop, "percent", {new.sha256: 30.0})
    began = time.monotonic()
    time.sleep(3.0)
    split = bases_of_users(load.since(began))
    assert all(len(bases) == 1 for bases in split.values()), "a user has one base, whichever worker answers"
    assert 0.1 < sum(bases == {new.sha256} for bases in split.values()) / len(split) < 0.5

    base(shop, "promote")
    only(shop, load, new)
    base(shop, "revert")
    only(shop, load, old)


def test_the_next_stage_lets_every_worker_go_of_the_base_before(shop: WorkerShop, tmp_path: Path) -> None:
    old, second, third = load_artifact(BASE), tmp_path / "second", second_base(tmp_path / "third", 0.2)
    gone = second_base(second).sha256
    base(shop, "stage", str(tmp_path / "third"))
    all_say(shop, "loaded", sorted([old.sha256, third.sha256]), 150)
    shop.until(lambda: mapped(shop, gone) == [], 30, "nobody holds its vectors")
    kept = {one.name for one in (shop.data_dir / "vectors").iterdir()}
    assert kept == {old.sha256, third.sha256}
    assert sorted(mapped(shop, third.sha256)) == shop.workers


def test_the_nightly_script_ends_with_one_where_a_base_is_refused_and_leaves_who_answered(
    shop: WorkerShop, tmp_path: Path
) -> None:
    """Nothing was shown since it was staged, so that it cannot be judged."""
    before = shop.rank("x")["base"]
    fourth = second_base(tmp_path / "fourth", 0.3)
    script = ROOT / "deploy/k8s/repl-ranker/nightly.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, **shop.environment, "PATH": path, "REPL_DATA_DIR": str(shop.data_dir), "JUDGE": "1"}
    done = subprocess.run(["sh", str(script), str(fourth.dir)], env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "done     no" in done.stdout
    status = base_command(shop.data_dir, shop.environment, "status")
    assert (status["live"], status["percent"]) == (before, 0.0)
    assert fourth.sha256 in (status["staged"], status["beside"])
