"""A bootstrap with the live log on a real Kafka: `--then kafka://…`, the same bits, and on from the seam."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest
from learning_kit import make_base, shop_records
from test_bootstrap import archive, follow, rebuild

from features.event_log_kafka import KafkaEventLog, make_topics
from features.event_log_kafka_topics import topic_plans
from features.event_log_kafka_url import parse_address
from features.records import NewRecord
from service.weight_store import open_weight_store

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def test_then_kafka(kafka_url: str, tmp_path: Path) -> None:
    address = parse_address(f"{kafka_url}/{uuid.uuid4().hex}?timeout_ms=8000")
    make_topics(address, topic_plans(1))
    artifact, streams = make_base(tmp_path / "base"), dict[str, list[NewRecord]]()
    for _, stream, records in shop_records(artifact, 60):
        streams.setdefault(stream, []).extend(records)
    with closing(KafkaEventLog(address)) as log:
        for stream in ("served", "event"):
            log.append(stream, streams[stream][:200])  # type: ignore[arg-type]
        with closing(open_weight_store(tmp_path / "old", writer=True)) as store:
            truth = follow(log, store, artifact)
            assert truth["v"] > 1
        archive(log, str(tmp_path / "archive"), artifact)
        with closing(open_weight_store(tmp_path / "new", writer=True)) as store:
            made = rebuild(log, store, str(tmp_path / "archive"), artifact)
            assert made.answer["hash"] == truth["hash"]  # type: ignore[attr-defined]
            for stream in ("served", "event"):
                log.append(stream, streams[stream][200:240])  # type: ignore[arg-type]
            found = follow(log, store, artifact)
        assert found["totals"]["event"] == 240
        with closing(open_weight_store(tmp_path / "old", writer=True)) as store:  # the old one, asleep meanwhile
            assert follow(log, store, artifact)["hash"] == found["hash"]
