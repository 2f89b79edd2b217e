"""The ranker's item vectors by catalogue row, on disk and mapped, keyed by the base that made them. Encodes nothing.

`vectors/<base sha256>/` holds one file an array, mapped into memory: a restart finds them as they were and encodes
nothing again. A row is valid when `key` is the item's key and `content` the hash of the fields it was encoded from;
the vector is written before its hash, so a kill in between leaves a row that is encoded again.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import StoreError
from service.block_kernels import BLOCK, DIM
from service.retrieval_kernels import write_blocks

TOWER, COARSE = 64, DIM
_GROW = 4_096
_STEP = 8_192
"""Rows that files grow by: some 15 ms at a million, in which the engine's lock is held."""

_ARRAYS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "tower": (np.float32, (TOWER,)),
    "coarse": (np.float32, (COARSE,)),
    "bias": (np.float32, ()),
    "scale": (np.float32, ()),
    "key": (np.uint64, ()),
    "content": (np.uint64, ()),
}


def lengthen(path: Path, size: int) -> None:
    """Make a file at least `size` bytes long. Raises StoreError where the disk has no room.

    Its blocks are taken now: where one is missing, writing to the mapped page would kill the process (SIGBUS).
    """
    path.touch()
    with path.open("r+b") as file:
        old = os.fstat(file.fileno()).st_size
        if size <= old:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), old, size - old)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                file.truncate(old)
                raise StoreError(f"no room for {path.name}: {error.strerror}", hint="free disk space") from error
        file.truncate(size)


class ItemVectors:
    """Growing arrays over catalogue rows: tower f32 (n, 64), coarse f32 (n, 32), bias f32 (n,), and int8 blocks.

    Readers take the attributes anew for every request; growing replaces them and leaves the old ones valid.
    """

    def __init__(
        self, folder: Path | None, unknown: tuple[npt.NDArray[np.float32], ...], *, follows: bool = False
    ) -> None:
        """folder: where the arrays lie (None: in memory only); unknown: tower (64,), coarse (32,), bias () of an item
        nothing is known of, which fills rows that are not encoded yet; follows: another process writes the files."""
        self._folder, self._follows = folder, follows
        self.unknown = unknown
        self.capacity = 0
        self.encoded = 0
        self.generation = 0
        self._file = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        size = self._stored_rows()
        if follows:
            self._map(size)
        else:
            self._open(max(size, _GROW), size)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.bin"

    def _stored_rows(self) -> int:
        if self._folder is None or not self._path("content").exists():
            return 0
        sizes = []
        for name, (dtype, shape) in _ARRAYS.items():
            width = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            path = self._path(name)
            sizes.append(path.stat().st_size // width if path.exists() else 0)
        blocks = self._path("blocks")
        sizes.append(blocks.stat().st_size // COARSE if blocks.exists() else 0)
        return min(sizes) // BLOCK * BLOCK

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...], rows: int) -> npt.NDArray[Any]:
        """One array of `rows` rows, holding what it held."""
        if self._folder is not None:
            path = self._path(name)
            if not self._follows:
                lengthen(path, rows * np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)))
            return np.asarray(np.memmap(path, dtype, "r+", shape=(rows, *shape)))
        fresh = np.zeros((rows, *shape), dtype)
        if self.capacity:
            old = getattr(self, name)
            fresh[: old.shape[0]] = old
        return fresh

    def _open(self, rows: int, filled: int) -> None:
        rows = (rows + BLOCK - 1) // BLOCK * BLOCK
        self._map(rows, filled)
        if filled < rows:
            places = np.arange(filled, rows, dtype=np.int64)
            write_blocks(self.blocks, self.scale, places, self.coarse[filled:])

    def _map(self, rows: int, filled: int | None = None) -> None:
        """Take arrays of so many rows; those from `filled` on get the unknown item's vector."""
        self._file = self._file_now()
        made = {name: self._array(name, dtype, shape, rows) for name, (dtype, shape) in _ARRAYS.items()}
        blocks = self._array("blocks", np.int8, (COARSE, BLOCK), rows // BLOCK)
        if filled is not None:
            made["tower"][filled:] = self.unknown[0]
            made["coarse"][filled:] = self.unknown[1]
            made["bias"][filled:] = self.unknown[2]
            made["scale"][filled:] = 0.0
            made["key"][filled:] = 0
            made["content"][filled:] = 0
        self.blocks: npt.NDArray[np.int8] = blocks
        self.tower: npt.NDArray[np.float32] = made["tower"]
        self.coarse: npt.NDArray[np.float32] = made["coarse"]
        self.bias: npt.NDArray[np.float32] = made["bias"]
        self.scale: npt.NDArray[np.float32] = made["scale"]
        self.key: npt.NDArray[np.uint64] = made["key"]
        self.content: npt.NDArray[np.uint64] = made["content"]
        self.capacity = rows

    def reserve(self, rows: int) -> None:
        """Make room for at least `rows` rows. Raises StoreError where the disk has none; nothing has changed then.

        One that follows takes what its writer has made room for, which may be less.
        """
        if rows > self.capacity and self._follows:
            stored = 0 if self.replaced else self._stored_rows()
            if stored > self.capacity:
                self._map(stored)
        elif rows > self.capacity:
            more = self.capacity // 2 + _GROW if self._folder is None else _STEP
            self._open(max(rows, self.capacity + more), self.capacity)

    @property
    def replaced(self) -> bool:
        """Of one that follows: whether its writer has let go of the files that are mapped here, or made new ones."""
        return self._file_now() != self._file

    def _file_now(self) -> int:
        try:
            return 0 if self._folder is None else self._path("content").stat().st_ino
        except OSError:
            return 0

    def put(
        self,
        rows: npt.NDArray[np.int64],
        keys: npt.NDArray[np.uint64],
        content: npt.NDArray[np.uint64],
        vectors: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]],
    ) -> None:
        """Write the vectors of `rows` (tower, coarse, bias), then what they were made from."""
        self.content[rows] = 0
        self.tower[rows], self.coarse[rows], self.bias[rows] = vectors
        write_blocks(self.blocks, self.scale, rows, vectors[1])
        self.key[rows] = keys
        self.content[rows] = content
        self.encoded += len(rows)
        self.generation += 1

    def current(
        self, rows: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], content: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Which of `rows` hold the vector of this item with this content."""
        same: npt.NDArray[np.bool_] = (self.key[rows] == keys) & (self.content[rows] == content)
        return same

    def missing(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Rows 0 … len(keys) that hold no vector of the item with this key."""
        n = len(keys)
        return np.flatnonzero((self.key[:n] != keys) | (self.content[:n] == 0))
