"""What one actor (a user, else a session) did lately: items, times and behaviours, in time order, of bounded
length.

It holds no features (`features/assembler.py` computes them) and knows no store (`features/feature_store.py`
keeps it).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.records import PLACE_BITS
from features.user_state_bytes import Columns, pack, unpack

HISTORY = 256
"""Interactions kept an actor where no setting says otherwise."""

RECENTS = 20
"""Interactions before a new one that co-visitation learns from."""

_SLACK = 64
_HEADER = struct.Struct("<BQqI")
_FORMER = 1


class Recents(NamedTuple):
    """An actor's interactions up to some time, oldest first: item keys, times (ms), behaviour codes."""

    items: npt.NDArray[np.uint64]
    times: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]


NO_RECENTS = Recents(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint8))


class UserState:
    """The last `limit` interactions of one actor, oldest to newest; equal times stay in order of arrival.

    `offset` is the place (`features/records.py`) + 1 of the last log record that was applied (0: none), so that a
    record read twice counts once. An actor's records lie in one partition; where partitions were added, in a new one.
    Memory: 17 bytes an interaction and the slack of a growing array. Not thread-safe.
    """

    __slots__ = ("_items", "_kinds", "_lo", "_n", "_times", "key", "limit", "offset")

    def __init__(self, key: int, limit: int = HISTORY) -> None:
        self.key = key
        self.limit = limit
        self.offset = 0
        self._lo = 0
        self._n = 0
        self._allocate(8)

    def _allocate(self, size: int) -> None:
        self._items = np.zeros(size, np.uint64)
        self._times = np.zeros(size, np.int64)
        self._kinds = np.zeros(size, np.uint8)

    def __len__(self) -> int:
        return self._n

    @property
    def items(self) -> npt.NDArray[np.uint64]:
        """Item keys, oldest to newest: a view, valid until the next append."""
        return self._items[self._lo : self._lo + self._n]

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """Event times in ms, ascending: a view, valid until the next append."""
        return self._times[self._lo : self._lo + self._n]

    @property
    def kinds(self) -> npt.NDArray[np.uint8]:
        """Behaviour codes (`features/schema.py`): a view, valid until the next append."""
        return self._kinds[self._lo : self._lo + self._n]

    def append(self, item: int, kind: int, t: int, offset: int | None = None) -> bool:
        """Insert one interaction at its place in time; the oldest goes when `limit` is passed.

        With `offset` (place of the log record) a record applied before is refused: False. An interaction older than
        a full history is counted as applied and not kept.
        """
        if offset is not None:
            if offset < self.offset and offset >> PLACE_BITS == self.offset >> PLACE_BITS:
                return False
            self.offset = offset + 1
        if self._n == self.limit:
            if t < self._times[self._lo]:
                return True
            self._lo += 1
            self._n -= 1
        end = self._lo + self._n
        late = self._n > 0 and t < self._times[end - 1]
        if late or end == len(self._items):  # what stands there is never moved: `recents` gives it away
            self._make_room()
            end = self._lo + self._n
        at = end
        if late:
            at = self._lo + int(np.searchsorted(self.times, t, side="right"))
            for column in (self._items, self._times, self._kinds):
                column[at + 1 : end + 1] = column[at:end].copy()
        self._items[at] = item
        self._times[at] = t
        self._kinds[at] = kind
        self._n += 1
        return True

    def _make_room(self) -> None:
        items, times, kinds = self.items, self.times, self.kinds
        self._allocate(min(2 * self._n, self.limit) + (_SLACK if self._n >= _SLACK else 8))
        for column, old in ((self._items, items), (self._times, times), (self._kinds, kinds)):
            column[: self._n] = old
        self._lo = 0

    def recents(self, t: int, limit: int = RECENTS) -> Recents:
        """The newest `limit` interactions with a time ≤ t (those of the same time too: a basket): views that stay as
        they are, whatever is appended.
        """
        low, end = self._lo, self._lo + self._n
        if self._n and self._times[end - 1] > t:
            end = low + int(np.searchsorted(self.times, t, side="right"))
        first = max(low, end - limit)
        return Recents(self._items[first:end], self._times[first:end], self._kinds[first:end])

    def until(self, t: int) -> UserState:
        """A copy that holds only the interactions with a time ≤ t: the state as it was then."""
        end = int(np.searchsorted(self.times, t, side="right"))
        copy = UserState(self.key, self.limit)
        copy._fill(self.items[:end], self.times[:end], self.kinds[:end])
        copy.offset = self.offset
        return copy

    def _fill(
        self, items: npt.NDArray[np.uint64], times: npt.NDArray[np.int64], kinds: npt.NDArray[np.uint8]
    ) -> None:
        self._items, self._times, self._kinds = items.copy(), times.copy(), kinds.copy()
        self._lo, self._n = 0, len(items)

    def columns(self, *, keyed: bool) -> Columns:
        """What is stored of it; keyed: with the actor's key, where the store does not keep that elsewhere."""
        return Columns(self.offset, self.items, self.times, self.kinds, self.key if keyed else None)

    def encode(self) -> bytes:
        """Format 2 (`features/user_state_bytes.py`) with the actor's key and the items' keys."""
        return pack(self.columns(keyed=True))

    @classmethod
    def of(cls, key: int, columns: Columns, limit: int = HISTORY) -> UserState:
        """The state of an actor from what was stored; a history longer than `limit` loses its oldest part."""
        state = cls(key, limit)
        state.offset = columns.offset
        keep = slice(max(0, len(columns.items) - limit), None)
        state._fill(columns.items[keep], columns.times[keep], columns.kinds[keep])
        return state

    @classmethod
    def decode(cls, data: bytes, limit: int = HISTORY) -> UserState:
        """Undo `encode`, of this format and the one before. Raises ValueError on others."""
        if data[:1] == bytes((_FORMER,)):
            return cls._decode_former(data, limit)
        columns = unpack(data)
        if columns.key is None:
            raise ValueError(f"user state of {len(data)} bytes cannot be read: it says not whose it is")
        return cls.of(columns.key, columns, limit)

    @classmethod
    def _decode_former(cls, data: bytes, limit: int) -> UserState:
        """Format 1: a header of 21 bytes, then 17 bytes an interaction, column by column."""
        if len(data) < _HEADER.size:
            raise ValueError(f"user state of {len(data)} bytes cannot be read")
        _, key, offset, n = _HEADER.unpack_from(data)
        at = _HEADER.size
        if len(data) != at + 17 * n:
            raise ValueError(f"user state of format {_FORMER} with {len(data)} bytes cannot be read")
        items, times = np.frombuffer(data, "<u8", n, at), np.frombuffer(data, "<i8", n, at + 8 * n)
        return cls.of(key, Columns(offset, items, times, np.frombuffer(data, "u1", n, at + 16 * n)), limit)
