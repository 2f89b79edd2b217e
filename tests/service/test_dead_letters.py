"""Dead letters: shown once, sent again once, refused while they are still no events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from features.errors import InvalidRequest
from features.event_log import EventLog, dead_letter, open_log
from service.dead_letters import letter_of, letters, retry_all

NOW = 1_700_000_000_000
EVENT = orjson.dumps({"event": "item", "item": "lamp", "id": "e1", "timestamp": NOW, "fields": {"title": "lamp"}})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with closing(open_log(tmp_path)) as opened:
        yield opened


def test_a_record_with_several_letters_is_one(log: EventLog) -> None:
    for _ in range(3):
        dead_letter(log, "event/2", 7, "no event", b"{", "default", NOW)
    dead_letter(log, "events.csv", None, "line 3", b"rubbish", "default", NOW)
    found = list(letters(log, batch=2))
    assert [(one.number, one.source, one.offset, one.raw) for one in found] == [
        (0, "event/2", 7, "{"), (3, "events.csv", None, "rubbish"),
    ]  # fmt: skip
    assert letter_of(log, 3).reason == "line 3"
    with pytest.raises(InvalidRequest, match="no such dead letter"):
        letter_of(log, 9)


def test_what_is_an_event_now_is_appended_once(log: EventLog) -> None:
    dead_letter(log, "event/0", 1, "a field that the old release did not know", EVENT, "default", NOW)
    dead_letter(log, "event/0", 2, "no event", b"\xff{", "default", NOW)
    dead_letter(log, "event/0", 3, "long", EVENT + b" " * 9_000, "default", NOW)
    chosen = list(letters(log))
    answer = retry_all(log, chosen, lambda: NOW)
    assert (answer["appended"], answer["known"], answer["still_refused"]) == (1, 0, 2)
    assert [one["number"] for one in answer["refused"]] == [1, 2]
    assert "only the beginning" in answer["refused"][1]["reason"]
    assert retry_all(log, chosen[:1], lambda: NOW)["known"] == 1
    assert [(one.kind, one.key) for one in log.read("event", 0)] == [("item", "lamp")]
