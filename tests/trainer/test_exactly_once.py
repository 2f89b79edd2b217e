"""Exactly once: a trainer that is killed (SIGKILL) anywhere ends with the same bits as one that is not."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from learning_kit import END, START, Desk, crash_log, make_base

from features.errors import Fenced
from tests.conftest import fresh_tenant
from trainer.fence import Fence

HERE = Path(__file__).parent
STEPS = 6


class Nursery:
    """The process that forks trainers to be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "crash_child.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        )  # fmt: skip
        while "ready" not in self._line():
            continue

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return json.loads(line)  # type: ignore[no-any-return]

    def run(self, order: dict[str, Any], kill_after: float | None = None, started: bool = False) -> dict[str, Any]:
        """Run one trainer; {} when it was killed: by itself, or from here after so many seconds (of its start)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = {}
        while "ended" not in found:
            found |= self._line()
            ready = "started" in found if started else "pid" in found
            if kill_after is not None and ready and "done" not in found:
                time.sleep(kill_after)
                kill_after = None
                self._kill(found)
        if found["ended"] != 0:
            assert found["ended"] == -9, f"the trainer failed: {found}"
            return {}
        return found["done"]  # type: ignore[no-any-return]

    def _kill(self, found: dict[str, Any]) -> None:
        pid = found.get("pid") or found["started"]
        subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


class Replay:
    """A log to be learned, and what an uninterrupted trainer makes of it."""

    def __init__(self, place: Path, nursery: Nursery, seconds: int) -> None:
        self.place, self.nursery = place, nursery
        self.base = place / "base"
        crash_log(place / "log", make_base(self.base), seconds)
        began = time.monotonic()
        self.truth = nursery.run(self.order(self.fresh("truth")))
        self.seconds = time.monotonic() - began

    def fresh(self, name: str) -> Path:
        """A copy of the log that nobody has learned."""
        target = self.place / name
        shutil.copytree(self.place / "log", target)
        return target

    def order(self, data_dir: Path, **more: Any) -> dict[str, Any]:
        """An order for the nursery."""
        return {"data_dir": str(data_dir), "base": str(self.base), **more}

    def same(self, found: dict[str, Any]) -> None:
        """Raise unless `found` is the truth."""
        drop = {"steps", "control"}
        assert {k: v for k, v in found.items() if k not in drop} == {
            k: v for k, v in self.truth.items() if k not in drop
        }
        assert found["control"] == self.truth["control"], "a control record was written twice or never"


@pytest.fixture(scope="module")
def replay(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    return Replay(tmp_path_factory.mktemp("replay"), nursery, 250)


def test_the_replay_is_worth_killing(replay: Replay) -> None:
    truth = replay.truth
    assert truth["differing"] == []
    assert truth["counts"]["joined"] > 1_000
    assert truth["counts"]["reconstructed"] > 100
    assert truth["counts"]["corrected"] > 10
    assert truth["counts"]["rollbacks"] >= 2, "one by an operator, one by the gate"
    assert truth["trips"]
    assert truth["totals"]["event"] > 1_500


@pytest.mark.parametrize("occurrence", [2, 37])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_a_commit_step(replay: Replay, step: int, occurrence: int) -> None:
    data_dir = replay.fresh(f"step-{step}-{occurrence}")
    assert replay.nursery.run(replay.order(data_dir, kill=[step, occurrence])) == {}
    replay.same(replay.nursery.run(replay.order(data_dir, jump=1_700)))


def test_killed_while_it_thins(replay: Replay) -> None:
    """A trainer that is behind its log learns a share of the negatives: the same ones, however often it is killed."""
    thin = {"thin_to": 0.25, "thin_after_ms": 320_000}
    truth = replay.nursery.run(replay.order(replay.fresh("thin-truth"), **thin))
    assert truth["counts"]["thinned"] > 500
    assert truth["weights"] != replay.truth["weights"]
    data_dir = replay.fresh("thin")
    for step, occurrence in ((1, 5), (2, 9), (4, 14), (6, 20)):
        assert replay.nursery.run(replay.order(data_dir, kill=[step, occurrence], **thin)) == {}
    found = replay.nursery.run(replay.order(data_dir, jump=1_700, **thin))
    assert {k: v for k, v in found.items() if k != "steps"} == {k: v for k, v in truth.items() if k != "steps"}


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_a_commit_step_with_weights_in_redis(replay: Replay, step: int, redis_url: str) -> None:
    """The same bits as those of an uninterrupted trainer with SQLite."""
    place = {"weights_url": redis_url, "tenant": fresh_tenant()}
    data_dir = replay.fresh(f"redis-{step}")
    assert replay.nursery.run(replay.order(data_dir, kill=[step, 37], **place)) == {}
    replay.same(replay.nursery.run(replay.order(data_dir, jump=1_700, **place)))


def kill_often(replay: Replay, kills: int, seed: int) -> None:
    """Kill trainers at random moments until there were `kills` kills, over as many replays as that takes."""
    rnd = random.Random(seed)
    done = rounds = 0
    while done < kills:
        data_dir, rounds = replay.fresh(f"random-{seed}-{rounds}"), rounds + 1
        for _ in range(12):
            wait = rnd.random() * replay.seconds * 0.25
            order = replay.order(data_dir, jump=rnd.choice((400, 900, 2_500)))
            found = replay.nursery.run(order, kill_after=wait, started=rnd.random() < 0.6)
            if found:
                break
            done += 1
        else:
            found = replay.nursery.run(replay.order(data_dir))
        replay.same(found)
        shutil.rmtree(data_dir)


def test_killed_at_fifty_random_points(replay: Replay) -> None:
    kill_often(replay, 50, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3_000)
def test_killed_at_five_hundred_random_points(replay: Replay) -> None:
    kill_often(replay, 500, seed=2)


def test_a_second_trainer_is_fenced_off(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    with pytest.raises(Fenced, match="another trainer"):
        Fence(tmp_path)
    fence.close()
    Fence(tmp_path).close()


def test_checkpoints_and_cuts_of_a_restart_do_not_move_the_learner(tmp_path: Path) -> None:
    artifact = make_base(tmp_path / "base")
    crash_log(tmp_path / "log", artifact, 60)
    hashes = []
    for name, restarts in (("plain", 0), ("often", 5)):
        shutil.copytree(tmp_path / "log", tmp_path / name)
        desk = Desk(tmp_path / name, artifact)
        desk.clock.now = END
        trainer = desk.trainer(max_records=30)
        for k in range(10_000):
            if not trainer.tick():
                break
            if restarts and k % 5 == 4:
                trainer = desk.trainer(max_records=30)
        hashes.append((desk.store.latest().hash, trainer.core.v))  # type: ignore[union-attr]
        desk.close()
    assert hashes[0] == hashes[1]
    assert START < END
