"""Tables for the largest shop cost a small one nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from features.pages import zeros


def test_arrays_are_zeros_of_every_shape() -> None:
    for shape, dtype in ((5, np.float32), ((3, 2), np.int64), ((4, 0), np.float32), (0, bool), (9, bool)):
        made = zeros(shape, dtype)
        assert made.dtype == dtype
        assert np.array_equal(made, np.zeros(shape, dtype))
        made[...] = 1
        assert made.flags.writeable
        assert made.flags.c_contiguous


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_only_what_is_written_takes_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    before = resident()
    tables = [zeros(8 << 20, np.float32) for _ in range(8)]  # 256 MB
    for table in tables:
        table[:100] = 1
    assert resident() - before < 2 << 20
    tables[0][:] = 1
    assert resident() - before > 24 << 20
