"""The IDs of candidates, as the bytes they came in: thousands of them without a Python string each.

A sequence of `str` to whoever asks for one. It ranks nothing and knows no catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from features.keys import item_key
from features.xxh3_kernels import hash_texts
from service import candidate_kernels as kernels

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

_ROLE = np.frombuffer(b"item\0", np.uint8)


def _keys(data: U8, start: I32, size: I32) -> U64:
    keys = np.empty(len(start), np.uint64)
    hash_texts(_ROLE, data, start, size, keys)
    for k in np.flatnonzero(keys == 0).tolist():  # longer than the kernel takes
        text = data[start[k] : start[k] + size[k]].tobytes()
        keys[k] = item_key(text.decode("utf-8", "surrogatepass"))
    return keys


def _is_utf8(text: bytes | memoryview, data: U8) -> bool:
    if data.max() < 128:
        return True
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


class Candidates(Sequence[str]):
    """n IDs: `data` u8 holds their UTF-8, ID k from start[k] on, size[k] bytes long; `keys` u64 (n,) as `item_key`."""

    __slots__ = ("_plain", "_size", "_start", "data", "keys")

    def __init__(self, data: U8, start: I32, size: I32, keys: U64, plain: bool) -> None:
        """plain: no ID holds anything that JSON escapes."""
        self.data, self.keys = data, keys
        self._start, self._size, self._plain = start, size, plain

    @classmethod
    def of_json(cls, text: bytes | memoryview, limit: int, longest: int) -> Candidates | None:
        """Those of a JSON array of strings without escapes and natural numbers; None for anything else.

        Also None for no IDs, more than `limit`, or one above `longest` bytes.
        """
        data = np.frombuffer(text, np.uint8)
        most = min(limit, len(data) // 2)
        start, size = np.empty(most, np.int32), np.empty(most, np.int32)
        n = kernels.scan(data, longest, start, size)
        if n < 0 or not _is_utf8(text, data):
            return None
        start, size = start[:n], size[:n]
        return cls(data, start, size, _keys(data, start, size), True)

    @classmethod
    def of(cls, ids: Iterable[str]) -> Candidates:
        """Those of any IDs."""
        parts = [name.encode("utf-8", "surrogatepass") for name in ids]
        size = np.fromiter(map(len, parts), np.int32, len(parts))
        data = np.frombuffer(b"".join(parts), np.uint8)
        start = (np.cumsum(size) - size).astype(np.int32)
        return cls(data, start, size, _keys(data, start, size), bool(kernels.is_plain(data)))

    def __len__(self) -> int:
        return len(self._start)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        text = memoryview(self.data)  # type: ignore[arg-type]
        if isinstance(place, slice):
            pairs = zip(self._start[place].tolist(), self._size[place].tolist(), strict=True)
            return [str(text[at : at + size], "utf-8", "surrogatepass") for at, size in pairs]
        at = int(self._start[place])
        return str(text[at : at + int(self._size[place])], "utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return iter(self[:])

    def take(self, places: npt.NDArray[np.int64]) -> Candidates:
        """Those at `places`, in that order."""
        return Candidates(self.data, self._start[places], self._size[places], self.keys[places], self._plain)

    def distinct(self) -> Candidates:
        """Without repeats: the first of each stays."""
        places = np.empty(len(self), np.int64)
        count = kernels.first_places(self.keys, places)
        return self if count == len(self) else self.take(places[:count])

    def without(self, ids: Iterable[str]) -> Candidates:
        """Without those IDs."""
        unwanted = np.fromiter(map(item_key, ids), np.uint64)
        return self.take(np.flatnonzero(~np.isin(self.keys, unwanted)))

    def json(self) -> bytes | None:
        """A JSON array of them; None where one of them needs escapes."""
        if not self._plain:
            return None
        out = np.empty(int(self._size.sum()) + 3 * len(self) + 2, np.uint8)
        length = kernels.write_json(self.data, self._start, self._size, out)
        return out[:length].tobytes()
