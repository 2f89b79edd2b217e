"""The f16 grid is numpy's, to the bit; exp and log are close enough for eleven bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from features import math_kernels
from features.assembler import round_f16


def numpys(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.clip(x, -1000, 1000).astype(np.float16).astype(np.float32)


def same_bits(x: npt.NDArray[np.float32]) -> bool:
    mine, theirs = round_f16(x.copy()), numpys(x)
    equal = mine.view(np.uint32) == theirs.view(np.uint32)
    return bool(np.all(equal | (np.isnan(mine) & np.isnan(theirs))))


def test_every_f16_value_and_its_neighbours() -> None:
    grid = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    grid = grid[np.isfinite(grid)]
    middle = grid + np.diff(np.append(grid, 0)).astype(np.float32) / 2
    for x in (grid, middle, np.nextafter(middle, np.float32(9e9)), np.nextafter(middle, np.float32(-9e9))):
        assert same_bits(x)


def test_random_bit_patterns() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1_000_000, dtype=np.uint64).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        assert same_bits(bits.view(np.float32))


@given(st.lists(st.floats(width=32), min_size=1, max_size=70))
def test_any_floats(values: list[float]) -> None:
    with np.errstate(invalid="ignore"):
        assert same_bits(np.array(values, np.float32))


@njit
def _exp(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = math_kernels.exp(x[i])


@njit
def _log(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = math_kernels.log(x[i])


def test_exp_and_log_are_close() -> None:
    x = -np.linspace(0, 86, 100_001).astype(np.float32)
    out = np.empty_like(x)
    _exp(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=2e-5)
    x = np.geomspace(1e-30, 1e30, 100_001).astype(np.float32)
    _log(x, out)
    np.testing.assert_allclose(out, np.log(x.astype(np.float64)), rtol=1e-6, atol=1e-6)


def test_a_value_does_not_depend_on_its_place() -> None:
    x = np.random.default_rng(1).random(131).astype(np.float32) * 50
    whole = np.empty_like(x)
    _log(x + 1, whole)
    for i in range(len(x)):
        alone = np.empty(1, np.float32)
        _log((x + 1)[i : i + 1].copy(), alone)
        assert alone[0] == whole[i]
