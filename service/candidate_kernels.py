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

QUOTE, BACKSLASH, COMMA, OPEN, CLOSE, ZERO, NINE = 34, 92, 44, 91, 93, 48, 57
SPACE, TAB, NEWLINE, RETURN = 32, 9, 10, 13
DIGITS = 18


@njit(cache=True, nogil=True)
def after_space(text: U8, at: int) -> Any:
    """The first place from `at` on that is no white space; the length where there is none."""
    n = text.shape[0]
    while at < n:
        c = text[at]
        if c != SPACE and c != NEWLINE and c != TAB and c != RETURN:
            break
        at += 1
    return at


@njit(cache=True, nogil=True)
def text_end(text: U8, at: int) -> Any:
    """Where the closing quote of the string stands that begins at `at`; −1 for any but plain ASCII."""
    while at < text.shape[0]:
        c = text[at]
        if c == QUOTE:
            return at
        if c == BACKSLASH or c < SPACE or c > 126:
            return -1
        at += 1
    return -1


@njit(cache=True, nogil=True)
def number_end(text: U8, at: int) -> Any:
    """Where the decimal digits end that begin at `at`; −1 for any but a natural number of at most DIGITS."""
    begin = at
    while at < text.shape[0] and ZERO <= text[at] <= NINE:
        at += 1
    size = at - begin
    if size == 0 or size > DIGITS or (size > 1 and text[begin] == ZERO):
        return -1
    return at


@njit(cache=True, nogil=True)
def scan(text: U8, longest: int, start: I32, size: I32) -> Any:
    """Take a JSON array of IDs (plain ASCII strings of 1 to `longest` bytes, natural numbers) apart.

    Returns their number n; start, size i32 (limit,): where the first n lie in text. −1 for everything else, be
    it longer, empty, or no JSON at all: whoever calls then reads it the slow way, which also says what is wrong.
    """
    at = after_space(text, 0)
    if at >= text.shape[0] or text[at] != OPEN:
        return -1
    n = 0
    while True:
        at = after_space(text, at + 1)
        if at >= text.shape[0] or n == start.shape[0]:
            return -1
        quoted = text[at] == QUOTE
        begin = at + 1 if quoted else at
        end = text_end(text, begin) if quoted else number_end(text, begin)
        if end <= begin or end - begin > longest:
            return -1
        start[n], size[n] = begin, end - begin
        n += 1
        at = after_space(text, end + 1 if quoted else end)
        if at >= text.shape[0]:
            return -1
        if text[at] == CLOSE:
            return n if after_space(text, at + 1) == text.shape[0] else -1
        if text[at] != COMMA:
            return -1


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
    at = 1
    for i in range(start.shape[0]):
        if i:
            out[at] = COMMA
            at += 1
        out[at] = QUOTE
        begin = start[i]
        for k in range(size[i]):
            out[at + 1 + k] = data[begin + k]
        at += size[i] + 2
        out[at - 1] = QUOTE
    out[at] = CLOSE
    return at + 1
