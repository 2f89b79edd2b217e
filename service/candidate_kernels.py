"""Compiled loops over lists of IDs as bytes: read from JSON, told apart, written as JSON. They look nothing up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

U = np.uint64
B = np.uint8
QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, ZERO = B(34), B(92), B(44), B(91), B(93), B(48)
SPACE = B(32)
DIGITS = 18

IS_SPACE = np.isin(np.arange(256), [9, 10, 13, 32])
IS_DIGIT = np.isin(np.arange(256), np.arange(48, 58))
IS_PLAIN = np.isin(np.arange(256), [k for k in range(32, 256) if k not in (34, 92)])
"""Bytes that stand in a JSON string as they are; whether they are UTF-8 is for others to see."""


@njit(cache=True, nogil=True)
def past(text: U8, at: Any, kind: Any) -> Any:
    """The first place from `at` (u64: a signed one would be tested at every byte) on of another kind."""
    while at < U(text.shape[0]) and kind[text[at]]:
        at += U(1)
    return at


@njit(cache=True, nogil=True)
def token_end(text: U8, at: Any, longest: Any) -> Any:
    """Where an ID ends that begins at `at`, its quotes left out: a plain string of 1 to `longest` bytes, a natural
    number; 0 for anything else.
    """
    if text[at] == QUOTE:
        end = past(text, at + U(1), IS_PLAIN)
        size = end - at - U(1)
        return end if end < U(text.shape[0]) and text[end] == QUOTE and U(0) < size <= U(longest) else U(0)
    end = past(text, at, IS_DIGIT)
    size = end - at
    return end if size == U(1) or (U(1) < size <= U(DIGITS) and text[at] != ZERO) else U(0)


@njit(cache=True, nogil=True)
def scan(text: U8, longest: int, start: I32, size: I32) -> Any:
    """Take a JSON array of IDs (strings without escapes of 1 to `longest` bytes, natural numbers) apart.

    Returns their number n; start, size i32 (limit,): where the first n lie in text. −1 for everything else, be
    it longer, empty, or no JSON at all: whoever calls then reads it the slow way, which also says what is wrong.
    """
    m = U(text.shape[0])
    at = past(text, U(0), IS_SPACE)
    if at >= m or text[at] != OPEN:
        return -1
    n = 0
    while True:
        at = past(text, at + U(1), IS_SPACE)
        if at >= m or n == start.shape[0]:
            return -1
        quoted = U(text[at] == QUOTE)
        end = token_end(text, at, longest)
        if end == U(0):
            return -1
        start[n] = at + quoted
        size[n] = end - at - quoted
        n += 1
        at = past(text, end + quoted, IS_SPACE)
        if at >= m or (text[at] != COMMA and text[at] != CLOSE):
            return -1
        if text[at] == CLOSE:
            return n if past(text, at + U(1), IS_SPACE) == m else -1


@njit(cache=True, nogil=True)
def first_places(keys: U64, out: I64) -> Any:
    """Places of the first of each key, in order, into out; returns how many there are."""
    n = keys.shape[0]
    entries = 2
    while entries < 2 * n:
        entries *= 2
    table = np.full(entries, -1, np.int32)
    mask = np.uint64(entries - 1)
    count = 0
    for i in range(n):
        at = keys[i] & mask
        while table[at] >= 0 and keys[table[at]] != keys[i]:
            at = (at + np.uint64(1)) & mask
        if table[at] < 0:
            table[at] = i
            out[count] = i
            count += 1
    return count


@njit(cache=True, nogil=True)
def is_plain(data: U8) -> Any:
    """Whether none of the bytes has to be escaped in JSON."""
    escaped = 0
    for i in range(data.shape[0]):
        escaped += data[i] < SPACE or data[i] == QUOTE or data[i] == BACKSLASH
    return escaped == 0


@njit(cache=True, nogil=True)
def write_json(data: U8, start: I32, size: I32, out: U8) -> Any:
    """A JSON array of strings that need no escapes into out u8 (Σ size + 3 n + 2,); returns its length."""
    out[0] = OPEN
    at = U(1)
    for i in range(start.shape[0]):
        begin = U(start[i])
        out[at] = QUOTE
        for k in range(U(size[i])):
            out[at + U(1) + k] = data[begin + k]
        at += U(size[i]) + U(3)
        out[at - U(2)] = QUOTE
        out[at - U(1)] = COMMA
    at -= U(start.shape[0] > 0)  # the last comma
    out[at] = CLOSE
    return at + U(1)
