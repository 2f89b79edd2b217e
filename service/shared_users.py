"""User states shared by one writing thread and the request path: commits run without the requests' lock."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from features.feature_store import UserStates


class SharedUserStates(UserStates):
    """As UserStates; only the thread that calls `put`, `delete` and `flush_beside` changes states."""

    writes = True
    """Whether this process is the one of several that stores states, and counts and reports what it reads."""

    def flush_beside(self, lock: threading.Lock, offsets: Mapping[str, int]) -> None:
        """As `flush`, holding `lock` only to see what changed and to note that it is written.

        Raises StoreError; nothing is lost from memory then.
        """
        with lock:
            keys, gone = set(self._dirty), set(self._deleted)
            changed = [state for key in sorted(keys) if (state := self._held[key]) is not None]
        self.store.commit(changed, sorted(gone), offsets)
        with lock:
            self._dirty -= keys
            self._deleted -= gone
            self._evict()

    def release(self, lock: threading.Lock) -> None:
        """Let go of every state that is written: it is read again when somebody asks for it."""
        with lock:
            kept = self._dirty | self._deleted
            self._held = OrderedDict((key, state) for key, state in self._held.items() if key in kept)
