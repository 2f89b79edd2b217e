"""A bounded ring of rows with a running number: fixed columns, changing columns, inputs z. It labels nothing.

Row number s lies at s mod capacity until row s + capacity takes its place. As chunks (`features/chunked.py`),
the inputs, written once, lie apart from the columns that labels change, so that a checkpoint stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

ROWS_A_CHUNK = 2_048
Places = slice | NDArray[np.int64]


def _chunks_of(places: Places | int) -> Places | int:
    """The chunks of places of a ring."""
    if isinstance(places, slice):
        return slice(places.start // ROWS_A_CHUNK, -(-places.stop // ROWS_A_CHUNK))
    return places // ROWS_A_CHUNK


class Ring:
    """`fixed`, `live`: structured arrays [capacity]; `z`: f16 [capacity, d], d ≥ 0; `next`: rows so far."""

    def __init__(
        self, capacity: int, fixed: np.dtype[np.void], live: np.dtype[np.void], d: int,
        *, former: np.dtype[np.void] | None = None,
    ) -> None:  # fmt: skip
        """former: `live` as an earlier release wrote it; what that lacks is 0."""
        self._former = former
        self.capacity = capacity
        self.next = 0
        self.fixed = np.zeros(capacity, fixed)
        self.live = np.zeros(capacity, live)
        self.z = np.zeros((capacity, d), np.float16)
        count = -(-capacity // ROWS_A_CHUNK)
        self._written = np.zeros(count, bool)
        self._touched = np.zeros(count, bool)

    @property
    def oldest(self) -> int:
        """The lowest number still held."""
        return max(0, self.next - self.capacity)

    def slots(self, first: int, n: int) -> NDArray[np.int64]:
        """Places of rows first … first + n − 1."""
        return np.arange(first, first + n, dtype=np.int64) % self.capacity

    def span(self, first: int, n: int) -> Places:
        """The same places, as a slice where they lie in one piece (a view costs less than a copy)."""
        at = first % self.capacity
        return slice(at, at + n) if at + n <= self.capacity else self.slots(first, n)

    def append(self, n: int) -> Places:
        """Take n numbers (n ≤ capacity) and return their places; the caller fills all but `live`, now 0."""
        places = self.span(self.next, n)
        self.next += n
        self.live[places] = 0
        self.rewrite(places)
        self.touch(places)
        return places

    def touch(self, places: Places | int) -> None:
        """Changing columns at these places were changed."""
        self._touched[_chunks_of(places)] = True

    def rewrite(self, places: Places) -> None:
        """Fixed columns or inputs at these places were changed."""
        self._written[_chunks_of(places)] = True

    def _used(self) -> int:
        return -(-min(self.next, self.capacity) // ROWS_A_CHUNK)

    def chunk_names(self) -> list[str]:
        """All chunks that exist."""
        numbers = range(self._used())
        return ["next", *(f"z/{k}" for k in numbers), *(f"live/{k}" for k in numbers)]

    def changed_chunks(self) -> dict[str, bytes]:
        """Chunks changed since `mark_clean`."""
        found = {"next": self.next.to_bytes(8, "little")}
        for k in range(self._used()):
            part = slice(k * ROWS_A_CHUNK, (k + 1) * ROWS_A_CHUNK)
            if self._written[k]:
                found[f"z/{k}"] = self.fixed[part].tobytes() + self.z[part].tobytes()
            if self._touched[k]:
                found[f"live/{k}"] = self.live[part].tobytes()
        return found

    def mark_changed(self) -> None:
        """Nothing of it is stored under the name that it has now."""
        self._written[:] = True
        self._touched[:] = True

    def mark_clean(self) -> None:
        """What `changed_chunks` gave is stored."""
        self._written[:] = False
        self._touched[:] = False

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """Become the ring that all of these chunks were taken from (same capacity and d)."""
        self.next = int.from_bytes(chunks["next"], "little")
        for k in range(self._used()):
            part = slice(k * ROWS_A_CHUNK, (k + 1) * ROWS_A_CHUNK)
            n = len(self.fixed[part])
            data, size = chunks[f"z/{k}"], n * self.fixed.itemsize
            self.fixed[part] = np.frombuffer(data[:size], self.fixed.dtype)
            self.z[part] = np.frombuffer(data[size:], np.float16).reshape(n, -1)
            self._restore_live(part, chunks[f"live/{k}"])
        self.mark_clean()

    def _restore_live(self, part: slice, data: bytes) -> None:
        former, rows = self._former, self.live[part]
        if former is None or len(data) != len(rows) * former.itemsize:
            rows[:] = np.frombuffer(data, rows.dtype)
            return
        rows[:] = 0
        for name in former.names or ():
            rows[name] = np.frombuffer(data, former)[name]

    def digest(self) -> str:
        """sha256 over the rows held."""
        slots = self.slots(self.oldest, self.next - self.oldest)
        parts = (self.fixed[slots].tobytes(), self.live[slots].tobytes(), self.z[slots].tobytes())
        return sha256(self.next.to_bytes(8, "little") + b"".join(parts)).hexdigest()
