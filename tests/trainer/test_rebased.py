"""What one base answered teaches the other one with the inputs that it would have served itself (invariant 2)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_kit import control

from features.event_log import EventLog, open_log
from features.realtime import RealtimeConfig
from features.records import ServedRecord
from service.artifact import Artifact, load_artifact
from service.base_fetch import fetch
from service.ranked import Question
from service.testkit import BASE, MAX_ITEMS, ReplService
from service.weight_store import open_weight_store
from tests.second_base import second_base
from trainer.online import OnlineTrainer

SMALL = RealtimeConfig(max_items=MAX_ITEMS, max_categories=4_096, max_lists=MAX_ITEMS)
ITEMS = [f"i{k}" for k in range(24)]


def until(done: Callable[[], bool], meanwhile: Callable[[], Any] = lambda: None) -> None:
    deadline = time.monotonic() + 30.0
    while not done():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.01)


def staged(shop: ReplService, log: EventLog, trainer: OnlineTrainer, new: Artifact) -> None:
    """Stage a base, and wait until the trainer has fetched it and caught up, and the ranker has loaded it."""
    log.append("control", [control("base-stage", sha256=new.sha256, url=str(new.dir))])

    def tick() -> None:
        shop.clock.advance(200)
        trainer.tick()

    until(lambda: trainer.core.rollout.status()["state"] == "caught up", tick)
    until(lambda: new.sha256 in shop.service.running.bases.loaded)


def answer(shop: ReplService, log: EventLog, base: str, **asked: Any) -> ServedRecord:
    """What this base serves for a question, as logged."""
    objective, name = shop.service.objectives.get(None), f"{base[:6]}-{len(log.read('served', 0))}"
    question = Question(name, shop.clock.now, objective, "live", **asked)
    shop.service.running.bases.loaded[base].ranker.rank(question, [*ITEMS, "never seen"], {})
    shop.settle()
    return ServedRecord.from_bytes(log.read("served", 0)[-1].body)


@pytest.mark.parametrize("asked", [{"user": "anna"}, {"user": "anna", "query": "red lamp"}, {"session": "new"}, {}])
def test_rebased_inputs_are_what_that_base_serves(
    repl_service: ReplService, tmp_path: Path, asked: dict[str, str]
) -> None:
    """To the bit, both ways, though she has clicked since the answer."""
    shop, old, new = repl_service, load_artifact(BASE), second_base(tmp_path / "second")
    shop.events(*(shop.item(i, title=f"red lamp {i}", category=f"c{k % 5}") for k, i in enumerate(ITEMS)))
    shop.events(*(shop.click("anna", f"i{k}") for k in range(12)))
    shop.settle()
    with (
        closing(open_log(shop.settings.data_dir, shop.clock)) as log,
        closing(open_weight_store(shop.settings.data_dir)) as store,
    ):
        trainer = OnlineTrainer(
            log, store, old, shop.settings, clock=shop.clock, realtime=SMALL,
            base_of=lambda sha256: new if sha256 == new.sha256 else None,
            fetch=lambda sha256, url, in_use: fetch(url, tmp_path / "bases", sha256),
        )  # fmt: skip
        trainer.start()
        staged(shop, log, trainer, new)
        served = {base: answer(shop, log, base, **asked) for base in (old.sha256, new.sha256)}
        assert (served[old.sha256].z != served[new.sha256].z) or asked == {}
        shop.clock.advance(300)
        shop.events(shop.click("anna", "i20"))
        who = {name: one for name, one in asked.items() if name != "query"}
        for record in served.values():
            items = [{"id": item, "position": k + 1} for k, item in enumerate(record.items)]
            shop.events({"event": "ranking", "id": record.request_id, "items": items, **who})
        joins = {old.sha256: trainer.core.learning.join, new.sha256: trainer.core.rollout.shadow.learning.join}  # type: ignore[union-attr]
        first = {base: join.shown.next for base, join in joins.items()}
        trainer.tick()
        for base, join in joins.items():
            n = len(ITEMS) + 1
            z = join.shown.z[first[base] : join.shown.next]
            assert len(z) == 2 * n
            assert join.counts["joined"] == join.counts["rebased"] == n
            for k, record in enumerate(served.values()):
                mine = dict(zip(served[base].items, served[base].z_rows(), strict=True))
                expected = np.array([mine[item] for item in record.items])
                positions = np.arange(1, n + 1, dtype=np.int16)
                trainer.core.arrivals.reconstruct.assembler.fill_position(expected, positions, record.surface)
                assert z[k * n : (k + 1) * n].tobytes() == expected.tobytes(), (base == new.sha256, k)
