"""`--skip FROM..TO` by offsets, by offsets of several partitions, and by time, on the embedded log and on Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from features.errors import InvalidRequest
from features.event_log import EventLog, make_kafka_topics, open_log
from features.records import NewRecord
from service.settings import Settings
from service.skip_range import skip_range
from service.testkit import START, ManualClock
from tests.conftest import fresh_tenant

MINUTE = 60_000


def filled(log: EventLog, clock: ManualClock) -> EventLog:
    """40 events of 8 users, one a minute."""
    for k in range(40):
        log.append("event", [NewRecord("interaction", "default", clock.now, f"u{k % 8}", b"%d" % k)])
        clock.advance(MINUTE)
    return log


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EventLog]:
    clock = ManualClock()
    with closing(open_log(Settings(data_dir=tmp_path), clock)) as log:
        yield filled(log, clock)


@pytest.fixture
def networked(kafka_url: str) -> Iterator[EventLog]:
    clock, settings = ManualClock(), Settings.model_validate({"log_url": f"{kafka_url}/{fresh_tenant()}"})
    make_kafka_topics(settings, 3, 1)
    with closing(open_log(settings, clock)) as log:
        yield filled(log, clock)


def test_offsets_of_one_partition(embedded: EventLog) -> None:
    assert skip_range("3..9", embedded) == {"from": {"event/0": 3}, "to": {"event/0": 9}}


def test_times_become_the_offsets_of_what_was_appended_then(embedded: EventLog) -> None:
    assert START == 1_767_225_600_000  # 2026-01-01T00:00Z
    ten, twenty = {"event/0": 10}, {"event/0": 20}
    assert skip_range("2026-01-01T00:10..2026-01-01T00:20", embedded) == {"from": ten, "to": twenty}
    assert skip_range("2026-01-01T00:09:01..2026-01-01T02:19:01+02:00", embedded) == {"from": ten, "to": twenty}
    assert skip_range("2025-01-01..2027-01-01", embedded) == {"from": {"event/0": 0}, "to": {"event/0": 40}}


def test_on_several_partitions(networked: EventLog) -> None:
    found = skip_range("2026-01-01T00:10..2026-01-01T00:20", networked)
    skipped = [
        int(record.body)
        for n in range(3)
        for record in networked.read("event", found["from"][f"event/{n}"], partition=n)
        if record.offset < found["to"][f"event/{n}"]
    ]
    assert sorted(skipped) == list(range(10, 20))
    named = ",".join(f"{name}={at}" for name, at in found["from"].items())
    assert skip_range(f"{named}..{','.join(f'{n}={at}' for n, at in found['to'].items())}", networked) == found
    assert skip_range("event/2=0..event/2=1", networked) == {"from": {"event/2": 0}, "to": {"event/2": 1}}
    with pytest.raises(InvalidRequest, match="3 partitions of events"):
        skip_range("3..9", networked)


@pytest.mark.parametrize(
    "text",
    [
        "9..3", "3..3", "3", "a..b", "..", "event/0=1..event/1=2", "event/7=1..event/7=2", "event/0=x..event/0=3",
        "event/0=5..event/0=3", "2026-01-01T00:20..2026-01-01T00:10", "2019-01-01..2020-01-01",
        "served/0=1..served/0=2",
    ],
)  # fmt: skip
def test_what_is_no_range_is_refused_with_examples(embedded: EventLog, text: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        skip_range(text, embedded)
    assert "event/0=1200" in str(told.value)
