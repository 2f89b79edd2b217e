"""A log record as a Kafka message and back (docs/formats.md §2). It imports no client and opens nothing.

The header of a record stands in the message's headers, as text; the body is its value, the partition key its key.
A message of an ordinary client on the topic of events has no headers of ours: its value is one event of the dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import orjson

from features.errors import InvalidEvent, LogError
from features.event_parser import parse_event
from features.records import UNREADABLE, VERSION, NewRecord, Record, Stream, event_record

Headers = list[tuple[str, bytes]]
_RAW = 8_192
_LIMIT = 1 << 63
_OF_THE_BROKER = 1
"""timestamp_type of a topic whose message.timestamp.type is LogAppendTime."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """Our header of a record, read. To the client, which would add up sizes of headers, it says that it is empty."""

    kind: str
    tenant: str
    timestamp: int
    append_time: int
    stream: str
    imported: bool

    def __bool__(self) -> bool:
        return False


NO_HEADERS: tuple[()] = ()


class Message(Protocol):
    """What is read of a message; kafka-python's ConsumerRecord has it."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Head | Sequence[tuple[str, bytes | None]]: ...


def headers_of(stream: Stream, record: NewRecord, now: int) -> Headers:
    """The headers of a record appended at `now` (ms). Raises LogError where a time is no 64-bit integer."""
    if not -_LIMIT <= record.timestamp < _LIMIT:
        raise LogError(
            "a record cannot be stored: its time does not fit", field="timestamp", value=record.timestamp,
            hint="times are 64-bit milliseconds",
        )  # fmt: skip
    found = [
        ("v", b"%d" % VERSION),
        ("kind", record.kind.encode()),
        ("tenant", record.tenant.encode()),
        ("timestamp", b"%d" % record.timestamp),
        ("append_time", b"%d" % now),
        ("stream", stream.encode()),
    ]
    if record.imported:
        found.append(("imported", b"1"))
    return found


def record_of(stream: Stream, message: Message, tenant: str) -> Record:
    """The record of a message; `tenant` is that of events without headers.

    What cannot be read becomes a record of kind `unreadable` in its place: it stops nobody, and whoever consumes the
    stream puts its body on the stream `dead-letter`. Raises LogError for a newer format version only: that is not
    skipped.
    """
    try:
        head = message.headers
        if not isinstance(head, Head):
            found = _head(stream, message, head)
            if found is None:
                return _plain(stream, message, tenant)
            head = found
        if head.stream != stream:
            raise ValueError(f"a record of the stream {head.stream!r}")
        if message.value is None:
            raise ValueError("no content")
        return Record(
            stream, message.partition, message.offset, head.kind, head.tenant, head.timestamp,
            _not_ahead(head.append_time, message), head.imported, (message.key or b"").decode(), message.value,
        )  # fmt: skip
    except KeyError as error:
        return _unreadable(stream, message, tenant, f"no header {error}")
    except InvalidEvent as error:
        return _unreadable(stream, message, tenant, f"no headers of a record, and no event: {error.message}")
    except (ValueError, TypeError) as error:
        return _unreadable(stream, message, tenant, str(error))


def _head(stream: Stream, message: Message, headers: Sequence[tuple[str, bytes | None]]) -> Head | None:
    """The header of a record; None where it has none of ours."""
    found = dict(headers)
    version = found.get("v")
    if version is None:
        return None
    if int(version) > VERSION:
        raise LogError(
            f"{stream}/{message.partition} has a record of format version {int(version)} at offset"
            f" {message.offset}; this code reads {VERSION}",
            hint="update this process first",
        )
    return Head(
        _text(found["kind"]), _text(found["tenant"]), _time(found["timestamp"]), _time(found["append_time"]),
        _text(found["stream"]), found.get("imported") == b"1",
    )  # fmt: skip


def _not_ahead(append_time: int, message: Message) -> int:
    """An append time, at most the broker's: the clock of one ranker that is ahead moves no window of the others."""
    return min(append_time, message.timestamp) if message.timestamp_type == _OF_THE_BROKER else append_time


def _text(value: bytes | None) -> str:
    return value.decode() if value is not None else ""


def _time(value: bytes | None) -> int:
    found = int(value or b"")
    if not -_LIMIT <= found < _LIMIT:
        raise ValueError(f"not a time: {found}")
    return found


def _plain(stream: Stream, message: Message, tenant: str) -> Record:
    """An event as an ordinary client sends it. Refused like over HTTP, with the message's time as that of arrival."""
    if stream != "event":
        raise ValueError("no headers of a record")
    new = event_record(parse_event(message.value or b"", tenant=tenant, now_ms=message.timestamp))
    return Record(
        stream, message.partition, message.offset, new.kind, tenant, new.timestamp, message.timestamp, False,
        new.key, new.body,
    )  # fmt: skip


def _unreadable(stream: Stream, message: Message, tenant: str, reason: str) -> Record:
    body = {
        "source": f"{stream}/{message.partition}",
        "offset": message.offset,
        "reason": reason[:1_000],
        "raw": (message.value or b"")[:_RAW].decode("utf-8", "replace"),
    }
    at = message.timestamp
    return Record(
        stream, message.partition, message.offset, UNREADABLE, tenant, at, at, False, "", orjson.dumps(body)
    )
