"""A graceful end: from SIGTERM on the process says that it is not ready, goes on answering for a while, and asks its
callers to take their connections elsewhere. It knows no server: `service/app.py` asks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

REASON = "the service is stopping"


class Drain:
    """`begin` once; `over` when the time for callers to leave has passed."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """seconds: how long requests are still taken; clock: seconds, any beginning."""
        self._seconds, self._clock = seconds, clock
        self._until = 0.0
        self.on = False

    def begin(self) -> bool:
        """Start; False where it is on already, or takes no time."""
        if self.on or self._seconds <= 0.0:
            return False
        self._until, self.on = self._clock() + self._seconds, True
        return True

    @property
    def over(self) -> bool:
        """Whether the process may close its doors now."""
        return self.on and self._clock() >= self._until

    def reasons(self) -> list[str]:
        """Why the service is not ready, if it is stopping."""
        return [REASON] if self.on else []
