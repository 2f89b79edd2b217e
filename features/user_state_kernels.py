"""Bits of a stored user state, written and read in numba. What the columns mean is `features/user_state_bytes.py`'s."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]


@njit(cache=True, nogil=True)
def put(out: U8, at: Any, value: Any, width: Any) -> Any:
    """Write the low `width` bits of `value` from bit `at` on, lowest first; the bit after them."""
    done = 0
    while done < width:
        place, shift = (at + done) >> 3, (at + done) & 7
        out[place] |= np.uint8(((value >> np.uint64(done)) << np.uint64(shift)) & np.uint64(0xFF))
        done += 8 - shift
    if (at + width) & 7:  # what was written beyond the value's end
        out[(at + width) >> 3] &= np.uint8((1 << ((at + width) & 7)) - 1)
    return at + width


@njit(cache=True, nogil=True)
def take(data: U8, at: Any, width: Any) -> Any:
    """`width` bits from bit `at` on."""
    value = np.uint64(0)
    done = 0
    while done < width:
        place, shift = (at + done) >> 3, (at + done) & 7
        value |= (np.uint64(data[place]) >> np.uint64(shift)) << np.uint64(done)
        done += 8 - shift
    return value if width == 64 else value & ((np.uint64(1) << np.uint64(width)) - np.uint64(1))


@njit(cache=True, nogil=True)
def put_all(out: U8, at: int, values: U64, width: int) -> int:
    """Write every value in `width` bits."""
    for i in range(values.shape[0]):
        at = put(out, at, values[i], width)
    return at


@njit(cache=True, nogil=True)
def take_all(data: U8, at: int, width: int, out: U64) -> int:
    """Read as many values of `width` bits as `out` holds; -1 where the bytes end before."""
    if at < 0 or at + width * out.shape[0] > 8 * data.shape[0]:
        return -1
    for i in range(out.shape[0]):
        out[i] = take(data, at, width)
        at += width
    return at


@njit(cache=True, nogil=True)
def bit_lengths(values: U64, out: U64) -> None:
    """out[i] = bits of values[i]; 0 for 0."""
    for i in range(values.shape[0]):
        rest, n = values[i], 0
        while rest:
            rest >>= np.uint64(1)
            n += 1
        out[i] = n


@njit(cache=True, nogil=True)
def put_free(out: U8, at: Any, values: U64, lengths: U64) -> Any:
    """Write each value in its own length less its highest bit, which is 1."""
    for i in range(values.shape[0]):
        at = put(out, at, values[i], max(0, np.int64(lengths[i]) - 1))
    return at


@njit(cache=True, nogil=True)
def take_free(data: U8, at: Any, lengths: U64, out: U64) -> Any:
    """The inverse of `put_free`; -1 where the bytes end before."""
    for i in range(out.shape[0]):
        length = np.int64(lengths[i])
        out[i] = np.uint64(0)
        if length == 0:
            continue
        if at < 0 or length > 64 or at + length - 1 > 8 * data.shape[0]:
            return -1
        out[i] = take(data, at, length - 1) | (np.uint64(1) << np.uint64(length - 1))
        at += length - 1
    return at


def warm() -> None:
    """Compile all of them, so that the first state need not wait."""
    values, lengths, out = np.ones(1, np.uint64), np.zeros(1, np.uint64), np.zeros(9, np.uint8)
    bit_lengths(values, lengths)
    put_all(out, 0, values, 8)
    take_all(out, 0, 8, values)
    put_free(out, 0, values, lengths)
    take_free(out, 0, lengths, values)
