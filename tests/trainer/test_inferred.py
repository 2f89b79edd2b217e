"""`infer_shown`: what no `ranking` event told is shown once, also where the event comes after all, and skipped ranges
of the log reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from features.ops import IMPRESSION, Ops
from features.records import NewRecord
from service.artifact import Artifact
from tests.trainer.learning_kit import SMALL, Desk, items_of, make_base
from tests.trainer.test_online import base_of, click, counts, ranking
from trainer.online import OnlineTrainer
from trainer.verify import verify_version

ITEMS = [f"i{k}" for k in range(8)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def desk(tmp_path: Path, artifact: Artifact) -> Iterator[Desk]:
    made = Desk(tmp_path / "data", artifact, {"infer_shown": True})
    made.add(*items_of(10))
    yield made
    made.close()


def watch_impressions(trainer: OnlineTrainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of impressions, as they are counted."""
    counted: list[int] = []
    real = trainer.core.realtime.apply

    def apply(ops: Ops) -> None:
        counted.append(int((ops.kind == IMPRESSION).sum()))
        real(ops)

    monkeypatch.setattr(trainer.core.realtime, "apply", apply)
    return counted


def click_on_an_answer(desk: Desk, trainer: OnlineTrainer) -> int:
    """An answer of eight items, its third clicked, no `ranking` event; the click's offset."""
    desk.clock.now += 1_000
    desk.serve("r1", ITEMS, "u")
    desk.run(trainer, 1_000)
    desk.add(click("c1", desk.clock.now, "i2", "r1"))
    return desk.log.end_offsets()["event/0"] - 1


def test_a_ranking_that_comes_late_is_not_shown_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = desk.trainer()
    counted = watch_impressions(trainer, monkeypatch)
    click_on_an_answer(desk, trainer)
    shown_at = desk.clock.now
    desk.run(trainer, 60_000)
    assert sum(counted) == counts(trainer)["inferred"] == 4
    before = dict(counts(trainer))
    desk.add(ranking("r1", shown_at, ITEMS))
    desk.run(trainer, 60_000)
    assert sum(counted) == 4
    assert counts(trainer) == before | {"repeated_rankings": 1}
    assert verify_version(desk.log, desk.store, trainer.core.v, base_of(desk), realtime=SMALL)["ok"]


def test_a_ranking_that_comes_before_the_time_for_negatives_is_over_is_what_was_shown(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = desk.trainer()
    counted = watch_impressions(trainer, monkeypatch)
    click_on_an_answer(desk, trainer)
    shown_at = desk.clock.now
    desk.run(trainer, 20_000)
    desk.add(ranking("r1", shown_at, ITEMS))
    desk.run(trainer, 60_000)
    found = counts(trainer)
    assert sum(counted) == found["shown"] == 8
    assert (found["clicks"], found.get("inferred", 0)) == (1, 0)


def test_a_skipped_range_reaches_what_a_click_in_it_has_told(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.run(trainer, 1_000)
    first = click_on_an_answer(desk, trainer)
    desk.run(trainer, 1_000)
    told = {"from": {"event/0": first}, "to": {"event/0": first + 1}}
    body = msgspec.json.encode({"v": 1, "by": "t", "to": 1, "skip": told})
    desk.log.append("control", [NewRecord("rollback", "default", desk.clock.now, "control", body)])
    desk.run(trainer, 700_000, every=2_000)
    assert counts(trainer)["inferred"] == 4
    assert desk.store.latest().weights == desk.store.get(1).weights  # type: ignore[union-attr]
    again = desk.trainer()
    assert again.differing == []


def test_counters_skip_it_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = desk.trainer()
    counted = watch_impressions(trainer, monkeypatch)
    end = desk.log.end_offsets()["event/0"]
    body = {"v": 1, "by": "t", "applies_to": "counters", "from": {"event/0": end}, "to": {"event/0": end + 1}}
    desk.log.append("control", [NewRecord("skip", "default", desk.clock.now, "c", msgspec.json.encode(body))])
    assert click_on_an_answer(desk, trainer) == end
    desk.run(trainer, 60_000)
    assert counts(trainer)["inferred"] == 4
    assert sum(counted) == 0
