"""Arrays of zeros that take memory only where they are written: the tables that are allocated for the largest shop.

`np.zeros` does so only above malloc's threshold, and asks for huge pages: the first row of each column then costs
2 MB. Here the first 4 MB of an array come in small pages, what follows in huge ones. It frees with the array.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

_SMALL = 4 << 20


def zeros(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As `np.zeros`, with pages of its own."""
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    pages = _private(max(1, size * np.dtype(dtype).itemsize))
    return np.frombuffer(pages, dtype, size).reshape(shape)


def _private(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # no Linux, or a kernel without huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE, 0, min(size, _SMALL))
        if size > _SMALL:
            pages.madvise(mmap.MADV_HUGEPAGE, _SMALL)
    return pages
