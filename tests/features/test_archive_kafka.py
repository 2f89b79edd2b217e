"""The archive of a log on a real Kafka: several partitions, records of ordinary clients, a topic made again."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from archive_kit import START, click, content, deletion, served
from kafka import KafkaAdminClient, KafkaProducer

from features.errors import LogError
from features.event_log_archive import ArchiveLog
from features.event_log_archive_store import ArchiveStore
from features.event_log_kafka import KafkaEventLog, make_topics
from features.event_log_kafka_topics import topic_plans
from features.event_log_kafka_url import KafkaAddress, parse_address
from trainer.archive.seam import SeamedLog, check
from trainer.archive.sink import Sink
from trainer.archive.tidy import Tidy
from trainer.log_times import event_records

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
PARTITIONS = 2


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    found = parse_address(f"{kafka_url}/{uuid.uuid4().hex}?timeout_ms=8000")
    make_topics(found, topic_plans(PARTITIONS))
    return found


@pytest.fixture
def log(address: KafkaAddress) -> Iterator[KafkaEventLog]:
    with closing(KafkaEventLog(address)) as found:
        yield found


def test_every_partition_is_archived_once_and_read_across_the_seam(
    log: KafkaEventLog, address: KafkaAddress, tmp_path: Path
) -> None:
    url = str(tmp_path / "archive")
    log.append("event", [click(n, f"u{n % 9}", START + n) for n in range(500)])
    log.append("served", [served(n, f"u{n % 9}", START) for n in range(60)])
    producer = KafkaProducer(bootstrap_servers=list(address.servers))
    plain = b'{"event":"interaction","id":"p","timestamp":%d,"type":"click","item":"i","user":"u1"}' % START
    producer.send(address.topic("event"), plain, b"u1").get(10)
    producer.send(address.topic("event"), b"no event", b"u2").get(10)
    producer.close()
    first = Sink(log, ArchiveStore(url), rows=90)
    assert first.flush() == 90  # and is killed here
    sink = Sink(log, ArchiveStore(url), rows=200)
    sink.catch_up()
    with closing(ArchiveLog(url)) as found:
        assert content(found) == content(log)
        assert {name: at for name, at in found.end_offsets().items() if name.startswith("event")}.keys() == {
            f"event/{n}" for n in range(PARTITIONS)
        }
        assert sum(at for name, at in found.end_offsets().items() if name.startswith("event")) == 502
        assert sum(r.kind == "unreadable" for records in content(found).values() for r in records) == 1
        assert len(list(event_records(found))) == 502
        for n in range(PARTITIONS):
            assert found.get("event", 3, n) == log.get("event", 3, n)
        check(found, log)
        log.append("event", [click(900 + n, f"u{n % 9}", START + n) for n in range(40)])
        both = SeamedLog(found, log, ("event", "served", "control", "cut"))
        assert content(both, limit=50) == content(log)
        assert both.end_offsets() == log.end_offsets()


def test_a_deleted_user_goes_from_the_archive_where_kafka_cannot_forget(log: KafkaEventLog, tmp_path: Path) -> None:
    log.append("event", [click(n, f"u{n % 9}", START + n) for n in range(90)])
    log.append("served", [served(n, f"u{n % 9}", START) for n in range(9)])
    time.sleep(0.01)
    log.append("event", [deletion(1, "u3", START + 100)])
    time.sleep(0.01)
    log.append("event", [click(500, "u3", START + 200)])
    sink = Sink(log, ArchiveStore(str(tmp_path / "a")))
    sink.catch_up()
    Tidy(sink.store).run(sink.manifest)
    with closing(ArchiveLog(str(tmp_path / "a"))) as found:
        rows = [one for records in content(found).values() for one in records]
    assert sum(one.kind == "blank" for one in rows) == 11
    assert [one.kind for one in rows if one.key == "u3"] == ["user", "interaction"]
    assert not any(b'"u3"' in one.body for one in rows if one.kind == "blank")
    assert len(rows) == 101


def test_a_topic_that_was_made_again_is_refused_with_its_ids(
    log: KafkaEventLog, address: KafkaAddress, tmp_path: Path
) -> None:
    url = str(tmp_path / "archive")
    log.append("event", [click(n, "u", START) for n in range(5)])
    old = log.identity()
    Sink(log, ArchiveStore(url)).catch_up()
    admin = KafkaAdminClient(bootstrap_servers=list(address.servers))
    admin.delete_topics([address.topic("event")])
    until = time.monotonic() + 20
    while True:  # the broker deletes a moment later
        try:
            make_topics(address, topic_plans(PARTITIONS))
            if log.identity().topics["event"] != old.topics["event"]:
                break
        except LogError:
            assert time.monotonic() < until
        time.sleep(0.1)
    admin.close()
    with closing(ArchiveLog(url)) as found, pytest.raises(LogError, match="not the one that was archived") as refused:
        check(found, log)
    value = refused.value.value or ""
    assert old.topics["event"] in value
    assert log.identity().topics["event"] in value
    with pytest.raises(LogError, match="archive is of another log"):
        Sink(log, ArchiveStore(url))
    assert os.listdir(url)
