"""Batches of Kafka records taken apart at once: the same records as the client makes of them, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from features.event_log_kafka_batches import _Batch, _rows, taken_apart
from features.event_log_kafka_kernels import places
from features.event_log_kafka_records import record_of
from features.records import VERSION

Headers = list[tuple[str, bytes | None]]
HEAD = st.fixed_dictionaries({
    "v": st.sampled_from([b"1", b"2", b"01"]),
    "kind": st.sampled_from([b"ranking", b"", "größe".encode(), b"\xff"]),
    "tenant": st.sampled_from([b"shop", b"t" * 300]),
    "timestamp": st.one_of(
        st.integers(-(10**17), 10**17).map(lambda n: b"%d" % n), st.sampled_from([b"", b"-", b" 7", b"9" * 30])
    ),
    "append_time": st.integers(0, 1 << 62).map(lambda n: b"%d" % n),
    "stream": st.sampled_from([b"event", b"served"]),
}).map(lambda found: list(found.items()))  # fmt: skip
OURS = st.tuples(HEAD, st.sampled_from([[], [("imported", b"1")], [("imported", b"0")], [("trace", None)]])).map(
    lambda parts: [*parts[0], *parts[1]]
)


def head(timestamp: int, append_time: int, kind: bytes, more: Headers) -> Headers:
    """As `headers_of` writes it."""
    return [
        ("v", b"1"), ("kind", kind), ("tenant", b"shop"), ("timestamp", b"%d" % timestamp),
        ("append_time", b"%d" % append_time), ("stream", b"event"), *more,
    ]  # fmt: skip


TIME = st.integers(-(10**17), 10**17)
KIND = st.sampled_from([b"ranking", "größe".encode()])
SOUND = st.builds(head, TIME, TIME, KIND, st.sampled_from([[], [("imported", b"1")]]))
RECORD = st.tuples(
    st.one_of(st.none(), st.binary(max_size=8)), st.one_of(st.none(), st.binary(max_size=300)), st.integers(0, 1 << 40)
)


def batch(records: list[tuple[Any, Headers]], codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=False, producer_id=1, producer_epoch=0, base_sequence=0,
        batch_size=1 << 20,
    )  # fmt: skip
    for k, ((key, value, t), headers) in enumerate(records):
        builder.append(3 * k, t, key, value, headers)
    return bytes(builder.build())


class Message:
    """What is read of a ConsumerRecord."""

    def __init__(self, row: Any) -> None:
        self.partition = 2
        for name in ("offset", "timestamp", "timestamp_type", "key", "value", "headers"):
            setattr(self, name, getattr(row, name))


def outcome(row: Any) -> object:
    try:
        return record_of("event", Message(row), "shop")
    except Exception as error:  # a newer version, said in the same words
        return str(error)


def same(data: bytes) -> None:
    mine, theirs = list(_Batch(DefaultRecordBatch(data))), list(DefaultRecordBatch(data))
    for a, b in zip(mine, theirs, strict=True):
        assert (a.offset, a.timestamp, a.timestamp_type, a.key, a.value) == (
            b.offset, b.timestamp, b.timestamp_type, b.key, b.value
        )  # fmt: skip
        assert (a.size_in_bytes, a.checksum, a.validate_crc()) == (b.size_in_bytes, b.checksum, b.validate_crc())
        assert outcome(a) == outcome(b)


@settings(max_examples=150, deadline=None)
@given(records=st.lists(st.tuples(RECORD, st.one_of(st.just([]), OURS)), min_size=1, max_size=6))
def test_the_same_records_as_the_client_makes(records: list[tuple[Any, Headers]]) -> None:
    same(batch(records))


@settings(max_examples=50, deadline=None)
@given(records=st.lists(st.tuples(RECORD, st.one_of(st.just([]), SOUND)), min_size=1, max_size=6))
@pytest.mark.parametrize("codec", [0, 1])
def test_headers_of_ours_and_none_are_taken_apart_here(codec: int, records: list[tuple[Any, Headers]]) -> None:
    data = batch(records, codec)
    assert _rows(DefaultRecordBatch(data)) is not None
    same(data)


def parts(records: Any) -> object:
    """What a batch holds, or the error that reading it raises."""
    try:
        return [(one.offset, one.timestamp, one.key, one.value) for one in records]
    except Exception as error:
        return repr(error)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_batch_is_left_to_the_client(data: st.DataObject) -> None:
    """Whatever a byte is turned into: no read past the end, and nothing else than the client would give."""
    whole = batch([((b"k", b"v" * 20, 5), head(7, 8, b"ranking", [])), ((b"k", b"w", 5), [])])
    start = DefaultRecordBatch.HEADER_STRUCT.size
    broken = bytearray(whole)
    broken[data.draw(st.integers(start, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert parts(_Batch(DefaultRecordBatch(bytes(broken)))) == parts(DefaultRecordBatch(bytes(broken)))


def test_a_count_that_cannot_be_is_refused() -> None:
    assert places(np.zeros(4, np.uint8), 0, 5, VERSION) is None
    assert places(np.zeros(4, np.uint8), 0, -1, VERSION) is None


def test_our_consumers_read_this_way(kafka_url: str) -> None:
    """The installed client has what is replaced: otherwise all is read its own, slow way, and nobody notices."""
    address = kafka_url.removeprefix("kafka://").split("/")[0]
    consumer = KafkaConsumer(bootstrap_servers=address, group_id=None)
    try:
        before = consumer._fetcher.PartitionRecords
        walker = taken_apart(consumer)._fetcher.PartitionRecords
        assert walker is not before
        assert issubclass(walker, before)
    finally:
        consumer.close()
