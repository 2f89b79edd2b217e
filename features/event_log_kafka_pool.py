"""What bounds the log on Kafka: consumers used in turn, bytes that wait for the broker. It imports no client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from features.errors import LogError
from features.records import NewRecord

CHUNK_BYTES = 4 << 20  # of one append: sent, then waited for
WAITING_BYTES = 32 << 20  # of all appends that wait for the broker
READERS = 8
_OVERHEAD = 200  # bytes of a record's headers, about


class Readers:
    """Consumers, each of one thread at a time, kept by the partitions that they stand in; READERS at most."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """make: a new consumer, assigned to nothing."""
        self._make = make
        self._free: list[tuple[object, Any]] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(READERS)
        self._closed = False

    @contextmanager
    def one(self, at: Sequence[Any] | None) -> Iterator[Any]:
        """A consumer that is assigned to the partitions `at` (None: to nothing). One that failed is not used again."""
        with self._slots:
            stood, reader = self._take(at)
            try:
                if reader is None:
                    reader = self._make()
                if stood != at and at is not None:
                    reader.assign(list(at))
                    for part in at:
                        reader.seek(part, 0)
                elif stood is not None and at is None:
                    reader.unsubscribe()
                yield reader
            except BaseException:
                if reader is not None:
                    reader.close(timeout_ms=1_000)
                raise
            with self._lock:
                self._free.append((at, reader))
            if self._closed:
                self.close()

    def _take(self, at: object) -> tuple[object, Any]:
        with self._lock:
            if self._closed:
                raise LogError("the log is closed")
            same = [n for n, (stood, _) in enumerate(self._free) if stood == at]
            if same:
                return self._free.pop(same[-1])
            if len(self._free) >= READERS // 2:
                return self._free.pop(0)
            return None, None

    def close(self) -> None:
        """Close those that nobody uses; the others when they are given back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for _, reader in free:
            reader.close(timeout_ms=1_000)


class Budget:
    """Bytes that may wait for the broker at once: the producer itself has no bound."""

    def __init__(self, most: int = WAITING_BYTES) -> None:
        self._left, self._most = most, most
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int, seconds: float) -> Iterator[None]:
        """Hold `size` bytes of it; waits at most `seconds`. Raises LogError."""
        size = min(size, self._most)
        with self._changed:
            if not self._changed.wait_for(lambda: self._left >= size, seconds):
                raise LogError(
                    f"{self._most >> 20} MB of records wait for the broker already",
                    hint="the broker is slower than what is sent: send again later",
                )
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


def chunks(records: Sequence[NewRecord]) -> Iterator[tuple[Sequence[NewRecord], int]]:
    """The records in parts of about CHUNK_BYTES, with their sizes."""
    start, size = 0, 0
    for n, record in enumerate(records):
        size += len(record.body) + _OVERHEAD
        if size >= CHUNK_BYTES:
            yield records[start : n + 1], size
            start, size = n + 1, 0
    if start < len(records):
        yield records[start:], size
