"""Keeps the process small on glibc: few heaps for many threads, and what loading left behind is given back."""

from __future__ import annotations

import ctypes
import gc
import sys

_M_ARENA_MAX = -8
_HEAPS = 2


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def few_heaps() -> None:
    """Before threads start: at most two malloc heaps instead of eight a core. Does nothing off glibc."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _HEAPS)


def give_back() -> None:
    """After loading: collect, keep what is left out of later collections, and return free pages."""
    gc.collect()
    gc.freeze()
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
