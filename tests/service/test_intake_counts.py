"""Every event that came in is counted in exactly one outcome; what may go of the log, and when."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from features.errors import InvalidEvent, LogError, TooLarge
from features.event_log import EventLog, open_log
from features.keys import text_key
from features.records import NewRecord
from service.intake import OUTCOMES, Intake
from service.janitor import Janitor, offsets_to_keep
from service.metrics import Metrics
from service.settings import Settings
from service.testkit import ReplService
from service.weight_store import (
    Checkpoint,
    CheckpointWrite,
    Version,
    WeightStore,
    open_weight_store,
)
from service.weight_store_sqlite import EmbeddedWeightStore

DAY = 86_400_000
NOW = 1_000 * DAY


class Shop:
    """Log, store and intake of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.now = NOW
        self.metrics = Metrics()
        settings = Settings(data_dir=data_dir, max_events_per_call=5)
        self.log: EventLog = open_log(settings, self.clock)
        self.store: WeightStore = open_weight_store(data_dir)
        self.intake = Intake(self.log, settings, self.clock, self.metrics, lambda: None)

    def clock(self) -> int:
        return self.now


@pytest.fixture
def shop(data_dir: Path) -> Iterator[Shop]:
    found = Shop(data_dir)
    yield found
    found.store.close()
    found.log.close()


def body(*ids: str) -> bytes:
    return json.dumps(
        [{"id": id, "timestamp": NOW, "event": "interaction", "type": "click", "item": "i"} for id in ids]
    ).encode()


def test_received_is_the_sum_of_all_outcomes(shop: Shop) -> None:
    take = shop.intake.take
    take(body("1", "2", "1", ""), False)
    take(body("3", ""), True)
    take(body("2"), True)
    take(body(""), False)
    with pytest.raises(InvalidEvent):
        take(b"{broken", False)
    with pytest.raises(TooLarge):
        take(body(*"abcdef"), False)
    with pytest.raises(InvalidEvent):
        take(b"", False)
    shop.log.close()
    with pytest.raises(LogError):
        take(body("8", "9", ""), False)
    totals = shop.intake.totals()
    assert totals == {
        "received": 19, "accepted": 2, "duplicate": 2, "rejected": 13, "dead-lettered": 0, "dropped": 2
    }  # fmt: skip
    assert totals["received"] == sum(totals[name] for name in OUTCOMES[1:])
    for name, count in totals.items():
        found = shop.metrics.registry.get_sample_value("repl_events_total", {"outcome": name})
        assert (found or 0) == count


def version(v: int) -> Version:
    return Version(v, "b", "push", v, b"", {}, 0, 0, None, "", NOW)


def test_what_must_stay(shop: Shop) -> None:
    shop.intake.take(body("1", "2", "3"), False)
    assert offsets_to_keep(shop.log, shop.store, {"event/0": 2})["event/0"] == 2  # no trainer ever ran
    shop.store.commit(version(1), None)
    assert offsets_to_keep(shop.log, shop.store, {"event/0": 2}) == {}  # a replay starts at 0
    offsets = {"event/0": 1, "served/0": 4}
    shop.store.commit(version(2), None, CheckpointWrite(Checkpoint(2, offsets, {})))
    assert offsets_to_keep(shop.log, shop.store, {"event/0": 2}) == offsets
    assert offsets_to_keep(shop.log, shop.store, {"event/0": 0})["event/0"] == 0


def test_the_janitor_removes_and_counts(shop: Shop) -> None:
    shop.intake.take(body("1", "2", "3"), False)
    shop.log.append("served", [NewRecord("served", "default", NOW, "u", b"")] * 2)
    janitor = Janitor(shop.log, shop.store, lambda: {"event/0": 2}, shop.metrics, shop.clock)
    assert janitor.look()["expired_event"] == 0
    shop.now += 91 * DAY
    counts = janitor.look()
    assert (counts["expired_event"], counts["expired_served"]) == (2, 2)
    assert [record.offset for record in shop.log.read("event", 2)] == [2]
    sample = shop.metrics.registry.get_sample_value
    assert sample("repl_log_removed_records_total", {"stream": "served", "why": "expired"}) == 2
    assert (sample("repl_log_bytes") or 0) > 0
    janitor.start()
    janitor.stop()


def test_a_failing_neighbour_does_not_end_the_janitor(shop: Shop, tmp_path: Path) -> None:
    with closing(EmbeddedWeightStore(tmp_path / "w.db")) as store:
        janitor = Janitor(shop.log, store, dict, shop.metrics, shop.clock)
    assert janitor.look() == {}
    assert shop.metrics.registry.get_sample_value("repl_neighbour_failures_total", {"part": "store"}) == 1


def test_a_running_ranker_tidies_marks_requests_and_sets_damage_aside(repl_service: ReplService) -> None:
    service = repl_service.service
    repl_service.events(repl_service.item("i1", title="red lamp"))
    service.log.append("event", [NewRecord("interaction", "default", 1, "u", b"{damaged")])
    repl_service.settle()
    answer = repl_service.rank(["i1"], user="anna")
    letters = service.log.read("dead-letter", 0)
    assert [json.loads(letter.body)["offset"] for letter in letters] == [1]
    until = time.monotonic() + 5
    while service.log.end_offsets()["served/0"] == 0:
        assert time.monotonic() < until
        time.sleep(0.01)
    with closing(sqlite3.connect(repl_service.settings.data_dir / "log.db")) as reading:
        found = reading.execute("SELECT hash FROM log_served").fetchall()
    assert found == [(text_key("request", answer["request_id"]) >> 1,)]
    assert service.running.janitor.look()["expired_event"] == 0
