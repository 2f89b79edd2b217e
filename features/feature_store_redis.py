"""User states in Redis: the networked twin of `EmbeddedFeatureStore`. It holds no LRU (`UserStates` does).

Keys, all under `repl:{TENANT}`: `:u:KEY` one user's state behind a checksum of 8 bytes and the place it was read
through, with a time to live that each write renews; `:u-offsets` a hash of what was read through; `:u-format`.

Several rankers may write: up to AT_ONCE states and the offsets go in one script, which keeps the newer of two states
(`feature_store_redis_script.py`). A larger commit would stall Redis: it goes in several, the offsets with the last. A
kill between them is harmless, because each state knows the place it was read through: what is read again is not
applied again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

from features.errors import StoreError, WentBack
from features.feature_store_redis_script import COMMIT, arguments, sealed, unsealed
from features.redis_client import RedisPlace
from features.user_state import HISTORY, UserState

_FORMAT = 2
DAY = 86_400
AT_ONCE = 1_000


def _unseal(key: str, data: bytes) -> bytes:
    """The state behind its checksum. Raises StoreError naming the key where the bytes are not those written."""
    body = unsealed(data)
    if body is None:
        raise StoreError(
            f"the Redis key {key} is damaged: its checksum does not fit",
            value=key,
            hint="delete the key: this user's history starts anew",
        )
    return body


class RedisFeatureStore:
    """A FeatureStore in Redis: a state is one GET, a commit of up to AT_ONCE states one script."""

    def __init__(
        self,
        url: str,
        tenant: str,
        history: int = HISTORY,
        *,
        ttl_days: float = 90.0,
        timeout_ms: int = 2_000,
    ) -> None:
        """ttl_days: how long a state is kept after its last change. Raises SettingsError; connects later."""
        self._place = RedisPlace(url, tenant, setting="user_states_url", timeout_ms=timeout_ms)
        self._history = history
        self._ttl = max(1, int(ttl_days * DAY))
        self._states = f"{self._place.prefix}:u:"
        self._offsets = f"{self._place.prefix}:u-offsets"
        self._format = f"{self._place.prefix}:u-format"
        self._commit = self._place.client.register_script(COMMIT)
        self._held: dict[str, int] = {}  # the offsets that were last seen: smaller ones mean that Redis lost some
        self._known = False

    def _check_format(self) -> None:
        with self._place.errors("read user states") as client:
            found = client.get(self._format)
        if found is not None and found != str(_FORMAT).encode():
            raise StoreError(
                f"the user states in {self._place.where} have format {found!r}, this code reads {_FORMAT}",
                value=self._format,
                hint="update this process, or delete the keys: they are rebuilt from the log",
            )
        self._known = True

    def get(self, key: int) -> UserState | None:
        """See FeatureStore.get: one round trip. Raises StoreError, also for a damaged state."""
        if not self._known:
            self._check_format()
        name = self._name(key)
        with self._place.errors("read a user state") as client:
            data = client.get(name)
        if data is None:
            return None
        try:
            state = UserState.decode(_unseal(name, bytes(data)), self._history)
        except ValueError as error:
            raise StoreError(f"the Redis key {name} is damaged: {error}", value=name, hint="delete the key") from error
        if state.key != key:
            raise StoreError(f"the Redis key {name} holds another user's state", value=name, hint="delete the key")
        return state

    def commit(self, states: Iterable[UserState], deleted: Iterable[int], offsets: Mapping[str, int]) -> None:
        """See FeatureStore.commit; a state that another ranker has read further stays. Raises StoreError (nothing has
        changed then, unless the answer was lost: writing the same again does no harm), and WentBack where Redis holds
        smaller offsets than this process saw.
        """
        rows = [(self._name(state.key), sealed(state)) for state in states]
        rows += [(self._name(key), b"") for key in deleted]
        if not self._known:
            self._check_format()
        while len(rows) > AT_ONCE:
            self._write(rows[:AT_ONCE], {})
            rows = rows[AT_ONCE:]
        self._write(rows, offsets)

    def _name(self, key: int) -> str:
        return f"{self._states}{key:016x}"

    def _write(self, rows: list[tuple[str, bytes]], offsets: Mapping[str, int]) -> None:
        """One run of the script: all of it or nothing."""
        keys = [self._offsets, self._format, *(name for name, _ in rows)]
        values = arguments(_FORMAT, self._ttl, self._held, offsets, (body for _, body in rows))
        with self._place.errors("write user states"):
            done, flat = self._commit(keys=keys, args=values)
        found = _decoded(dict(zip(flat[::2], flat[1::2], strict=True)))
        if not done:
            self._went_back(found)
        self._held = found

    def _went_back(self, found: Mapping[str, int]) -> NoReturn:
        lost, self._held = {name: at for name, at in self._held.items() if found.get(name, 0) < at}, {}
        raise WentBack(
            f"{self._place.where} has lost user states: it was at {lost}, and is at {dict(found)} now",
            hint="nothing to do: what is missing is read from the log again",
        )

    def offsets(self) -> dict[str, int]:
        """See FeatureStore.offsets. Raises StoreError, and WentBack (once) where they are smaller than before."""
        with self._place.errors("read offsets") as client:
            found = _decoded(client.hgetall(self._offsets))
        if any(found.get(name, 0) < at for name, at in self._held.items()):
            self._went_back(found)
        self._held = found
        return dict(found)

    def close(self) -> None:
        """Close the connections."""
        self._place.close()


def _decoded(found: Mapping[bytes, bytes]) -> dict[str, int]:
    try:
        return {bytes(name).decode(): int(at) for name, at in found.items()}
    except ValueError as error:
        raise StoreError(f"offsets of user states cannot be read: {error}", hint="delete the key u-offsets") from error
