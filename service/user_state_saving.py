"""Writes user states to their store with the offsets they were read through. It applies no event and reads no log."""

from __future__ import annotations

import threading

from features.records import Offsets
from service.shared_users import SharedUserStates

FLUSH_MS = 500
LOOK_MS = 1_000
"""Between two looks at whether the store of user states went back, where nothing is written."""
_MANY_DIRTY = 5_000


class UserStateSaver:
    """For the one thread that changes user states. `written`: the offsets that were written last."""

    def __init__(self, users: SharedUserStates | None, lock: threading.Lock, now: int, *, at_once: bool) -> None:
        """users: None where another process keeps them, then nothing is done. now: ms. at_once: they are served from
        the store, so they are written as soon as nothing is left to read, and so are offsets alone."""
        self._users, self._lock, self._at_once = users, lock, at_once
        self._flushed_at = self._looked_at = now
        self.written: Offsets = {}

    def save(self, positions: Offsets, stored: Offsets, now: int, *, force: bool, whole: bool) -> None:
        """Write what has changed where it is time. stored: `positions` as they are stored; whole: nothing was left to
        read. Raises StoreError, also where the store has lost what was written (WentBack)."""
        users = self._users
        if users is None:
            return
        force |= self._at_once and whole
        if not (force or users.dirty >= _MANY_DIRTY or now - self._flushed_at >= FLUSH_MS):
            return
        if users.dirty or ((force or self._at_once) and positions != self.written):
            users.flush_beside(self._lock, stored)
            self.written = dict(positions)
            self._looked_at = now
        elif now - self._looked_at >= LOOK_MS:
            users.probe()  # a store that lost some says so, also where nothing is written
            self._looked_at = now
        self._flushed_at = now

    def release(self) -> None:
        """Let go of every state that is written."""
        if self._users is not None:
            self._users.release(self._lock)
