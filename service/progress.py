"""How far a consumer has read, and who waits for it. Threads move it; coroutines wait. It reads nothing itself."""

from __future__ import annotations

import asyncio
import threading

from features.records import Offsets


class Progress:
    """Positions (stream/partition → next offset to read) that only grow, until `restart`. `advance` may be called from
    any thread, `wait` from any event loop."""

    def __init__(self) -> None:
        self._positions: Offsets = {}
        self._lock = threading.Lock()
        self._waiting: list[tuple[Offsets, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def positions(self) -> Offsets:
        """The next offsets to read: everything before them has been applied. Not to be changed."""
        return self._positions

    def reached(self, wanted: Offsets) -> bool:
        """Whether everything before these offsets has been applied."""
        positions = self._positions
        return all(positions.get(name, 0) >= at for name, at in wanted.items())

    def advance(self, positions: Offsets) -> None:
        """Everything before these offsets has been applied: wake who waited for it."""
        with self._lock:
            before = self._positions
            self._positions = before | {name: max(at, before.get(name, 0)) for name, at in positions.items()}
            ready = [entry for entry in self._waiting if self.reached(entry[0])]
            if ready:
                self._waiting = [entry for entry in self._waiting if not self.reached(entry[0])]
        for _, loop, future in ready:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # the loop has been closed: nobody waits any more
                continue

    def restart(self, positions: Offsets) -> None:
        """What was applied is lost beyond these offsets: they grow from here on again."""
        with self._lock:
            self._positions = dict(positions)

    async def wait(self, wanted: Offsets, seconds: float) -> bool:
        """Wait until everything before these offsets has been applied; False after `seconds`."""
        if self.reached(wanted):
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (wanted, loop, future)
        with self._lock:
            if self.reached(wanted):
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
