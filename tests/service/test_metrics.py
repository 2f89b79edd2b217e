"""What /metrics says of a real ranker under a real trainer: delays of the states, the trainer's figures, queues."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from features.errors import StoreError
from features.event_log import dead_letter
from features.records import Record
from service.delays import FOLLOWED, WAITING, Delays
from service.metrics_base import STATES, BaseMetrics
from service.routes.versions import control
from service.testkit import ReplService
from service.timed_store import timed
from tests.second_base import second_base
from tests.service.test_neighbours import until
from tests.trainer.test_status import follow, learning


def sample(shop: ReplService, name: str, **labels: str) -> float:
    """A sample of the page that Prometheus reads."""
    text = shop.call("GET", "/metrics")[1]
    found = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    return found[name, tuple(sorted(labels.items()))]


def delay(shop: ReplService, state: str) -> tuple[float, float]:
    """Events followed into a state, and the seconds that they took together."""
    name = "repl_event_to_served_seconds"
    return sample(shop, f"{name}_count", state=state), sample(shop, f"{name}_sum", state=state)


def test_an_event_is_followed_into_all_three_states(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(*(shop.item(f"i{k}", title=f"red lamp {k}") for k in range(20)))
    with learning(shop) as trainer:
        follow(shop, trainer)
        shop.settle()
        shop.events(shop.click("anna", "i3"))
        shop.settle()
        assert delay(shop, "user") == (1, 0)
        for _ in range(3):
            follow(shop, trainer)
            assert (delay(shop, "counters")[0], delay(shop, "weights")[0]) == (0, 0)  # the hold has 5 s to go
        for _ in range(4):
            follow(shop, trainer)
        until(lambda: delay(shop, "weights")[0] == 1)
        for state in ("counters", "weights"):
            count, seconds = delay(shop, state)
            assert count == 1
            assert 5.0 <= seconds <= 7.0, "the hold, and at most a heartbeat and a step of this test"


def test_the_trainers_own_figures_are_every_rankers(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(*(shop.item(f"i{k}", title=f"red lamp {k}") for k in range(20)))
    shop.settle()
    nothing = sample(shop, "repl_trainer_heartbeat_age_seconds")
    assert nothing != nothing, "NaN: there is no trainer"
    with learning(shop) as trainer:
        asked = shop.rank([f"i{k}" for k in range(20)], user="anna")
        shown = [{"id": item} for item in asked["ids"]]
        shop.events({"id": asked["request_id"], "event": "ranking", "user": "anna", "items": shown})
        shop.events({**shop.click("anna", asked["ids"][0]), "ranking": asked["request_id"]})
        shop.settle()
        for _ in range(50):
            follow(shop, trainer)
        status = shop.service.store.status()
        assert status is not None
        assert sample(shop, "repl_trainer_labels", outcome="joined") == status["counts"]["joined"] == 20
        assert sample(shop, "repl_trainer_records", stream="event") == 22
        assert sample(shop, "repl_progressive_examples", window="10m") > 10
        live = sample(shop, "repl_progressive_log_loss", weights="live", window="10m")
        assert live == pytest.approx(status["progressive"]["10m"]["loss_live"])
        assert sample(shop, "repl_trainer_heartbeat_age_seconds") <= 1
        shop.clock.advance(30_000)
        assert sample(shop, "repl_trainer_heartbeat_age_seconds") >= 30


def test_requests_stores_queues_and_dead_letters(repl_service: ReplService) -> None:
    shop = repl_service
    names = [f"i{k}" for k in range(1_200)]
    reads = sample(shop, "repl_user_state_seconds_count", call="get")
    before = sample(shop, "repl_request_candidates_count"), sample(shop, "repl_request_candidates_sum")
    shop.rank(names[:7], user="nobody yet")
    shop.rank(names, user="nobody yet")  # on the worker; her state is in memory by now
    assert sample(shop, "repl_request_candidates_count") == before[0] + 2
    assert sample(shop, "repl_request_candidates_sum") == before[1] + 1_207
    assert sample(shop, "repl_user_state_seconds_count", call="get") == reads + 1
    assert sample(shop, "repl_ranking_waiting") == sample(shop, "repl_events_waiting") == 0
    assert sample(shop, "process_resident_memory_bytes") > 50e6
    assert sample(shop, "repl_dead_letters") == 0
    dead_letter(shop.service.log, "event/0", 7, "cannot be read", b"?", "default", shop.clock.now)
    assert sample(shop, "repl_dead_letters") == 1


def records(count: int, taken: int, effective: Callable[[int], int]) -> list[Record]:
    return [
        Record("event", 0, k, "interaction", "default", effective(k), taken, False, "u", b"") for k in range(count)
    ]


def test_what_is_followed_is_bounded_and_keeps_the_oldest() -> None:
    registry = CollectorRegistry()
    delays = Delays(registry)
    delays.applied(records(2_000, 1_000, lambda k: 1_000), 1_500)
    count = registry.get_sample_value("repl_event_to_served_seconds_count", {"state": "user"})
    assert count is not None
    assert FOLLOWED // 2 < count <= FOLLOWED
    for turn in range(WAITING // 16):
        delays.applied(records(16, 2_000 + turn, lambda k: 1_500), 2_000 + turn)
    delays.served(10_000, None, 10_000)
    get = registry.get_sample_value
    assert get("repl_event_to_served_seconds_count", {"state": "counters"}) == WAITING
    assert get("repl_event_to_served_seconds_count", {"state": "weights"}) == 0
    delays.served(20_000, 20_000, 20_000)
    assert get("repl_event_to_served_seconds_count", {"state": "weights"}) == WAITING
    assert get("repl_event_to_served_seconds_bucket", {"state": "weights", "le": "15.0"}) == 0.0


def test_a_store_that_fails_is_measured_and_fails_on() -> None:
    class Down:
        partitions = 3

        def get(self, key: int) -> None:
            raise StoreError("down")

        def commit(self, states: object, deleted: object, offsets: object) -> None: ...

        def offsets(self) -> dict[str, int]:
            return {"event/0": 3, "event/1": 4}

    registry = CollectorRegistry()
    store = timed(Down(), Histogram("seconds", "?", ["call"], registry=registry))  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        store.get(1)
    assert store.offsets() == {"event/0": 3, "event/1": 4}
    assert store.partitions == 3  # type: ignore[attr-defined]
    assert registry.get_sample_value("seconds_count", {"call": "get"}) == 1
    assert registry.get_sample_value("seconds_count", {"call": "offsets"}) == 1


def test_a_rollout_in_numbers(repl_service: ReplService, tmp_path: Path) -> None:
    """From what the trainer says of it, and from what this ranker has loaded and answers by."""
    shop, new = repl_service, second_base(tmp_path / "second")
    items = [f"i{k}" for k in range(12)]
    shop.events(*(shop.item(item, title=f"red lamp {item}") for item in items))
    with learning(shop) as trainer:
        follow(shop, trainer)
        shop.settle()
        assert sample(shop, "repl_base_state", state="alone") == 1
        until(lambda: (sample(shop, "repl_bases_loaded"), sample(shop, "repl_bases_missing")) == (1, 0))
        control(shop.service, "base-stage", {"sha256": new.sha256, "url": str(new.dir)})
        follow(shop, trainer)
        until(lambda: sample(shop, "repl_bases_loaded") == 2)
        assert sample(shop, "repl_base_load_seconds") > 0
        for _ in range(60):  # the trainer fetches it in a thread of its own
            follow(shop, trainer)
            if sample(shop, "repl_base_state", state="caught up") == 1:
                break
            time.sleep(0.2)
        found = {state: sample(shop, "repl_base_state", state=state) for state in STATES}
        assert found == {state: float(state == "caught up") for state in STATES}
        assert (sample(shop, "repl_base_behind_records"), sample(shop, "repl_base_refused")) == (0, 0)
        control(shop.service, "base-promote", {"sha256": new.sha256, "percent": 100.0})
        follow(shop, trainer)
        follow(shop, trainer)
        assert sample(shop, "repl_base_refused") == 1, "nothing was shown yet"
    live = shop.service.running.bases.live.sha256
    assert sample(shop, "repl_base_info", base=live[:12], pair="live") == 1
    assert sample(shop, "repl_base_info", base=new.sha256[:12], pair="beside") == 1
    before = sample(shop, "repl_base_answers_total", pair="live")
    shop.rank(items, user="anna")
    assert sample(shop, "repl_base_answers_total", pair="live") == before + 1


def test_answers_are_counted_by_the_pair_that_made_them_and_figures_are_both_pairs() -> None:
    registry = CollectorRegistry()
    made = BaseMetrics(registry)
    for base in ("a", "a", "b", "c"):
        made.answered(base, "a", "b")
    pairs = ("live", "beside", "prior")
    assert [registry.get_sample_value("repl_base_answers_total", {"pair": pair}) for pair in pairs] == [2, 1, 1]
    figures = {"shown": 700.0, "clicks": 31.5, "loss_live": 0.21, "loss_beside": 0.2, "auc_live": 0.7}
    status = {"state": "answering some", "percent": 30.0, "behind": 0, "figures": figures, "fetch_failed": "no route"}
    made.update(status, "a", ["a", "b"])

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"repl_base_{name}", labels)

    assert (value("percent"), value("fetch_failing"), value("judged", what="clicks")) == (30.0, 1.0, 31.5)
    assert (value("log_loss", pair="beside"), value("auc", pair="live")) == (0.2, 0.7)
    unknown = value("auc", pair="beside")
    assert unknown is not None
    assert unknown != unknown
    made.here(["a"], ["a", "b"])
    assert registry.get_sample_value("repl_bases_missing") == 1
