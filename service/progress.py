"""How far a consumer has read, and who waits for it. Threads move it; coroutines wait. It reads nothing itself."""

from __future__ import annotations

import asyncio
import threading


class Progress:
    """A position that only grows. `advance` may be called from any thread, `wait` from any event loop."""

    def __init__(self) -> None:
        self._position = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def position(self) -> int:
        """The next offset to read: everything before it has been applied."""
        return self._position

    def advance(self, position: int) -> None:
        """Everything before `position` has been applied: wake who waited for it."""
        with self._lock:
            self._position = max(self._position, position)
            ready = [entry for entry in self._waiting if entry[0] <= self._position]
            if ready:
                self._waiting = [entry for entry in self._waiting if entry[0] > self._position]
        for _, loop, future in ready:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # the loop has been closed: nobody waits any more
                continue

    async def wait(self, position: int, seconds: float) -> bool:
        """Wait until everything before `position` has been applied; False after `seconds`."""
        if self._position >= position:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (position, loop, future)
        with self._lock:
            if self._position >= position:
                return True
            self._waiting.append(entry)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting = [other for other in self._waiting if other is not entry]
        return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
