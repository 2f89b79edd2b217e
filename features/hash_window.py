"""A bounded map of 64-bit hashes in order of arrival: what was seen lately (event ids, served requests).

Bounded by count and by age; as chunks, only what came since the last checkpoint is written. It keeps no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from features.hash_window_kernels import find, insert_all, offer, offer_all, remove_first

ENTRIES_A_CHUNK = 4_096
Entries = npt.NDArray[np.void]
_ENTRY = np.dtype([("key", "<u8"), ("value", "<i8"), ("time", "<i8")])


class HashWindow:
    """u64 → i64, oldest dropped beyond `max_entries` or older than `max_age_ms`. ≤ 40 bytes an entry."""

    def __init__(self, max_entries: int, max_age_ms: int) -> None:
        self.max_entries = max_entries
        self.max_age_ms = max_age_ms
        self._allocate(min(1_024, max_entries))

    def _allocate(self, capacity: int) -> None:
        self._entries = np.zeros(capacity, _ENTRY)
        self._keys, self._values, self._times = (self._entries[name] for name in ("key", "value", "time"))
        self._table = np.full(1 << (2 * capacity - 1).bit_length(), -1, np.int64)
        self._first = 0  # sequence number of the oldest entry
        self._next = 0
        self._clean = 0  # sequence number up to which chunks are stored

    def __len__(self) -> int:
        return self._next - self._first

    def add(self, key: int, value: int, now: int) -> bool:
        """Remember key → value at time `now` (ms, of the event); False where the key is there already."""
        oldest, hashed = now - self.max_age_ms, np.uint64(key)
        while True:
            self._first, done = offer(
                self._table, self._keys, self._values, self._times, self._first, self._next, self.max_entries, oldest,
                hashed, value, now,
            )  # fmt: skip
            if done >= 0:
                self._next += done
                return bool(done)
            self._grow()

    def add_all(self, keys: Sequence[int], values: Sequence[int], times: Sequence[int]) -> list[bool]:
        """`add` for each of them, in order, each at its own time."""
        offered, now = np.array(keys, np.uint64), np.array(times, np.int64)
        places, new, done = np.array(values, np.int64), np.zeros(len(offered), np.bool_), 0
        while done < len(offered):
            self._first, self._next, done = offer_all(
                self._table, self._keys, self._values, self._times, self._first, self._next, self.max_entries,
                self.max_age_ms, offered, places, now, new, done,
            )  # fmt: skip
            if done < len(offered):
                self._grow()
        found: list[bool] = new.tolist()
        return found

    def get(self, key: int) -> int | None:
        """The value of the key, or None."""
        found = int(find(self._table, self._entries["key"], len(self._entries), np.uint64(key)))
        return int(self._entries["value"][found % len(self._entries)]) if found >= 0 else None

    def expire(self, now: int) -> None:
        """Drop what is older than `max_age_ms` at time `now`."""
        while self._first < self._next:
            if int(self._entries["time"][self._first % len(self._entries)]) >= now - self.max_age_ms:
                return
            self._drop()

    def _drop(self) -> None:
        remove_first(self._table, self._entries["key"], len(self._entries), self._first)
        self._first += 1

    def _grow(self) -> None:
        first, clean = self._first, self._clean
        self._fill(self._ordered(), first, min(2 * len(self._entries), self.max_entries))
        self._clean = clean

    def _fill(self, entries: Entries, first: int, capacity: int) -> None:
        """Start anew with these entries, numbered from `first`."""
        self._allocate(capacity)
        self._first, self._next = first, first + len(entries)
        self._entries[np.arange(self._first, self._next) % capacity] = entries
        insert_all(self._table, self._entries["key"], capacity, self._first, self._next)

    def _ordered(self) -> Entries:
        return self._entries[np.arange(self._first, self._next) % len(self._entries)]

    # chunks: the entries by sequence number, ENTRIES_A_CHUNK each; `window` holds the ends
    def _names(self, first: int) -> range:
        return range(first // ENTRIES_A_CHUNK, -(-self._next // ENTRIES_A_CHUNK)) if len(self) else range(0)

    def chunk_names(self) -> list[str]:
        """`window`, and one name for each 4,096 entries."""
        return ["window", *(f"entries-{i}" for i in self._names(self._first))]

    def changed_chunks(self) -> dict[str, bytes]:
        """The ends, and the chunks with entries that came since `mark_clean`."""
        found = {"window": np.array([self._first, self._next], "<i8").tobytes()}
        for i in self._names(max(self._first, self._clean)):
            sequence = np.arange(i * ENTRIES_A_CHUNK, min((i + 1) * ENTRIES_A_CHUNK, self._next))
            sequence = sequence[sequence >= self._first]
            found[f"entries-{i}"] = self._entries[sequence % len(self._entries)].tobytes()
        return found

    def mark_clean(self) -> None:
        """All that is here now is stored."""
        self._clean = self._next

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """Replace the content (the newest `max_entries`). A chunk may begin with entries dropped since."""
        first, after = (int(x) for x in np.frombuffer(chunks["window"], "<i8"))
        names = range(first // ENTRIES_A_CHUNK, -(-after // ENTRIES_A_CHUNK)) if after > first else range(0)
        parts = [np.frombuffer(chunks[f"entries-{i}"], _ENTRY) for i in names]
        count = min(after - first, self.max_entries)
        stored = np.concatenate([np.zeros(0, _ENTRY), *parts])
        entries = stored[len(stored) - count :]
        self._fill(entries, after - count, min(max(1_024, count), self.max_entries))
        self._clean = self._next

    def digest(self) -> str:
        """sha256 in hex of the entries in order."""
        return hashlib.sha256(self._ordered().tobytes()).hexdigest()
