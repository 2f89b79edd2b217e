"""f32 arithmetic that compiles to SIMD and gives the same bits wherever it runs: exp, log and rounding to the
f16 grid.

Plain polynomials of additions and multiplications (no libm, nothing that a compiler may reorder), so that a
value does not depend on its place in a vector or on the machine's C library. Error below 2e-5 of the value (z
keeps 11 bits).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

F = np.float32
U = np.uint32
I = np.int32  # noqa: E741

_LOG2E = F(1.4426950408889634)
_LN2 = F(0.6931471805599453)
_ONE, _HALF, _TWO, _ZERO = F(1.0), F(0.5), F(2.0), F(0.0)
_LOWEST = F(-87.0)
_E1, _E2, _E3, _E4, _E5, _E6 = (
    F(0.69314718056), F(0.240226506959), F(0.0555041086648), F(0.00961812910763), F(0.00133335581464),
    F(0.000154035303934),
)  # fmt: skip
_L3, _L5, _L7, _L9 = F(1 / 3), F(1 / 5), F(1 / 7), F(1 / 9)
_SQRT2 = F(1.4142135623730951)
_LIMIT = F(1000.0)


def _bits_of(context: Any, x: Any) -> Any:
    """f32 → the same 32 bits as u32."""

    def codegen(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


def _float_of(context: Any, x: Any) -> Any:
    """u32 → the same 32 bits as f32."""

    def codegen(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


_bits: Any = intrinsic(_bits_of)
_float: Any = intrinsic(_float_of)


@njit(cache=True, nogil=True, error_model="numpy")
def exp(x: Any) -> Any:
    """e^x for f32 x ≤ 0; below −87 as at −87 (1e-38)."""
    y = max(x, _LOWEST) * _LOG2E
    n = np.floor(y)
    f = y - n
    p = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
    return p * _float(U((I(n) + I(127)) << I(23)))


@njit(cache=True, nogil=True, error_model="numpy")
def log(x: Any) -> Any:
    """ln x for a positive, normal f32 x."""
    b = _bits(x)
    e = F(I(I(b >> U(23)) - I(127)))
    m = _float((b & U(0x007FFFFF)) | U(0x3F800000))
    big = m > _SQRT2
    m = m * _HALF if big else m
    e = e + _ONE if big else e
    t = (m - _ONE) / (m + _ONE)
    s = t * t
    return e * _LN2 + _TWO * t * (_ONE + s * (_L3 + s * (_L5 + s * (_L7 + s * _L9))))


@njit(cache=True, nogil=True, error_model="numpy")
def f16(x: Any) -> Any:
    """The f32 value on the f16 grid that is nearest to x clipped to ±1000, ties to even; nan stays nan.

    Equal to numpy's astype(float16) of the clipped value. Normal values: round away 13 bits of the mantissa.
    Subnormal ones (below 2^-14): adding 0.5, whose spacing is 2^-24, rounds to f16's smallest step.
    """
    b = _bits(x)
    sign = b & U(0x80000000)
    magnitude = _float(b & U(0x7FFFFFFF))
    magnitude = _LIMIT if magnitude > _LIMIT else magnitude
    m = _bits(magnitude)
    normal = (m + U(0xFFF) + ((m >> U(13)) & U(1))) & U(0xFFFFE000)
    small = _bits((magnitude + _HALF) - _HALF)
    rounded = small if m < U(0x38800000) else normal
    return _float(U(rounded) | sign) if x == x else x


@njit(cache=True, nogil=True)
def round_all(x: Any) -> None:
    """`f16` of every value of a flat f32 array, in place."""
    for i in range(x.shape[0]):
        x[i] = f16(x[i])
