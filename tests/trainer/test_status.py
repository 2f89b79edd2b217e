"""What /v1/status and /metrics say of a trainer: how far it is behind the log, how well its clicks were predicted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from features.event_log import open_log
from features.events import InteractionEvent, RankingEvent, ShownItem
from features.realtime import RealtimeConfig
from service.artifact import load_artifact
from service.last_layer import sigmoid
from service.testkit import BASE, MAX_ITEMS, ReplService
from service.weight_store import open_weight_store
from tests.trainer.learning_kit import Desk, items_of, make_base
from trainer.bases import base_by_sha, fetch_base
from trainer.online import OnlineTrainer

SMALL = RealtimeConfig(max_items=MAX_ITEMS, max_categories=4_096, max_lists=MAX_ITEMS)


@contextmanager
def learning(shop: ReplService) -> Iterator[OnlineTrainer]:
    """A trainer on the shop's data directory that has started, and fetches what is staged."""
    with (
        closing(open_log(shop.settings.data_dir, shop.clock)) as log,
        closing(open_weight_store(shop.settings.data_dir)) as store,
    ):
        artifact = load_artifact(BASE)
        made = OnlineTrainer(
            log, store, artifact, shop.settings, clock=shop.clock, realtime=SMALL,
            base_of=partial(base_by_sha, shop.settings), fetch=partial(fetch_base, shop.settings),
        )  # fmt: skip
        made.start()
        yield made


def follow(shop: ReplService, trainer: OnlineTrainer) -> None:
    """A cut, a heartbeat, and the ranker has both."""
    shop.clock.advance(1_000)
    while trainer.tick():
        pass
    deadline = time.monotonic() + 10.0
    while shop.service.running.replica.snapshot.version < trainer.core.v:
        assert time.monotonic() < deadline, "the ranker follows"
        time.sleep(0.005)


def gauge(shop: ReplService, name: str) -> float:
    lines = shop.call("GET", "/metrics")[1].splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def test_status_says_how_far_the_trainer_is_behind(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(*(shop.item(f"i{k}", title=f"red lamp {k}") for k in range(20)))
    shop.settle()
    assert shop.call("GET", "/v1/status")[1]["trainer"] == {}
    assert np.isnan(gauge(shop, "repl_trainer_behind_records"))
    with learning(shop) as trainer:
        follow(shop, trainer)
        status = shop.call("GET", "/v1/status")[1]
        assert (status["behind"], status["trainer"]["behind"]) == (0, {"records": 0, "ms": 0})
        shop.clock.advance(500)
        shop.events(shop.click("anna", "i1"))
        shop.clock.advance(2_000)
        shop.events(shop.click("anna", "i2"))
        shop.rank([f"i{k}" for k in range(20)], user="anna")
        shop.settle()  # two events and a served record
        shop.clock.advance(300)
        assert shop.call("GET", "/v1/status")[1]["trainer"]["behind"] == {"records": 3, "ms": 2_300}
        assert gauge(shop, "repl_trainer_behind_records") == 3
        assert gauge(shop, "repl_trainer_behind_seconds") == 2.3
        follow(shop, trainer)
        assert shop.call("GET", "/v1/status")[1]["trainer"]["behind"] == {"records": 0, "ms": 0}
        assert gauge(shop, "repl_trainer_behind_records") == 0
    shop.events(shop.click("anna", "i3"))  # nobody learns any more: it shows all the same
    shop.clock.advance(60_000)
    assert shop.call("GET", "/v1/status")[1]["trainer"]["behind"] == {"records": 1, "ms": 60_000}
    shop.service.log.close()
    assert shop.call("GET", "/v1/status")[1]["trainer"]["behind"] is None
    assert np.isnan(gauge(shop, "repl_trainer_behind_records"))


def test_status_says_how_many_events_user_state_has_not_read(
    repl_service: ReplService, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = repl_service
    shop.events(shop.click("anna", "i1"))
    shop.settle()
    assert (shop.call("GET", "/v1/status")[1]["behind"], gauge(shop, "repl_user_state_behind")) == (0, 0)
    monkeypatch.setattr(shop.service.running.consumer, "step", lambda: 0)  # its thread gets no turn
    time.sleep(0.1)
    shop.events(*(shop.click("anna", f"i{k}") for k in range(7)))
    assert (shop.call("GET", "/v1/status")[1]["behind"], gauge(shop, "repl_user_state_behind")) == (7, 7)
    monkeypatch.undo()
    shop.settle()
    assert (shop.call("GET", "/v1/status")[1]["behind"], gauge(shop, "repl_user_state_behind")) == (0, 0)


def test_calibration_is_observed_over_predicted_clicks(tmp_path: Path) -> None:
    """Of 300 shown items two in five are clicked; what was predicted is summed by hand from the logged inputs."""
    artifact = make_base(tmp_path / "base")
    desk = Desk(tmp_path / "data", artifact)
    try:
        trainer = desk.trainer()
        desk.add(*items_of(60))
        desk.run(trainer, 6_000)
        assert trainer._report.status(trainer.core, desk.clock.now, [])["calibration"] == {
            "clicks": 0, "live": None, "frozen": None,
        }  # fmt: skip
        prior, expected, clicks = artifact.prior["click"][0], 0.0, 0
        for turn in range(50):
            shown = [f"i{(turn * 6 + k) % 60}" for k in range(6)]
            z = desk.serve(f"r{turn}", shown, "anna")
            expected += float(sigmoid(z.astype(np.float64) @ prior).sum())
            desk.add(
                RankingEvent(
                    id=f"r{turn}", timestamp=desk.clock.now, user="anna",
                    items=tuple(ShownItem(item, k + 1) for k, item in enumerate(shown)),
                )
            )  # fmt: skip
            desk.run(trainer, 200)
            for item in shown[: 2 + turn % 2]:
                clicks += 1
                desk.add(
                    InteractionEvent(
                        id=f"c{clicks}", timestamp=desk.clock.now, type="click", item=item,
                        user="anna", ranking=f"r{turn}",
                    )
                )  # fmt: skip
        desk.run(trainer, 45_000)
        found = desk.store.status()["calibration"]
        assert found["clicks"] == pytest.approx(clicks, rel=0.1)  # a little has faded
        assert found["frozen"] == pytest.approx(clicks / expected, rel=0.05)
        assert abs(np.log(found["live"])) < abs(np.log(found["frozen"])), "what learned is nearer to one"
    finally:
        desk.close()
