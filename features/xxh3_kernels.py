"""xxh3-64 of many short byte strings at once, as compiled loops: the keys that `features/keys.py` gives one by one.

XXH3 (Y. Collet, xxHash 0.8, seed 0) for inputs of 4 to 128 bytes only; a test compares it with the library.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

U = np.uint64
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

LONGEST = 128
"""Bytes of an input, prefix included."""

# the default secret of XXH3, the first 128 of its bytes as little-endian words
_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    "<u8",
)
_FLIP_8 = U(_SECRET[1] ^ _SECRET[2])
_FLIP_LOW = U(_SECRET[3] ^ _SECRET[4])
_FLIP_HIGH = U(_SECRET[5] ^ _SECRET[6])
_PRIME_1 = U(0x9E3779B185EBCA87)
_PRIME_MX1, _PRIME_MX2 = U(0x165667919E3779F9), U(0x9FB21C651E98DF25)
_LOW = U(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def read(data: Any, at: Any, size: Any) -> Any:
    """`size` (4 or 8) bytes from place `at` (u64) as a little-endian word."""
    word = U(0)
    for k in range(size):
        word |= U(data[at + U(k)]) << U(8 * k)
    return word


@njit(cache=True, nogil=True)
def swapped(x: Any) -> Any:
    """The bytes of a word in reverse."""
    x = ((x & U(0x00FF00FF00FF00FF)) << U(8)) | ((x >> U(8)) & U(0x00FF00FF00FF00FF))
    x = ((x & U(0x0000FFFF0000FFFF)) << U(16)) | ((x >> U(16)) & U(0x0000FFFF0000FFFF))
    return (x << U(32)) | (x >> U(32))


@njit(cache=True, nogil=True)
def fold(x: Any, y: Any) -> Any:
    """Both halves of the 128-bit product, xored."""
    low = (x & _LOW) * (y & _LOW)
    a = (x >> U(32)) * (y & _LOW)
    b = (x & _LOW) * (y >> U(32))
    cross = (low >> U(32)) + (a & _LOW) + b
    high = (a >> U(32)) + (cross >> U(32)) + (x >> U(32)) * (y >> U(32))
    return high ^ ((cross << U(32)) | (low & _LOW))


@njit(cache=True, nogil=True)
def avalanche(h: Any) -> Any:
    """XXH3_avalanche."""
    h = (h ^ (h >> U(37))) * _PRIME_MX1
    return h ^ (h >> U(32))


@njit(cache=True, nogil=True)
def mixed(data: Any, at: Any, word: Any) -> Any:
    """XXH3_mix16B: 16 bytes from `at` with two words of the secret."""
    low = read(data, at, 8) ^ U(_SECRET[word])
    return fold(low, read(data, at + U(8), 8) ^ U(_SECRET[word + 1]))


@njit(cache=True, nogil=True)
def xxh3(data: Any, n: Any) -> Any:
    """xxh3-64 of the first n (u64, 4 … LONGEST) bytes."""
    if n <= U(8):
        h = (read(data, n - U(4), 4) + (read(data, U(0), 4) << U(32))) ^ _FLIP_8
        h ^= ((h << U(49)) | (h >> U(15))) ^ ((h << U(24)) | (h >> U(40)))
        h *= _PRIME_MX2
        h ^= (h >> U(35)) + n
        h *= _PRIME_MX2
        return h ^ (h >> U(28))
    if n <= U(16):
        low, high = read(data, U(0), 8) ^ _FLIP_LOW, read(data, n - U(8), 8) ^ _FLIP_HIGH
        return avalanche(n + swapped(low) + high + fold(low, high))
    h = n * _PRIME_1
    for k in range(np.int64((n - U(1)) // U(32)), -1, -1):
        h += mixed(data, U(16 * k), 4 * k)
        h += mixed(data, n - U(16 * (k + 1)), 4 * k + 2)
    return avalanche(h)


@njit(cache=True, nogil=True)
def hash_texts(prefix: U8, data: U8, start: I32, size: I32, out: npt.NDArray[np.uint64]) -> None:
    """out[i] = xxh3-64 of prefix + data[start[i] : start[i] + size[i]] (0 becomes 1), 0 where that is too long.

    prefix: at least 3 bytes; texts of at least one.
    """
    whole = np.empty(LONGEST, np.uint8)
    for k in range(prefix.shape[0]):
        whole[k] = prefix[k]
    for i in range(start.shape[0]):
        n = prefix.shape[0] + size[i]
        if n > LONGEST:
            out[i] = U(0)
            continue
        for k in range(size[i]):
            whole[prefix.shape[0] + k] = data[start[i] + k]
        h = xxh3(whole, U(n))
        out[i] = h if h != U(0) else U(1)
