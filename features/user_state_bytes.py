"""The stored form of a user's interactions, format 2: columns packed bit by bit. It knows no store and no UserState.

Byte 0 is the format, byte 1 flags; then LEB128 numbers (offset, count, oldest time, columns' widths), then bits:
items (each once, with places in that list where items repeat), times as differences in bits of their own length,
behaviours. An item is its 64-bit key, or a number that a store gave it (`features/item_numbers.py`): 50 distinct items
take 400 bytes or some 130.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.user_state_kernels import bit_lengths, put_all, put_free, take_all, take_free

FORMAT = 2
NUMBERED, REPEATED, SECONDS, KEYED = 1, 2, 4, 8
_MOST = 1 << 16
U64 = npt.NDArray[np.uint64]


class Columns(NamedTuple):
    """Interactions oldest first, with the offset they were read through and, where it is stored, whose they are."""

    offset: int
    items: U64
    times: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    key: int | None = None


def _width(highest: int) -> int:
    return highest.bit_length()


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _times(times: npt.NDArray[np.int64]) -> tuple[int, U64, U64, bool]:
    """Oldest time, differences, their lengths in bits, and whether the unit is a second."""
    seconds = not (times % 1_000).any()
    units = times // 1_000 if seconds else times
    steps = np.diff(units).astype(np.uint64)
    lengths = np.empty(len(steps), np.uint64)
    bit_lengths(steps, lengths)
    return int(units[0]), steps, lengths, seconds


def pack(columns: Columns, numbers: U64 | None = None) -> bytes:
    """The bytes of `columns`; numbers: what stands for `columns.items`, one each, if a store numbers items."""
    n = len(columns.items)
    flags = (KEYED if columns.key is not None else 0) | (NUMBERED if numbers is not None else 0)
    head = b"" if columns.key is None else columns.key.to_bytes(8, "little")
    head += _varint(columns.offset) + _varint(n)
    if n == 0:
        return bytes((FORMAT, flags)) + head
    names = columns.items if numbers is None else numbers
    once, places = np.unique(names, return_inverse=True)
    wide = 64 if numbers is None else _width(int(once[-1]))
    among = _width(len(once) - 1)
    repeated = len(once) * wide + n * among < n * wide
    listed = once if repeated else names
    first, steps, lengths, seconds = _times(columns.times)
    least = int(lengths.min()) if n > 1 else 0
    spread = _width(int(lengths.max()) - least) if n > 1 else 0
    lowest = int(columns.kinds.min())
    kinds = (columns.kinds - lowest).astype(np.uint64)
    of_kind = _width(int(kinds.max()))
    flags |= (REPEATED if repeated else 0) | (SECONDS if seconds else 0)
    head += _varint(first) + bytes((wide, least, spread, lowest, of_kind))
    if repeated:
        head += _varint(len(once))
    bits = len(listed) * wide + (n * among if repeated else 0) + (n - 1) * spread + int(lengths.sum()) + n * of_kind
    out = np.zeros(bits // 8 + 2, np.uint8)
    at = put_all(out, 0, listed, wide)
    if repeated:
        at = put_all(out, at, places.astype(np.uint64), among)
    at = put_all(out, at, lengths - np.uint64(least), spread)
    at = put_free(out, at, steps, lengths)
    at = put_all(out, at, kinds, of_kind)
    return bytes((FORMAT, flags)) + head + out[: (at + 7) // 8].tobytes()


class _Reader:
    """LEB128 numbers and bytes from the front of some bytes. Raises ValueError past their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def bytes(self, n: int) -> bytes:
        found = self._data[self.at : self.at + n]
        if len(found) < n:
            raise ValueError("user state cannot be read: it ends too soon")
        self.at += n
        return found

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.bytes(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("user state cannot be read: a number is too long")


def unpack(data: bytes, keys_of: Callable[[U64], U64] | None = None) -> Columns:
    """Undo `pack`; keys_of: the item keys of a store's numbers. Raises ValueError, and what `keys_of` raises."""
    reader = _Reader(data)
    version, flags = reader.bytes(2)
    if version > FORMAT:
        raise ValueError(f"user state of format {version} cannot be read: this is {FORMAT}, update this process")
    if version != FORMAT or flags > 15:
        raise ValueError(f"user state of format {version} with {len(data)} bytes cannot be read")
    key = int.from_bytes(reader.bytes(8), "little") if flags & KEYED else None
    offset, n = reader.varint(), reader.varint()
    nothing = np.zeros(0, np.uint64)
    if n == 0:
        return Columns(offset, nothing, np.zeros(0, np.int64), np.zeros(0, np.uint8), key)
    first = reader.varint()
    wide, least, spread, lowest, of_kind = reader.bytes(5)
    once = reader.varint() if flags & REPEATED else n
    if not 1 <= once <= n <= _MOST or wide > 64 or spread > 7 or of_kind > 8:
        raise ValueError("user state cannot be read: its widths make no sense")
    listed, places = np.empty(once, np.uint64), np.zeros(n, np.uint64)
    lengths, steps, kinds = np.empty(n - 1, np.uint64), np.empty(n - 1, np.uint64), np.empty(n, np.uint64)
    body = np.frombuffer(data, np.uint8, len(data) - reader.at, reader.at)
    at = take_all(body, 0, wide, listed)
    if flags & REPEATED:
        at = take_all(body, at, _width(once - 1), places)
    at = take_all(body, at, spread, lengths)
    lengths += np.uint64(least)
    at = take_all(body, take_free(body, at, lengths, steps), of_kind, kinds)
    if at < 0 or (flags & REPEATED and int(places.max()) >= once) or (at + 7) // 8 != len(body):
        raise ValueError(f"user state cannot be read: {n} interactions in {len(data)} bytes")
    names = listed[places] if flags & REPEATED else listed
    times = np.concatenate(([np.uint64(first)], steps)).astype(np.uint64).view(np.int64).cumsum()
    if flags & NUMBERED:
        if keys_of is None:
            raise ValueError("user state cannot be read: its items are numbers of a store")
        names = keys_of(names)
    unit = 1_000 if flags & SECONDS else 1
    return Columns(offset, names, times * unit, (kinds + np.uint64(lowest)).astype(np.uint8), key)
