"""Where user states are kept between requests: the FeatureStore protocol, its embedded SQLite form, and an
LRU in front.

It neither reads the log nor computes features. The networked twin is `feature_store_redis.py`; both pass the same
contract suite (`tests/features/test_feature_store.py`).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from features.errors import StoreError
from features.user_state import HISTORY, UserState

_FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS user (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class FeatureStore(Protocol):
    """User states by actor key, with the log offsets they were read through. Safe from several threads."""

    def get(self, key: int) -> UserState | None:
        """The state of an actor, a copy of its own; None where nothing is known."""
        ...

    def commit(self, states: Iterable[UserState], deleted: Iterable[int], offsets: Mapping[str, int]) -> None:
        """Write states, forget the deleted keys and move the offsets: all or nothing."""
        ...

    def offsets(self) -> dict[str, int]:
        """`stream/partition` → next offset to read; empty at first."""
        ...

    def close(self) -> None:
        """Free what is held; the store is not used afterwards."""
        ...


class ReadBeside(FeatureStore, Protocol):
    """A FeatureStore that other processes write while this one reads."""

    def read(self, key: int, names: Sequence[str]) -> tuple[UserState | None, dict[str, int]]:
        """As `get`, with those of these offsets that are stored. The state holds all that lies before them."""
        ...


class _Secret(Protocol):
    def get_secret_value(self) -> str: ...


class _Places(Protocol):
    """The settings that this module reads."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def tenant(self) -> str: ...
    @property
    def history(self) -> int: ...
    @property
    def user_states_url(self) -> _Secret | None: ...
    @property
    def user_state_ttl_days(self) -> float: ...
    @property
    def redis_timeout_ms(self) -> int: ...
    @property
    def max_items(self) -> int: ...


def open_feature_store(settings: _Places) -> FeatureStore:
    """The store that the settings name (`user_states_url`), else `state.db` of the data directory.

    Raises StoreError, SettingsError.
    """
    if settings.user_states_url is None:
        return EmbeddedFeatureStore(settings.data_dir / "state.db", settings.history)
    from features.redis_extra import require_redis

    require_redis("user_states_url")
    from features.feature_store_redis import RedisFeatureStore

    return RedisFeatureStore(
        settings.user_states_url.get_secret_value(),
        settings.tenant,
        settings.history,
        ttl_days=settings.user_state_ttl_days,
        timeout_ms=settings.redis_timeout_ms,
        max_items=settings.max_items,
    )


def _signed(key: int) -> int:
    return key - (1 << 64) if key >= 1 << 63 else key


class EmbeddedFeatureStore:
    """A FeatureStore in one SQLite file (WAL): survives kill -9, power loss may take the last commits."""

    def __init__(self, path: Path, history: int = HISTORY) -> None:
        self._history = history
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-4096")  # KiB
            self._db.executescript(_TABLES)
            self._check_format()
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the feature store {path}: {error}") from error

    def _check_format(self) -> None:
        row = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        if row is None:
            self._db.execute("INSERT INTO meta VALUES ('format', ?)", (str(_FORMAT),))
        elif row[0] != str(_FORMAT):
            raise StoreError(
                f"feature store {self._path} has format {row[0]}, this code reads {_FORMAT}",
                hint="delete the file: it is rebuilt from the log",
            )

    def get(self, key: int) -> UserState | None:
        """See FeatureStore.get. Raises StoreError where the file cannot be read."""
        try:
            with self._lock:
                row = self._db.execute("SELECT body FROM user WHERE key = ?", (_signed(key),)).fetchone()
            return None if row is None else UserState.decode(row[0], self._history)
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"cannot read user state from {self._path}: {error}") from error

    def commit(self, states: Iterable[UserState], deleted: Iterable[int], offsets: Mapping[str, int]) -> None:
        """See FeatureStore.commit: one transaction. An empty state (a deleted user's) leaves nothing behind.

        Raises StoreError; nothing has changed then."""
        given = list(states)
        rows = [(_signed(state.key), state.encode()) for state in given if len(state)]
        gone = [(_signed(key),) for key in (*deleted, *(state.key for state in given if not len(state)))]
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("DELETE FROM user WHERE key = ?", gone)
                self._db.executemany("INSERT OR REPLACE INTO user VALUES (?, ?)", rows)
                if offsets:
                    self._db.execute(
                        "INSERT OR REPLACE INTO meta VALUES ('offsets', ?)",
                        (json.dumps({**self._offsets(), **offsets}),),
                    )
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StoreError(f"cannot write user states to {self._path}: {error}") from error

    def _offsets(self) -> dict[str, int]:
        row = self._db.execute("SELECT value FROM meta WHERE name = 'offsets'").fetchone()
        return {} if row is None else {str(name): int(at) for name, at in json.loads(row[0]).items()}

    def offsets(self) -> dict[str, int]:
        """See FeatureStore.offsets."""
        try:
            with self._lock:
                return self._offsets()
        except sqlite3.Error as error:
            raise StoreError(f"cannot read offsets from {self._path}: {error}") from error

    def close(self) -> None:
        """Close the file; WAL content is folded in."""
        with self._lock:
            self._db.close()


class UserStates:
    """A bounded LRU of user states over a store: changes stay in memory (`put`) until `flush` commits them.

    States changed since the last flush are never evicted: flush when `dirty` grows. A state handed out is
    shared: only the owner of this object changes it. Not thread-safe: the owner locks.
    """

    def __init__(self, store: FeatureStore, capacity: int, history: int = HISTORY) -> None:
        self.store = store
        self.capacity = capacity
        self.history = history
        self._held: OrderedDict[int, UserState | None] = OrderedDict()
        self._dirty: set[int] = set()
        self._deleted: set[int] = set()

    @property
    def dirty(self) -> int:
        """States and deletions that wait for `flush`."""
        return len(self._dirty) + len(self._deleted)

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: int) -> UserState | None:
        """The actor's state, from memory or the store; None where nothing is known, and for key 0."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        if key == 0:
            return None
        state = self.store.get(key)
        self._held[key] = state
        self._evict()
        return state

    def get_or_new(self, key: int) -> UserState:
        """The actor's state, or an empty one that is kept once `put`."""
        state = self.get(key)
        return UserState(key, self.history) if state is None else state  # an empty one knows its place

    def get_to_change(self, key: int) -> UserState:
        """`get_or_new` and `put` in one, for a caller who changes the state at once."""
        state = self._held.get(key)
        if state is None:
            state = self.get_or_new(key)
            self.put(state)
            return state
        self._held.move_to_end(key)
        self._dirty.add(key)
        return state

    def put(self, state: UserState) -> None:
        """Keep a changed state; it is written at the next flush."""
        self._held[state.key] = state
        self._held.move_to_end(state.key)
        self._dirty.add(state.key)
        if self._deleted:
            self._deleted.discard(state.key)
        if len(self._held) > self.capacity:
            self._evict()

    def delete(self, key: int) -> None:
        """Forget an actor: at once here, in the store at the next flush."""
        self._held[key] = None
        self._dirty.discard(key)
        self._deleted.add(key)

    def flush(self, offsets: Mapping[str, int]) -> None:
        """Commit what changed with the offsets read through. Raises StoreError; nothing is lost from memory
        then.
        """
        changed = [state for key in sorted(self._dirty) if (state := self._held[key]) is not None]
        self.store.commit(changed, sorted(self._deleted), offsets)
        self._dirty.clear()
        self._deleted.clear()
        self._evict()

    def _evict(self) -> None:
        tries = 64
        while len(self._held) > self.capacity and tries:
            key = next(iter(self._held))
            if key in self._dirty or key in self._deleted:
                self._held.move_to_end(key)
                tries -= 1
            else:
                del self._held[key]
