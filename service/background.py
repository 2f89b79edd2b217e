"""A daemon thread that works until it is told to stop: the base class of those of this room. What it does is its own.

`_run` is the loop: it ends soon after `_stop` is set, and may wait for `_wake`, which `stop` sets too.
"""

from __future__ import annotations

import threading
from contextvars import copy_context


class Background:
    """Give a name and how many seconds `stop` waits, write `_run`."""

    def __init__(self, name: str, patience: float = 5.0) -> None:
        self._patience = patience
        self._wake = threading.Event()
        self._stop = threading.Event()
        within = copy_context()  # its log lines name the tenant that this was made for
        self._thread = threading.Thread(target=lambda: within.run(self._run), name=name, daemon=True)

    def _run(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Wake the thread and wait for its end."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self._patience)
