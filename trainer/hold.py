"""The hold: what waits for its time, events for the end of the hold and timers until due, in one order.

Entries leave in the order (due, kind, number): a click at the very time of a timer comes before it. The hold
knows neither what an entry means nor the wall clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

EVENT, RETRY, NEGATIVE, PURCHASE, INFER, SERVED = range(6)
"""Kinds: a held event; a label that had to wait; a ranking whose unclicked items become negatives; a click
that becomes a purchase negative; an answer whose shown items are inferred from its clicks; a ranking whose served
record did not come: its labels wait no longer."""

SHOWN, DONE = range(2)
"""What a held event is: the items that a ranking showed, or what somebody did."""

Entry = tuple[int, int, int, Any]


class Hold:
    """Entries (due ms, kind, number, payload) by due time. Payloads of timers are plain msgpack values."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, due: int, kind: int, payload: Any) -> None:
        """Let `payload` wait for `due`; entries of equal due and kind leave in the order of their push."""
        heapq.heappush(self._heap, (due, kind, self._number, payload))
        self._number += 1

    def release(self, through: int) -> Iterator[Entry]:
        """All entries due at or before `through`, in order; entries pushed meanwhile take part."""
        heap = self._heap
        while heap and heap[0][0] <= through:
            yield heapq.heappop(heap)

    def next_due(self) -> int | None:
        """When the next entry is due; None when nothing waits."""
        return self._heap[0][0] if self._heap else None

    def drop(self, kinds: frozenset[int]) -> int:
        """Forget all entries of these kinds; how many they were."""
        kept = [entry for entry in self._heap if entry[1] not in kinds]
        dropped = len(self._heap) - len(kept)
        self._heap = kept
        heapq.heapify(self._heap)
        return dropped

    def exchange(self, other: Hold, kind: int) -> None:
        """Give all entries of this kind to the other hold, and take its own; they keep their order."""
        mine, theirs = ([entry for entry in hold._heap if entry[1] == kind] for hold in (self, other))
        self.drop(frozenset((kind,)))
        other.drop(frozenset((kind,)))
        self._heap += theirs
        other._heap += mine
        for hold in (self, other):
            heapq.heapify(hold._heap)
        self._number = other._number = max(self._number, other._number)

    def state(self, pack: Callable[[Any], Any]) -> bytes:
        """All entries, sorted, as msgpack; `pack` makes plain values of the payload of an event."""
        ordered = sorted(self._heap, key=lambda entry: entry[:3])
        plain = [(due, kind, n, pack(load) if kind == EVENT else load) for due, kind, n, load in ordered]
        return msgspec.msgpack.encode((self._number, plain))

    def load(self, data: bytes, unpack: Callable[[Any], Any]) -> None:
        """The inverse of `state`."""
        self._number, entries = msgspec.msgpack.decode(data, type=tuple[int, list[Entry]])
        self._heap = [(due, kind, n, unpack(load) if kind == EVENT else load) for due, kind, n, load in entries]
