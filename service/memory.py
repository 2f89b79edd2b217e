"""Keeps the process small on glibc: few heaps for many threads, and what loading left behind is given back."""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_HEAPS = 2
_OWN_PAGES = 8 << 20
_KEPT = 32 << 20


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def few_heaps() -> None:
    """Before threads start: at most two malloc heaps instead of eight a core. Does nothing off glibc.

    Arrays above 8 MB keep pages of their own, whatever was freed before: a table of zeros then takes only the pages
    that are used, and what a replay leaves goes back. Up to 32 MB stay at the end of a heap for the next requests.
    """
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
        libc.mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """After loading: collect, keep what is left out of later collections, and return free pages."""
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Return free pages, without a collection: some milliseconds."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
