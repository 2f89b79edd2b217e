"""Keeps the process small on glibc: few heaps for many threads, and what loading or a burst left behind is given back.

It frees no object: it returns pages that hold none.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MADV_DONTNEED = 4
_HEAPS = 2
_OWN_PAGES = 8 << 20
_KEPT = 32 << 20
_GROWN = 8 << 20
"""Resident bytes more than after the last time from which on `Relief` gives back."""

_COMPILER = "libllvmlite"
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-.. ")


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def few_heaps() -> None:
    """Before threads start: at most two malloc heaps instead of eight a core. Does nothing off glibc.

    Arrays above 8 MB keep pages of their own, whatever was freed before: what a replay leaves goes back. Up to 32 MB
    stay at the end of a heap for the next requests.
    """
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
        libc.mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """After loading: collect, keep what is left out of later collections, and return what can go."""
    gc.collect()
    gc.freeze()
    trim()
    drop_compiler()


def trim() -> None:
    """Return free pages, without a collection: some milliseconds."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def resident() -> int:
    """Bytes of this process in memory; 0 where that cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def drop_compiler() -> None:
    """Let go of LLVM's code, 65 MB that are only needed to load a kernel; they come back from the file when they are.

    Only pages that equal the file are touched: mappings that cannot be written and of which no page was changed.
    """
    libc = _libc()
    if libc is None:
        return
    for start, end in _compiler():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


@cache
def _compiler() -> tuple[tuple[int, int], ...]:
    """Where the compiler lies. Asked once: a library stays where it was loaded, and nobody makes it writable."""
    try:
        mappings = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(unchanged(mappings, _COMPILER))


def unchanged(lines: list[str], name: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the read-only mappings of the file `name`… that hold no page of their own, from `smaps`: neither
    in memory nor swapped out (what the loader changed there would come back as the file has it).
    """
    place: tuple[int, int] | None = None
    for line in lines:
        found = _MAPPING.match(line)
        if found and f"/{name}" in line:
            place = int(found[1], 16), int(found[2], 16)
        elif line[:1] in "0123456789abcdef":
            place = None
        elif place is not None and line.startswith(("Anonymous:", "Swap:")):
            if line.split()[1] != "0":
                place = None
            elif line.startswith("Swap:"):  # stands below the other
                yield place


class Relief:
    """Gives back when the process has grown, now and then: what a burst or an import left in the heaps."""

    def __init__(self) -> None:
        self._least = 0

    def look(self) -> bool:
        """Once; whether there was reason to. Some milliseconds then, microseconds else."""
        size = resident()
        if size and size < self._least + _GROWN:
            self._least = min(self._least, size)
            return False
        trim()
        drop_compiler()
        self._least = resident()
        return True
