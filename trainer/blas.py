"""Holds numpy's BLAS to one thread: same bits on a machine of any width, no spinning. Computes nothing."""

from __future__ import annotations

import ctypes
import os

import numpy as np

_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
)


def single_thread() -> bool:
    """Set the BLAS that numpy was built with to one thread. False where its setter is not known: then
    `OPENBLAS_NUM_THREADS=1` in the environment does it, before Python starts."""
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    for name in _SETTERS:
        setter = getattr(library, name, None)
        if setter is not None:
            setter(ctypes.c_int(1))
            return True
    return os.environ.get("OPENBLAS_NUM_THREADS") == "1"
