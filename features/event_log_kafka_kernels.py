"""The loop over a batch of Kafka records (message format 2): where each one's parts lie. It makes no objects.

A record: length, attributes, time delta, offset delta, key, value, count of headers, each header's key and value; all
numbers are zigzag varints (Kafka's protocol, "Record").
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

(OFFSET, TIME, SIZE, KEY, KEY_END, VALUE, VALUE_END, KIND, KIND_END, TENANT, TENANT_END, TIMESTAMP, APPENDED, STREAM,
 STREAM_END, IMPORTED, COLUMNS) = range(17)  # fmt: skip
"""Columns of a record: deltas of offset and time; its size; start and end of key and value (end −1: none); of our
header, start and end of kind, tenant, stream (end −1: no header at all), its two times, and whether it is imported."""

NAMES = b"v\0kind\0tenant\0timestamp\0append_time\0stream\0imported\0"
"""Keys of our header, in the order in which it is written (`event_log_kafka_records.headers_of`)."""

_NAMES = np.frombuffer(NAMES, np.uint8)
_DIGITS = 18  # of a number that surely fits 64 bits


@njit(cache=True, nogil=True)
def _number(data: Bytes, at: int) -> tuple[int, int]:
    """A zigzag varint at a place: (value, place after it); place −1 where it runs over the end or is too long."""
    found, shift = np.uint64(0), np.uint64(0)
    for k in range(at, min(at + 10, len(data))):
        found |= np.uint64(data[k] & 0x7F) << shift
        if data[k] < 0x80:
            return int(np.int64(found >> np.uint64(1)) ^ -np.int64(found & np.uint64(1))), k + 1
        shift += np.uint64(7)
    return 0, -1


@njit(cache=True, nogil=True)
def _span(data: Bytes, at: int) -> tuple[int, int]:
    """Start and end of what is counted at a place: end −1 where there is none, start −1 where it is damaged."""
    size, at = _number(data, at)
    if at < 0 or size > len(data) - at:
        return -1, -1
    return at, at + size if size >= 0 else -1


@njit(cache=True, nogil=True)
def _decimal(data: Bytes, start: int, end: int) -> tuple[int, bool]:
    """A number in decimal digits; False where it is none or too long to be sure of."""
    minus = end > start and data[start] == 45
    start += 1 if minus else 0
    if not 0 < end - start <= _DIGITS:
        return 0, False
    found = 0
    for k in range(start, end):
        if not 48 <= data[k] <= 57:
            return 0, False
        found = found * 10 + int(data[k]) - 48
    return -found if minus else found, True


@njit(cache=True, nogil=True)
def _name(data: Bytes, start: int, end: int, names: Bytes, at: int) -> int:
    """The place after the name at `at` in `names` where [start, end) is that name, else −1."""
    for k in range(start, end):
        if names[at] != data[k]:
            return -1
        at += 1
    return at + 1 if names[at] == 0 else -1


@njit(cache=True, nogil=True)
def _header(data: Bytes, at: int, count: int, names: Bytes, version: int, row: Places) -> int:
    """Read our header; the place after it, or −1 where it is not exactly ours."""
    if count != 6 and count != 7:
        return -1
    name = 0
    for k in range(count):
        start, end = _span(data, at)
        if start < 0 or end < 0:
            return -1
        name = _name(data, start, end, names, name)
        start, end = _span(data, end)
        if name < 0 or start < 0 or end < 0:
            return -1
        at, sound = end, True
        if k == 0 or k == 6:
            sound = end == start + 1 and data[start] == (version if k == 0 else 49)
        elif k == 1:
            row[KIND], row[KIND_END] = start, end
        elif k == 2:
            row[TENANT], row[TENANT_END] = start, end
        elif k == 3:
            row[TIMESTAMP], sound = _decimal(data, start, end)
        elif k == 4:
            row[APPENDED], sound = _decimal(data, start, end)
        else:
            row[STREAM], row[STREAM_END] = start, end
        if not sound:
            return -1
    row[IMPORTED] = count == 7
    return at


@njit(cache=True, nogil=True)
def _record(data: Bytes, at: int, names: Bytes, version: int, row: Places) -> int:
    size, at = _number(data, at)
    if at < 0 or size < 0 or size > len(data) - at:
        return -1
    end = at + size
    _, at = _number(data, at)
    if at < 0:
        return -1
    row[SIZE] = size
    row[TIME], at = _number(data, at)
    if at < 0:
        return -1
    row[OFFSET], at = _number(data, at)
    if at < 0:
        return -1
    for column in (KEY, VALUE):
        start, stop = _span(data, at)
        if start < 0:
            return -1
        row[column], row[column + 1] = start, stop
        at = max(start, stop)
    count, at = _number(data, at)
    if at < 0:
        return -1
    row[STREAM_END] = -1
    if count:
        at = _header(data, at, count, names, version, row)
    return at if at == end else -1


@njit(cache=True, nogil=True)
def _places(data: Bytes, at: int, names: Bytes, version: int, rows: Places) -> bool:
    for k in range(len(rows)):
        at = _record(data, at, names, version, rows[k])
        if at < 0:
            return False
    return at == len(data)


def places(data: Bytes, at: int, count: int, version: int) -> Places | None:
    """Where the parts of the `count` records of a batch lie, i64[count, COLUMNS]; they begin at `at` and fill the rest;
    version: of our header, one digit.

    None where one of them has another header than ours or none, or is damaged: somebody else reads that batch."""
    if not 0 <= count <= len(data):
        return None
    rows = np.zeros((count, COLUMNS), np.int64)
    return rows if _places(data, at, _NAMES, ord(str(version)), rows) else None


def warm() -> None:
    """Compile all of them, so that the first batch need not wait."""
    places(np.zeros(1, np.uint8), 0, 1, 1)
