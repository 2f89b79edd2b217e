"""Batches of Kafka records taken apart at once, in place of the client's own way, a Python call for each number.

It imports no client: `event_log_kafka.py` hands in the class that walks over fetched batches, which goes on to check
checksums, transactions and control batches. Batches with other headers than ours, damaged ones, and a client that is
built otherwise are read by the client itself; what comes out is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from features.event_log_kafka_kernels import (
    APPENDED,
    IMPORTED,
    KEY,
    KEY_END,
    KIND,
    KIND_END,
    OFFSET,
    SIZE,
    STREAM,
    STREAM_END,
    TENANT,
    TENANT_END,
    TIME,
    TIMESTAMP,
    VALUE,
    VALUE_END,
    places,
)
from features.event_log_kafka_records import NO_HEADERS, Head
from features.records import VERSION


class _Row(msgspec.Struct, gc=False):
    """A record, with what the client asks of one."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Head | tuple[()]
    size_in_bytes: int
    checksum: None = None

    def validate_crc(self) -> bool:
        """Its batch has one."""
        return True


def _rows(batch: Any) -> list[_Row] | None:
    """The records of a batch (of kafka-python) of message format 2; None where it has to be read by the client."""
    iter(batch)  # decompresses
    data = bytes(batch._buffer)
    found = places(np.frombuffer(data, np.uint8), batch._pos, batch.records_count, VERSION)
    if found is None:
        return None
    kind = batch.timestamp_type
    offset, first, fixed = batch.base_offset, batch.first_timestamp, batch.max_timestamp if kind else None
    texts: dict[bytes, str] = {}

    def text(start: int, end: int) -> str:
        raw = data[start:end]
        known = texts.get(raw)
        if known is None:
            known = texts[raw] = raw.decode()
        return known

    made = []
    for of in found.tolist():
        head: Head | tuple[()] = NO_HEADERS
        if of[STREAM_END] >= 0:
            head = Head(
                text(of[KIND], of[KIND_END]), text(of[TENANT], of[TENANT_END]), of[TIMESTAMP], of[APPENDED],
                text(of[STREAM], of[STREAM_END]), of[IMPORTED] == 1,
            )  # fmt: skip
        made.append(_Row(
            offset + of[OFFSET], first + of[TIME] if fixed is None else fixed, kind,
            data[of[KEY] : of[KEY_END]] if of[KEY_END] >= 0 else None,
            data[of[VALUE] : of[VALUE_END]] if of[VALUE_END] >= 0 else None, head, of[SIZE],
        ))  # fmt: skip
    return made


class _Batch:
    """A batch as the client has it, but for its records."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        batch = self._batch
        try:
            rows = _rows(batch) if batch.magic == 2 and not batch.is_control_batch else None
        except (AttributeError, UnicodeDecodeError):
            rows = None
        return iter(batch if rows is None else rows)

    def __next__(self) -> Any:
        return next(self._batch)


class _Batches:
    """The batches of a fetched answer."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> _Batch | None:
        """The next one, None at the end."""
        batch = self._records.next_batch()
        return None if batch is None else _Batch(batch)


def taken_apart(consumer: Any) -> Any:
    """The same consumer (of kafka-python), whose batches are read as above from now on."""
    fetcher = getattr(consumer, "_fetcher", None)
    walker = getattr(fetcher, "PartitionRecords", None)
    if walker is None or not hasattr(walker, "_unpack_records"):
        return consumer

    class Walker(walker):  # type: ignore[misc, valid-type]
        def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Any:
            return super()._unpack_records(tp, _Batches(records), *deserializers)

    fetcher.PartitionRecords = Walker  # type: ignore[union-attr]
    return consumer
