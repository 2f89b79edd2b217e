"""Bytes one after the other, found again by place and length: the catalogue's ids and fields. It frees nothing."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from features.errors import TooLarge
from features.shared_pages import Pages


class Arena(Protocol):
    """Append and read; only one process writes."""

    def __len__(self) -> int: ...

    def append(self, data: bytes | memoryview) -> int:
        """Where the bytes lie now."""
        ...

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be appended."""
        ...

    def overwrite(self, at: int, data: bytes) -> bool:
        """Put bytes in the place of others of at least their length; False where readers may be at them."""
        ...

    def read(self, at: int, size: int) -> bytes:
        """The bytes of a place."""
        ...


class OwnArena:
    """In this process's memory, as long as it is filled."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes | memoryview) -> int:
        """See Arena."""
        at = len(self._data)
        self._data += data
        return at

    def has_room(self, size: int) -> bool:
        """See Arena: as long as there is memory."""
        return True

    def overwrite(self, at: int, data: bytes) -> bool:
        """See Arena."""
        self._data[at : at + len(data)] = data
        return True

    def read(self, at: int, size: int) -> bytes:
        """See Arena."""
        return bytes(self._data[at : at + size])


class SharedArena:
    """In shared pages of a fixed reach; only what is filled takes memory. What was read once stays as it is."""

    def __init__(self, pages: Pages, reach: int) -> None:
        self._data = pages.zeros(reach, np.uint8).data
        self._used = pages.zeros(1, np.int64)

    def __len__(self) -> int:
        return int(self._used[0])

    def append(self, data: bytes | memoryview) -> int:
        """See Arena. Raises TooLarge where it is full."""
        at = int(self._used[0])
        if not self.has_room(len(data)):
            raise TooLarge(f"the fields of all items take more than {len(self._data)} bytes", hint="set workers to 1")
        self._data[at : at + len(data)] = bytes(data)
        self._used[0] = at + len(data)
        return at

    def has_room(self, size: int) -> bool:
        """See Arena."""
        return int(self._used[0]) + size <= len(self._data)

    def overwrite(self, at: int, data: bytes) -> bool:
        """See Arena: never."""
        return False

    def read(self, at: int, size: int) -> bytes:
        """See Arena."""
        return bytes(self._data[at : at + size])
