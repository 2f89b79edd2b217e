"""Token buckets in memory that all workers of a ranker share, or in that of one process alone. It refuses nothing:
`limits.py` does.

A row of the table is a bucket: its key, its tokens, when that was so (the machine's monotonic clock, which processes
share). Whoever changes rows holds a lock on the memory, which the system takes from a worker that is killed. One that
is stopped in the middle is not waited for: at worst a request is counted wrongly.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

ROWS = 1 << 15
"""Buckets that are remembered: more than twice the keys of a keys file."""

_ROW = 3 * 8
_PROBES = 16
_PATIENCE = 0.005
"""Seconds that the lock, which is held for microseconds, is waited for."""


class Bucket(NamedTuple):
    """key: 64 bits, not 0; rate: tokens a second; most: how many are saved up."""

    key: int
    rate: float
    most: float


def shared_memory() -> int:
    """A file descriptor of memory for `Buckets`, for this process and those forked from it (Linux)."""
    memory = os.memfd_create("repl-ranker-rates")
    os.ftruncate(memory, ROWS * _ROW)
    return memory


class Buckets:
    """The table. A bucket that is not in it is full; where too many want the same rows, the one not used for longest
    is forgotten."""

    def __init__(self, shared: int | None = None) -> None:
        """shared: what `shared_memory` gave; None: this process's own memory."""
        self._shared = shared
        memory = memoryview(mmap.mmap(-1 if shared is None else shared, ROWS * _ROW))
        self._keys, self._numbers = memory.cast("Q"), memory.cast("d")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While inside, no other worker changes a row."""
        held = self._shared is not None and _locked(self._shared)
        try:
            yield
        finally:
            if held and self._shared is not None:
                fcntl.lockf(self._shared, fcntl.LOCK_UN)

    def wait(self, bucket: Bucket, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        at = self._row(bucket, now)
        passed = max(0.0, now - self._numbers[at + 2])
        tokens = min(bucket.most, self._numbers[at + 1] + passed * bucket.rate)
        self._numbers[at + 1], self._numbers[at + 2] = tokens, max(now, self._numbers[at + 2])
        return 0.0 if tokens >= 1.0 else (1.0 - tokens) / bucket.rate

    def take(self, bucket: Bucket, count: float, now: float) -> None:
        """Take tokens, whether they are there or not: then the next ones wait longer."""
        self._numbers[self._row(bucket, now) + 1] -= count

    def _row(self, bucket: Bucket, now: float) -> int:
        """Where its row begins, in numbers; a new one is full."""
        begin = bucket.key % ROWS
        if self._keys[begin * 3] == bucket.key:
            return begin * 3
        rows = [(begin + k) % ROWS * 3 for k in range(_PROBES)]
        for at in rows:
            if self._keys[at] == bucket.key:
                return at
        at = min(rows, key=lambda row: self._numbers[row + 2] if self._keys[row] else 0.0)
        self._keys[at], self._numbers[at + 1], self._numbers[at + 2] = bucket.key, bucket.most, now
        return at


def _locked(memory: int) -> bool:
    """Take the lock; False where its holder does not let go."""
    until = None
    while True:
        try:
            fcntl.lockf(memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            now = time.monotonic()
            until = until or now + _PATIENCE
            if now > until:
                return False
            os.sched_yield()
        else:
            return True
