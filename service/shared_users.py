"""User states shared by one writing thread and the request path: commits run without the requests' lock."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from features.errors import StoreDown
from features.feature_store import UserStates
from features.records import PLACE_BITS
from features.user_state import UserState


class SharedUserStates(UserStates):
    """As UserStates; only the thread that calls `put`, `forget` and `flush_beside` changes states.

    `unreachable`: the store did not answer. Nobody who holds the requests' lock waits for it again until `probe`,
    called without that lock, has found it."""

    unreachable = False

    def get(self, key: int) -> UserState | None:
        """As UserStates.get. Raises StoreError, at once where the store was not there a moment ago."""
        if self.unreachable and key and key not in self._held:
            raise StoreDown("the store of user states did not answer", hint="it is asked again all the time")
        try:
            return super().get(key)
        except StoreDown:
            self.unreachable = True
            raise

    def probe(self) -> None:
        """Is the store there? Call it without the requests' lock. Raises StoreError."""
        self.store.offsets()
        self.unreachable = False

    elsewhere = False
    """Whether a state is read from the store each time, and nothing of it is shared here: read it without a lock."""
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

    def forget(self, key: int, place: int) -> None:
        """A user was deleted at this place of the log: an empty state, read through there, takes the place of hers.

        So a ranker that is behind cannot bring back what another has deleted, nor delete what came after."""
        held = self.get(key)
        if held is not None and held.offset > place and same_partition(held.offset, place):
            return  # whoever read further has forgotten her already
        empty = UserState(key, self.history)
        empty.offset = place + 1
        self.put(empty)

    def release(self, lock: threading.Lock) -> None:
        """Let go of every state that is written: it is read again when somebody asks for it."""
        with lock:
            kept = self._dirty | self._deleted
            self._held = OrderedDict((key, state) for key, state in self._held.items() if key in kept)

    def drop(self, lock: threading.Lock) -> None:
        """Let go of every state, written or not: what they hold is read from the log again."""
        with lock:
            self._held.clear()
            self._dirty.clear()
            self._deleted.clear()


def same_partition(a: int, b: int) -> bool:
    """Do two places lie in one partition of one log?"""
    return a >> PLACE_BITS == b >> PLACE_BITS
