"""One contract for every EventLog: embedded and Kafka differ by a fixture. What a log does not promise is declared in
PROMISES, and for each promise there are tests of both kinds: who keeps it, and what the others do.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from features.errors import LogError, OffsetLost
from features.event_log import EVERY_PROMISE, EventLog, Promise, dead_letter, open_log
from features.event_log_file import EmbeddedEventLog, LogLimits
from features.event_log_kafka import KafkaEventLog, make_topics
from features.event_log_kafka_topics import TopicPlan
from features.event_log_kafka_url import parse_address
from features.events import (
    IdentifyEvent,
    InteractionEvent,
    RankingEvent,
    ShownItem,
    UserEvent,
    event_hash,
    from_bytes,
)
from features.records import STREAMS, NewRecord, Record, ServedRecord, Stream, event_record
from service.settings import Settings

DAY = 86_400_000
HOUR = 3_600_000
LIMITS = LogLimits(max_bytes=1 << 20, dedup_ids=100)


class Clock:
    now = 1_000 * DAY

    def __call__(self) -> int:
        return self.now


PROMISES: dict[str, frozenset[Promise]] = {"embedded": EVERY_PROMISE, "kafka": frozenset()}
SHOWN: set[tuple[Promise, bool]] = set()
"""(promise, kept) that some test shows."""


def keeping(promise: Promise) -> pytest.MarkDecorator:
    """On the logs that promise it."""
    SHOWN.add((promise, True))
    return _on([name for name, kept in PROMISES.items() if promise in kept])


def without(promise: Promise) -> pytest.MarkDecorator:
    """On the logs that do not: what they do instead."""
    SHOWN.add((promise, False))
    return _on([name for name, kept in PROMISES.items() if promise not in kept])


def _on(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opening", names, indirect=True)


Opening = Callable[[], EventLog]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=PROMISES)
def opening(request: pytest.FixtureRequest, data_dir: Path, clock: Clock) -> Opening:
    """Opens the log of this test, again and again the same."""
    if request.param == "embedded":
        return lambda: EmbeddedEventLog(data_dir, LIMITS, clock)
    address = parse_address(f"{request.getfixturevalue('kafka_url')}/{uuid.uuid4().hex}?timeout_ms=8000")
    make_topics(address, dict.fromkeys(STREAMS, TopicPlan()))  # the clock stands in 1972: nothing may expire
    return lambda: KafkaEventLog(address, clock)


@pytest.fixture
def log(opening: Opening) -> Iterator[EventLog]:
    found = opening()
    yield found
    found.close()


def record(n: int, **changes: object) -> NewRecord:
    return NewRecord("interaction", "default", n, f"u{n}", b'{"n":%d}' % n)._replace(**changes)  # type: ignore[arg-type]


def offsets(found: list[Record]) -> list[int]:
    return [r.offset for r in found]


@pytest.mark.parametrize("stream", STREAMS)
def test_what_is_appended_is_read_in_order(log: EventLog, clock: Clock, stream: Stream) -> None:
    assert log.append(stream, [record(5), record(3, imported=True)]) == [0, 1]
    assert log.append(stream, [record(4)]) == [2]
    assert log.append(stream, []) == []
    found = log.read(stream, 0)
    assert found[1] == Record(stream, 0, 1, "interaction", "default", 3, clock.now, True, "u3", b'{"n":3}')
    assert found[1].imported is True
    assert [r.timestamp for r in found] == [5, 3, 4]
    assert log.end_offsets()[f"{stream}/0"] == 3
    assert log.start_offsets()[f"{stream}/0"] == 0
    assert log.get(stream, 2) == found[2]
    assert log.get(stream, 3) is None
    assert log.get(stream, 0, partition=1) is None
    assert log.read(stream, 3) == log.read(stream, 0, partition=1) == []


def test_streams_do_not_share_offsets(log: EventLog) -> None:
    log.append("event", [record(1)])
    assert log.append("served", [record(1)]) == log.append("cut", [record(1)]) == [0]
    ends = log.end_offsets()
    assert set(ends) == {f"{stream}/0" for stream in STREAMS}
    assert (ends["event/0"], ends["control/0"]) == (1, 0)


def test_reading_is_bounded_by_records_and_bytes(log: EventLog) -> None:
    log.append("event", [record(n, body=bytes(1_000)) for n in range(3_000)])
    assert offsets(log.read("event", 10, 5)) == [10, 11, 12, 13, 14]
    part = log.read("event", 0, max_bytes=1_000_000)
    assert 1_000 <= len(part) < 2_000
    assert len(part) + len(log.read("event", len(part))) == 3_000
    assert log.read("event", 0, max_bytes=1)  # progress, whatever the bound


def test_partitions_are_read_together(log: EventLog) -> None:
    log.append("event", [record(n) for n in range(30)])
    log.append("control", [record(n) for n in range(3)])
    ends = log.end_offsets()
    found = log.read_many({"event/0": 10, "control/0": 0, "served/0": 0}, ends)
    assert offsets(found.records["event/0"]) == list(range(10, 30))
    assert (len(found.records["control/0"]), found.reached) == (3, {"event/0": 30, "control/0": 3})
    part = log.read_many({"event/0": 0}, ends, 7)
    assert (offsets(part.records["event/0"]), part.reached) == (list(range(7)), {"event/0": 7})
    at, got = {"event/0": 5, "control/0": 3}, 0
    for _ in range(20):
        tailed = log.tail(at, 100, 0.5)
        at, got = at | tailed.reached, got + len(tailed.records.get("event/0", []))
        if tailed.whole:
            break
    assert (tailed.whole, at, got) == (True, {"event/0": 30, "control/0": 3}, 25)


def test_effective_time() -> None:
    late = Record("event", 0, 0, "interaction", "t", 500, 400, False, "", b"")
    assert late.effective_time == 400
    assert late._replace(timestamp=300).effective_time == 300
    assert late._replace(imported=True).effective_time == 500


@pytest.mark.parametrize("opening", PROMISES, indirect=True)
def test_every_log_promises_what_is_declared_here(log: EventLog, request: pytest.FixtureRequest) -> None:
    name = next(name for name in PROMISES if f"[{name}]" in request.node.name)
    assert log.promises == PROMISES[name]


def test_every_promise_is_shown_kept_and_not_kept() -> None:
    assert frozenset(get_args(Promise)) == EVERY_PROMISE
    assert {(promise, kept) for promise in EVERY_PROMISE for kept in (True, False)} == SHOWN


def test_what_was_accepted_is_there_after_reopening(log: EventLog, opening: Opening) -> None:
    log.append("event", [record(1), record(2)])
    log.close()
    again = opening()
    assert [r.body for r in again.read("event", 0)] == [b'{"n":1}', b'{"n":2}']
    assert again.append("event", [record(3)]) == [2]
    again.close()


TOO_LATE = 1 << 70  # no log can hold this time


@keeping("one-transaction")
def test_an_append_is_all_or_nothing(log: EventLog) -> None:
    with pytest.raises(LogError, match="cannot be stored"):
        log.append("event", [*(record(n, body=bytes(10_000)) for n in range(600)), record(TOO_LATE)])
    assert log.end_offsets()["event/0"] == 0


@without("one-transaction")
def test_after_an_error_some_records_may_be_on_the_log(log: EventLog) -> None:
    with pytest.raises(LogError, match="cannot be stored"):
        log.append("event", [*(record(n, body=bytes(10_000)) for n in range(600)), record(TOO_LATE)])
    there = log.end_offsets()["event/0"]
    assert 0 < there < 600
    assert [r.timestamp for r in log.read("event", 0)] == list(range(there))  # the first ones, in order


@without("ids-once")
def test_an_id_that_is_sent_twice_is_on_the_log_twice_and_can_be_told(log: EventLog) -> None:
    event = InteractionEvent(id="7", timestamp=1, type="click", item="i", user="anna")
    assert log.append("event", [event_record(event)]) == [0]
    assert log.append("event", [event_record(event)]) == [1]
    hashes = {event_hash(from_bytes(r.body)) for r in log.read("event", 0)}
    assert hashes == {event_record(event).id_hash}  # what the trainer's window of ids goes by


@without("blanks-users")
def test_her_content_stays_with_her_deletion_behind_it(log: EventLog) -> None:
    events = [
        InteractionEvent(id="1", timestamp=1, type="click", item="i", user="anna"),
        UserEvent(id="8", timestamp=8, user="anna", op="delete"),
    ]
    log.append("event", [event_record(event) for event in events])
    assert log.blank_user("default", "anna", before=1) == 0
    assert [r.kind for r in log.read("event", 0)] == ["interaction", "user"]


@without("retains")
def test_nothing_is_removed_by_hand(log: EventLog, clock: Clock) -> None:
    log.append("event", [record(0), record(1)])
    clock.now += 91 * DAY
    assert log.retain(clock.now, log.end_offsets()) == {}
    assert offsets(log.read("event", 0)) == [0, 1]


@keeping("ids-once")
def test_an_id_counts_once_within_its_time_in_events_only(log: EventLog, clock: Clock) -> None:
    assert log.append("event", [record(1, id_hash=7), record(2, id_hash=8), record(3, id_hash=7)]) == [
        0,
        1,
        None,
    ]
    clock.now += DAY
    assert log.append("event", [record(4, id_hash=8)]) == [None]
    assert log.append("event", [record(4), record(4)]) == [2, 3]  # hash 0: never a duplicate
    clock.now += 1
    assert log.append("event", [record(5, id_hash=8)]) == [4]
    assert log.append("event", [record(5, id_hash=8)]) == [None]
    assert log.append("served", [record(1, id_hash=7), record(2, id_hash=7)]) == [0, 1]


@keeping("ids-once")
def test_ids_are_forgotten_beyond_their_number(log: EventLog, clock: Clock) -> None:
    for n in range(1, 201):
        clock.now += 1
        log.append("event", [record(n, id_hash=n)])
    log.retain(clock.now, {})
    answers = log.append("event", [record(n, id_hash=n) for n in (1, 100, 101, 200)])
    assert answers == [200, 201, None, None]


def test_the_newest_ids_are_known_whichever_slice_they_fall_into(data_dir: Path, clock: Clock) -> None:
    """Old ones are forgotten a slice at a time, as new ones come; the janitor forgets the rest."""
    most = 10_000  # two slices
    chance = random.Random(1)
    with closing(EmbeddedEventLog(data_dir, LogLimits(dedup_ids=most), clock)) as log:
        hashes = [chance.randrange(1, 1 << 63) for _ in range(5 * most)]
        for at in range(0, len(hashes), 500):
            clock.now += 1
            log.append("event", [record(at, id_hash=hash) for hash in hashes[at : at + 500]])
        with log._files["event"].reading() as connection:
            kept = connection.execute("SELECT count(*), min(append_time) FROM log_ids").fetchone()
        assert most <= kept[0] < 1.5 * most
        assert log.append("event", [record(1, id_hash=hash) for hash in hashes[-most:]]) == [None] * most
        assert None not in log.append("event", [record(1, id_hash=hash) for hash in hashes[:most]])
        clock.now += DAY + 1
        log.retain(clock.now, {})
        assert None not in log.append("event", [record(1, id_hash=hash) for hash in hashes[-500:]])


def test_the_same_id_of_another_kind_or_tenant_is_another() -> None:
    click = InteractionEvent(id="1", timestamp=1, type="click", item="i")
    other = msgspec.structs.replace(click, tenant="b")
    user = UserEvent(id="1", timestamp=1, user="u")
    assert len({event_record(event).id_hash for event in (click, other, user)}) == 3
    assert all(0 < event_record(event).id_hash < 1 << 63 for event in (click, other, user))


@keeping("retains")
def test_retention_by_age_keeps_imports_and_what_is_needed(log: EventLog, clock: Clock) -> None:
    log.append("event", [record(0), record(1, imported=True), record(2), record(3)])
    log.append("served", [record(n) for n in range(4)])
    log.append("dead-letter", [record(0)])
    log.append("cut", [record(0), record(1)])
    clock.now += 91 * DAY
    log.append("event", [record(4)])
    counts = log.retain(clock.now, {})
    assert (counts["expired_event"], counts["expired_served"], counts["expired_dead-letter"]) == (0, 0, 1)
    counts = log.retain(clock.now, {"event/0": 3, "served/0": 2, "cut/0": 1})
    assert (counts["expired_event"], counts["expired_served"], counts["expired_cut"]) == (2, 2, 1)
    assert offsets(log.read("event", 1)) == [1, 3, 4]
    assert offsets(log.read("served", 2)) == [2, 3]
    assert log.start_offsets() == {
        "event/0": 1, "served/0": 2, "dead-letter/0": 1, "cut/0": 1, "control/0": 0
    }  # fmt: skip
    counts = log.retain(clock.now, {"event/0": 10, "served/0": 10})
    assert (counts["expired_event"], counts["expired_served"]) == (1, 2)
    assert offsets(log.read("event", 1)) == [1, 4]
    assert log.append("served", [record(9)]) == [4]


@keeping("retains")
def test_lost_offsets_are_told_holes_are_passed_over(log: EventLog, clock: Clock) -> None:
    log.append("event", [record(0), record(1), record(2, imported=True), record(3), record(4, imported=True)])
    clock.now += 91 * DAY
    log.retain(clock.now, log.end_offsets())
    with pytest.raises(OffsetLost, match="begins at offset 2"):
        log.read("event", 1)
    assert log.get("event", 1) is None
    assert offsets(log.read("event", 2)) == [2, 4]
    assert offsets(log.read("event", 3)) == [4]
    assert log.read("event", 5) == []


@keeping("retains")
def test_nothing_left_still_says_what_is_lost(log: EventLog, clock: Clock) -> None:
    log.append("event", [record(0), record(1)])
    clock.now += 91 * DAY
    log.retain(clock.now, log.end_offsets())
    assert log.start_offsets()["event/0"] == 2
    assert log.read("event", 2) == []
    with pytest.raises(OffsetLost):
        log.read("event", 0)


@keeping("retains")
def test_a_full_log_thins_served_records_by_request(log: EventLog, clock: Clock) -> None:
    log.append("event", [record(n) for n in range(100)])
    records = [record(n, body=bytes(8_000), id_hash=n) for n in range(1, 1_001)]
    log.append("served", records)
    assert log.retain(clock.now, {})["thinned_served"] == 0
    counts = log.retain(clock.now, {"served/0": 900})
    left = log.read("served", log.start_offsets()["served/0"])
    assert counts["thinned_served"] == 1_000 - len(left) > 800
    assert [r.offset for r in left if r.offset >= 900] == list(range(900, 1_000))
    kept = [r.offset + 1 for r in left if r.offset < 900]
    assert kept == [n for n in range(1, 901) if n % kept[0] == 0]  # a request stays or goes as a whole
    assert counts["bytes"] < 8_000_000
    assert len(log.read("event", 0)) == 100


def served(**who: str) -> NewRecord:
    body = ServedRecord(
        request_id="r", t=1, tenant="default", base="b", version=1, objective="click", items=["i"],
        scores=bytes(4), hidden=1, z=bytes(4), **who,  # type: ignore[arg-type]
    ).to_bytes()  # fmt: skip
    return NewRecord("served", "default", 1, next(iter(who.values())), body)


@keeping("blanks-users")
def test_a_deleted_user_is_blanked_and_nobody_else(log: EventLog, clock: Clock) -> None:
    events = [
        InteractionEvent(id="1", timestamp=1, type="click", item="i", user="anna", fields={"note": "secret"}),
        RankingEvent(id="2", timestamp=2, items=(ShownItem(id="i", position=1),), user="anna", session="s"),
        IdentifyEvent(id="3", timestamp=3, anonymous="s", user="anna"),
        UserEvent(id="4", timestamp=4, user="anna", fields={"city": "Bonn"}),
        InteractionEvent(id="5", timestamp=5, type="click", item="i", user="bert"),
        InteractionEvent(id="6", timestamp=6, type="click", item="i", session="anna"),
        InteractionEvent(id="7", timestamp=7, type="click", item="anna"),
        UserEvent(id="8", timestamp=8, user="anna", op="delete"),
        InteractionEvent(id="9", timestamp=9, type="click", item="i", user="anna"),
    ]
    log.append("event", [event_record(event) for event in events[:8]])
    log.append("event", [event_record(events[0])._replace(tenant="other", id_hash=0)])
    log.append("served", [served(user="anna"), served(session="anna"), served(user="bert")])
    clock.now += 1
    later = log.append("event", [event_record(events[8])])[0]
    log.append("served", [served(user="anna")])
    assert log.blank_user("default", "anna", before=7) == 5
    kinds = [r.kind for r in log.read("event", 0)]
    assert kinds == ["blank"] * 4 + ["interaction"] * 3 + ["user"] + ["interaction"] * 2
    assert [r.kind for r in log.read("served", 0)] == ["blank", "served", "served", "served"]
    blank = log.get("event", 0)
    assert blank
    assert (blank.key, blank.body, blank.timestamp, blank.offset) == ("", b"{}", 1, 0)
    assert log.blank_user("default", "anna", before=7) == 0
    assert log.blank_user("default", "anna") == 2
    found = log.get("event", later or 0)
    assert found
    assert found.kind == "blank"


def test_blanked_content_is_not_left_in_the_files(data_dir: Path) -> None:
    log = EmbeddedEventLog(data_dir)
    event = InteractionEvent(
        id="1", timestamp=1, type="click", item="i", user="anna", fields={"n": "SECRET" * 9}
    )
    log.append("event", [event_record(event)])
    log.blank_user("default", "anna")
    log.close()
    assert b"SECRET" not in b"".join(path.read_bytes() for path in data_dir.iterdir())


def test_a_dead_letter_says_where_from_and_why(log: EventLog) -> None:
    dead_letter(log, "event/0", 12, "broken", b"\xff" + bytes(9_000), "default", 5)
    found = log.read("dead-letter", 0)[0]
    body = msgspec.json.decode(found.body)
    assert (body["source"], body["offset"], body["reason"]) == ("event/0", 12, "broken")
    assert len(body["raw"]) == 8_192


def test_settings_bound_the_log_and_the_purchase_window_bounds_them(data_dir: Path) -> None:
    log = open_log(Settings(data_dir=data_dir, served_retention_hours=1, durable="fsync"))
    assert isinstance(log, EmbeddedEventLog)
    assert log.limits == LogLimits(fsync=True, served_age_ms=DAY)
    log.close()
    log.close()
