"""The real-time state as chunks of rows: what checkpoints store, and how it comes back.

A base class of `features/realtime.py` that only knows its arrays; it applies no ops.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features.keys import KeyIndex
from features.realtime_hash_kernels import N_LISTS

ITEMS_A_CHUNK = 4_096
LISTS_A_CHUNK = 512


class RealtimeChunks:
    """Chunked (`features/chunked.py`) over the arrays that RealtimeState allocates."""

    lock: threading.Lock
    items: KeyIndex
    categories: KeyIndex
    item_counts: npt.NDArray[np.float32]
    item_last: npt.NDArray[np.int64]
    degree: npt.NDArray[np.float32]
    degree_total: npt.NDArray[np.float64]
    lists: npt.NDArray[np.int32]
    category_counts: npt.NDArray[np.float32]
    category_last: npt.NDArray[np.int64]
    list_slots: npt.NDArray[np.int32]
    list_len: npt.NDArray[np.int32]
    list_weights: npt.NDArray[np.float32]
    totals: npt.NDArray[np.float32]
    totals_last: npt.NDArray[np.int64]
    shown: npt.NDArray[np.float64]
    clicked: npt.NDArray[np.float64]
    scalars: npt.NDArray[np.int64]
    _owner_of: npt.NDArray[np.int32]

    def _reset_chunks(self) -> None:
        self._dirty = {
            "items": np.zeros(-(-len(self.item_last) // ITEMS_A_CHUNK), np.uint8),
            "categories": np.zeros(-(-len(self.category_last) // ITEMS_A_CHUNK), np.uint8),
            "lists": np.zeros(-(-len(self.list_len) // LISTS_A_CHUNK), np.uint8),
        }
        self._all_dirty = True

    def _allocate(self) -> None:
        raise NotImplementedError

    def verify(self) -> bool:
        """Do the content hash carried along and the rows agree?"""
        raise NotImplementedError

    def _sizes(self) -> dict[str, tuple[int, int]]:
        return {
            "items": (len(self.items), ITEMS_A_CHUNK),
            "categories": (len(self.categories), ITEMS_A_CHUNK),
            "lists": (int(self.scalars[N_LISTS]), LISTS_A_CHUNK),
        }

    def chunk_names(self) -> list[str]:
        """All chunks that exist, in order."""
        names = ["globals"]
        for table, (n, size) in self._sizes().items():
            names += [f"{table}/{k}" for k in range(-(-n // size))]
        return names

    def changed_chunks(self) -> dict[str, bytes]:
        """Chunks changed since `mark_clean`, by name; all of them at first."""
        found = {"globals": self._globals()}
        for table, (n, size) in self._sizes().items():
            for k in range(-(-n // size)):
                if self._all_dirty or self._dirty[table][k]:
                    found[f"{table}/{k}"] = self._chunk(table, k * size, min(n, (k + 1) * size))
        return found

    def mark_clean(self) -> None:
        """What `changed_chunks` gave is stored."""
        self._all_dirty = False
        for flags in self._dirty.values():
            flags[:] = 0

    def _parts(self, table: str) -> list[npt.NDArray[Any]]:
        if table == "items":
            return [self.item_last, self.item_counts, self.degree, self.lists]
        if table == "categories":
            return [self.category_last, self.category_counts]
        return [self.list_len, self._owner_of, self.list_slots, self.list_weights]

    def _chunk(self, table: str, start: int, end: int) -> bytes:
        head = end.to_bytes(4, "little")
        if table != "lists":
            head += (self.items if table == "items" else self.categories).keys[start:end].tobytes()
        return head + b"".join(part[start:end].tobytes() for part in self._parts(table))

    def _tables(self) -> list[npt.NDArray[Any]]:
        return [self.scalars, self.totals, self.totals_last, self.shown, self.clicked, self.degree_total]

    def _globals(self) -> bytes:
        return b"".join(part.tobytes() for part in self._tables())

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """Become the state that `chunks` (all of `chunk_names`) were taken from.

        Raises ValueError where they do not fit together; the state is then empty.
        """
        with self.lock:
            self._allocate()
            try:
                self._restore(chunks)
                if not self.verify():
                    raise ValueError("chunks of the real-time state do not fit together")
            except (KeyError, ValueError) as error:
                self._allocate()
                raise ValueError(f"cannot restore the real-time state: {error}") from error
            self.mark_clean()

    def become(self, other: RealtimeChunks) -> None:
        """Take the state of another, all of which is to be stored anew."""
        other._all_dirty = True
        self.restore(other.changed_chunks())
        self._all_dirty = True

    def _restore(self, chunks: Mapping[str, bytes]) -> None:
        at = 0
        for part in self._tables():
            part.flat[:] = np.frombuffer(chunks["globals"], part.dtype, part.size, at)
            at += part.nbytes
        by_number = sorted(
            (table, int(k), data)
            for name, data in chunks.items()
            for table, _, k in [name.partition("/")]
            if k
        )
        for table, k, data in by_number:
            self._restore_chunk(table, k * self._sizes()[table][1], data)

    def _restore_chunk(self, table: str, start: int, data: bytes) -> None:
        end, at = int.from_bytes(data[:4], "little"), 4
        n = end - start
        if table != "lists":
            index = self.items if table == "items" else self.categories
            rows = index.intern_many(np.frombuffer(data, np.uint64, n, at))
            if n and (rows[0] != start or rows[-1] != end - 1):
                raise ValueError(f"chunk {table}/{start} is out of order")
            at += 8 * n
        for part in self._parts(table):
            width = n * part[0].size
            part[start:end] = np.frombuffer(data, part.dtype, width, at).reshape(part[start:end].shape)
            at += width * part.itemsize
