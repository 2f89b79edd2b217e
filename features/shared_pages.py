"""Tables that several processes of one machine share: arrays in memory that has a file descriptor and no file (Linux).

One process makes the pages (`fresh`) and alone writes; others attach and read what it writes, at once. Both call
`zeros` in the same order, so that the same array lies at the same place. The memory goes when the last of them has let
go of it: whoever is killed leaves nothing behind. It knows no table and keeps nobody from reading a row that is half
written: `SharedHead` is for that.
"""

from __future__ import annotations

import math
import mmap
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from features.errors import SettingsError, StoreError
from features.pages import zeros

_SIGN = 16
_EAGER = 50
"""Looks at a writer's mark without a pause, some 50 µs: a row is written in less."""

_LOOKS, _TURNS = 100, 10_000

HALF_WRITTEN_SECONDS = 0.2
"""How long a reader waits for a writer in the middle; one that was killed there never ends."""


class Pages(Protocol):
    """Where a table's arrays come from."""

    shared: bool
    fresh: bool

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """As `np.zeros`; pages that were attached hold what their maker wrote."""
        ...


class OwnPages:
    """Memory of this process alone."""

    shared = False
    fresh = True

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """See `features/pages.py`."""
        return zeros(shape, dtype)


class SharedPages:
    """Memory that others attach by `place`. It lives while this object or an array of it does, in any process."""

    shared = True

    def __init__(self, place: str | None = None) -> None:
        """place: that of pages made elsewhere. Raises StoreError where they are gone, SettingsError off Linux."""
        self.fresh = place is None
        self._fd, self._end = -1, mmap.ALLOCATIONGRANULARITY
        if place is None:
            self._make()
        else:
            self._attach(place)

    def _make(self) -> None:
        if sys.platform != "linux":
            raise SettingsError("several workers need Linux", field="workers", hint="set workers to 1")
        self._fd = os.memfd_create("repl-ranker")
        sign = secrets.token_bytes(_SIGN)
        os.pwrite(self._fd, sign, 0)
        self.place = f"{os.getpid()}/{self._fd}/{sign.hex()}"

    def _attach(self, place: str) -> None:
        self.place = place
        try:
            pid, fd, sign = place.split("/")
            self._fd = os.open(f"/proc/{int(pid)}/fd/{int(fd)}", os.O_RDWR | os.O_CLOEXEC)
            if os.pread(self._fd, _SIGN, 0).hex() != sign:
                raise ValueError("another one's")
        except (OSError, ValueError) as error:
            hint = "their writer makes new ones"
            raise StoreError(f"shared tables are gone ({error})", value=place, hint=hint) from error

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The next array. Raises StoreError where the maker has no such one."""
        count = math.prod(shape) if isinstance(shape, tuple) else shape
        size = max(1, count * np.dtype(dtype).itemsize)
        at, self._end = self._end, self._end + -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if self.fresh:
            os.ftruncate(self._fd, self._end)
        elif os.fstat(self._fd).st_size < self._end:
            raise StoreError("shared tables are of another shape", value=self.place, hint="the same settings for all")
        pages = mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED, offset=at)
        return np.frombuffer(pages, dtype, count).reshape(shape)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            with suppress(OSError):
                os.close(self._fd)


class SharedHead:
    """Numbers before a shared table: whether its writer is in the middle of a change, and a few of the table's own."""

    def __init__(self, pages: Pages, numbers: int) -> None:
        self._at = pages.zeros(1 + numbers, np.int64)
        self.numbers = self._at[1:]
        self._torn = -1

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The writer's: readers in other processes read again what they read meanwhile."""
        self._at[0] += 1
        try:
            yield
        finally:
            self._at[0] += 1

    @property
    def torn(self) -> bool:
        """Whether the writer was found in the middle of a change, and did not come out of it."""
        return int(self._at[0]) == self._torn

    def reading(self) -> Iterator[None]:
        """The reader's loop: once, and again where the writer changed something meanwhile.

        A writer that stays in the middle of one change for HALF_WRITTEN_SECONDS, looked at often enough to tell it from
        a reader that slept, was killed there: what it left is read. No time alone ends the loop, turns do.
        """
        mark, looks, since = -1, 0, 0.0
        for _ in range(_TURNS):
            before = int(self._at[0])
            while before & 1 and before != self._torn:
                if before != mark:
                    mark, looks, since = before, 0, time.monotonic()
                looks += 1
                if looks > _LOOKS and time.monotonic() - since > HALF_WRITTEN_SECONDS:
                    self._torn = before
                    break
                time.sleep(0 if looks < _EAGER else 0.0005)
                before = int(self._at[0])
            yield
            if int(self._at[0]) == before:
                return
