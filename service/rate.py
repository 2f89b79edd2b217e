"""How many things happened a second, lately. Time is an argument."""

from __future__ import annotations

from collections import deque

SECONDS = 10


class Rate:
    """A count over the last ten seconds. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._counts: deque[list[int]] = deque()

    def add(self, now: int, count: int) -> None:
        """`count` things happened at `now` (ms)."""
        second = now // 1000
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1][1] += count
        else:
            self._counts.append([second, count])
        self._forget(second)

    def _forget(self, second: int) -> None:
        while self._counts and self._counts[0][0] <= second - SECONDS:
            self._counts.popleft()

    def per_second(self, now: int) -> float:
        """The mean over the last ten seconds, a number a second."""
        self._forget(now // 1000)
        return sum(count for _, count in self._counts) / SECONDS
