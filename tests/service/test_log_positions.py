"""Stored offsets know their log: another one is read from its start, an old one goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import LogError, OffsetLost
from features.event_log import open_log
from features.keys import actor_key
from features.records import Many, Offsets
from service.log_positions import generation_in, log_key, positions_in, to_store
from service.testkit import ManualClock, ReplService


def test_generations() -> None:
    assert generation_in({}, "log:a") == 0
    assert generation_in({"event/0": 7}, "log:a") == 0, "offsets of an older release are of this log"
    stored = to_store({"event/0": 7, "event/1": 9}, 0, "log:a")
    assert positions_in(stored, generation_in(stored, "log:a")) == {"event/0": 7, "event/1": 9}
    assert (generation_in(stored, "log:b"), positions_in(stored, 1)) == (1, {})
    stored |= to_store({"event/0": 3}, 1, "log:b")
    assert (generation_in(stored, "log:a"), generation_in(stored, "log:c")) == (0, 2)
    assert positions_in(stored, 1) == {"event/0": 3}
    assert positions_in(stored, 0) == {"event/0": 7, "event/1": 9}


def test_a_log_made_again_is_read_from_its_start(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    first = ReplService(place, ManualClock())
    first.events(first.item("A", title="lamp"), first.click("u", "A"), first.click("u", "B"))
    first.settle()
    first.stop()
    for file in place.glob("log.db*"):
        file.unlink()
    again = ReplService(place, ManualClock())
    again.events(again.click("u", "C"))
    again.settle()
    held = again.service.running.engine.users
    state = held.get(actor_key("u", None))
    assert state is not None
    assert len(state) == 3, "what was known, and the new one, although its offset is an old one"
    assert state.offset >> 58 == 1
    other = open_log(tmp_path / "third")
    assert log_key(again.service.log, "event") != log_key(other, "event")
    other.close()
    again.stop()


def test_offsets_past_the_end_fail_loudly_and_reading_goes_on_once_they_are_there(
    repl_service: ReplService, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = repl_service.service.running.consumer
    consumer.stop()
    log, tail = repl_service.service.log, repl_service.service.log.tail

    def ends_before(start: Offsets, limit: int, wait: float) -> Many:
        raise OffsetLost("event/0 ends at offset 0")

    monkeypatch.setattr(log, "tail", ends_before)
    assert consumer.step() == 0, "the thread waits, and does not ask again at once"
    assert consumer.failing == "log"
    monkeypatch.setattr(log, "start_offsets", down)
    assert consumer.step() == 0, "a log that does not answer meanwhile ends no thread"
    monkeypatch.undo()
    assert log.tail == tail
    repl_service.events(repl_service.click("u", "A"))
    assert consumer.step() == 1
    assert consumer.failing is None


def down() -> Offsets:
    raise LogError("nobody listens there")
