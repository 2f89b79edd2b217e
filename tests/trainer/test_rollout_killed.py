"""A rollout is a part of the log: killed (SIGKILL) anywhere in it, a trainer ends with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from learning_kit import crash_log, make_base
from test_exactly_once import Nursery, Replay, kill_often

from tests.conftest import fresh_tenant


class Rollout(Replay):
    """A replay in which another base is staged, promoted, taken back and promoted again."""

    def __init__(self, place: Path, nursery: Nursery, seconds: int) -> None:
        self.place, self.nursery = place, nursery
        self.base, self.other = place / "base", place / "other"
        crash_log(place / "log", make_base(self.base), seconds, make_base(self.other, other=True))
        self.truth = nursery.run(self.order(self.fresh("truth")))
        self.seconds = 4.0

    def order(self, data_dir: Path, **more: Any) -> dict[str, Any]:
        """An order for the nursery."""
        return super().order(data_dir, other=str(self.other), **more)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def rollout(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Rollout:
    return Rollout(tmp_path_factory.mktemp("rollout"), nursery, 250)


def test_the_rollout_is_worth_killing(rollout: Rollout) -> None:
    truth = rollout.truth
    assert truth["differing"] == []
    assert truth["rollout"]["state"] == "promoted"
    assert truth["counts"]["bases_refused"] == 1, "before there was evidence"
    assert truth["beside"]["rebased"] > 1_000
    assert truth["counts"]["rollbacks"] >= 1
    assert truth["trips"], "the gate rolled the promoted pair back"


@pytest.mark.parametrize(("step", "occurrence"), [(2, 9), (4, 31), (1, 52), (2, 53)])
def test_killed_in_the_catch_up_at_the_promotion_and_after(rollout: Rollout, step: int, occurrence: int) -> None:
    data_dir = rollout.fresh(f"step-{step}-{occurrence}")
    assert rollout.nursery.run(rollout.order(data_dir, kill=[step, occurrence])) == {}
    rollout.same(rollout.nursery.run(rollout.order(data_dir, jump=1_700)))


@pytest.mark.parametrize("step", [2])
def test_killed_with_weights_in_redis(rollout: Rollout, step: int, redis_url: str) -> None:
    place = {"weights_url": redis_url, "tenant": fresh_tenant()}
    data_dir = rollout.fresh(f"redis-{step}")
    assert rollout.nursery.run(rollout.order(data_dir, kill=[step, 40], **place)) == {}
    rollout.same(rollout.nursery.run(rollout.order(data_dir, jump=1_700, **place)))


def test_killed_at_random_points(rollout: Rollout) -> None:
    kill_often(rollout, 6, seed=3)
