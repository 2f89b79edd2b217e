"""The catalogue as chunks of 1,024 rows: what checkpoints and the ranker's file store, and how it comes back.

A base class of `features/catalogue.py` that only knows its arrays; it applies no events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arena import Arena
from features.keys import KeyIndex

FORMAT = 1
ROWS_A_CHUNK = 1_024
_HEAD = 12


class CatalogueChunks:
    """Chunked (`features/chunked.py`) over the arrays that Catalogue allocates."""

    max_items: int
    version: int
    _index: KeyIndex
    _arena: Arena
    _offset: npt.NDArray[np.int64]
    _id_length: npt.NDArray[np.uint16]
    _length: npt.NDArray[np.uint32]
    _changed: set[int]

    def _reset_chunks(self) -> None:
        self._dirty = np.ones(-(-self.max_items // ROWS_A_CHUNK), np.uint8)
        self._digests: dict[int, bytes] = {}

    def _mark_dirty(self, row: int) -> None:
        self._dirty[row // ROWS_A_CHUNK] = 1
        self._digests.pop(row // ROWS_A_CHUNK, None)

    def _allocate(self) -> None:
        raise NotImplementedError

    def _number_categories(self, start: int, end: int) -> None:
        raise NotImplementedError

    def _columns(self) -> list[npt.NDArray[Any]]:
        names = (
            "_id_length",
            "_length",
            "_category",
            "_brand",
            "_price",
            "_available",
            "_deleted",
            "_numeric",
        )
        return [getattr(self, name) for name in names]

    def _chunks(self) -> int:
        return -(-len(self._index) // ROWS_A_CHUNK)

    def chunk_names(self) -> list[str]:
        """All chunks that exist, in order."""
        return [f"rows/{k}" for k in range(self._chunks())]

    def changed_chunks(self) -> dict[str, bytes]:
        """Chunks changed since `mark_clean`, by name; all of them at first."""
        return {f"rows/{k}": self._chunk(k) for k in range(self._chunks()) if self._dirty[k]}

    def mark_clean(self) -> None:
        """What `changed_chunks` gave is stored."""
        self._dirty[:] = 0

    def digest(self) -> str:
        """sha256 over the chunks' own sha256; only changed chunks are read again."""
        h = hashlib.sha256()
        for k in range(self._chunks()):
            if k not in self._digests:
                self._digests[k] = hashlib.sha256(self._chunk(k)).digest()
            h.update(self._digests[k])
        return h.hexdigest()

    def _chunk(self, k: int) -> bytes:
        start, end = k * ROWS_A_CHUNK, min(len(self._index), (k + 1) * ROWS_A_CHUNK)
        head = start.to_bytes(4, "little") + (end - start).to_bytes(4, "little") + FORMAT.to_bytes(4, "little")
        parts = [head, self._index.keys[start:end].tobytes()]
        parts += [column[start:end].tobytes() for column in self._columns()]
        for row in range(start, end):
            at = int(self._offset[row])
            parts.append(self._arena.read(at, int(self._length[row])))
        return b"".join(parts)

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """Become the catalogue that `chunks` were taken from. Raises ValueError where they do not fit
        together.
        """
        self._allocate()
        numbers = sorted(int(name.partition("/")[2]) for name in chunks)
        if numbers != list(range(len(numbers))):
            raise ValueError("chunks of the catalogue are missing")
        for k in numbers:
            self._restore_chunk(chunks[f"rows/{k}"])
        self.version += 1
        self.mark_clean()
        self._publish()

    def _publish(self) -> None:
        raise NotImplementedError

    def _restore_chunk(self, data: bytes) -> None:
        start, n, version = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8))
        if version != FORMAT:
            raise ValueError(
                f"a chunk of the catalogue has format {version}; this code reads {FORMAT}: update this process"
            )
        if start != len(self._index):
            raise ValueError(f"a chunk of the catalogue (row {start}) does not fit: {len(self._index)} is due")
        keys = np.frombuffer(data, np.uint64, n, _HEAD)
        if int(self._index.intern_many(keys)[-1]) != start + n - 1:
            raise ValueError("the catalogue does not fit into max_items")
        at = _HEAD + 8 * n
        for column in self._columns():
            width = column[0].size
            column[start : start + n] = np.frombuffer(data, column.dtype, n * width, at).reshape(
                column[start : start + n].shape
            )
            at += n * width * column.itemsize
        self._number_categories(start, start + n)
        ends = np.cumsum(self._length[start : start + n].astype(np.int64))
        self._offset[start : start + n] = len(self._arena) + ends - self._length[start : start + n]
        self._arena.append(memoryview(data)[at:])
