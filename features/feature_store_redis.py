"""User states in Redis: the networked twin of `EmbeddedFeatureStore`. It holds no LRU (`UserStates` does).

Keys, all under `repl:{TENANT}`: `:u:KEY` one user's state behind a checksum of 8 bytes, with a time to live that each
write renews; `:u-items` the items' keys, 8 bytes each, whose places stand for them in states (it grows in the same
transaction); `:u-offsets` a hash of what was read through; `:u-format`. The checksum is over the item keys that were
meant: a state that is read with another list than it was written with is not believed.

Up to AT_ONCE states and the offsets go in one MULTI/EXEC. A larger commit would stall Redis: it goes in several, the
offsets with the last. A kill between them is harmless, because each state knows the offset it was read through: what
is read again is not applied again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from features.errors import StoreError, WentBack
from features.item_numbers import ItemNumbers, Unknown
from features.redis_client import Pipeline, RedisPlace
from features.redis_extra import unseal_state
from features.user_state import HISTORY, UserState
from features.user_state_bytes import Columns, pack, unpack

_FORMATS = (1, 2)
DAY = 86_400
AT_ONCE = 1_000
MAX_ITEMS = 2_000_000
_CHECK = 8
_PIECE = 1 << 20
_RELOAD_SECONDS = 1.0
_SILENCE_SECONDS = 0.25
"""After a failed read nobody waits for the next one: a request holds up others while it does."""


def _sealed(key: int, columns: Columns, body: bytes) -> bytes:
    """The body behind a checksum of it, of whose it is, and of the item keys that its numbers mean."""
    h = xxhash.xxh3_64(key.to_bytes(8, "little"))
    h.update(columns.items.tobytes())
    h.update(body)
    return h.digest() + body


class RedisFeatureStore:
    """A FeatureStore in Redis: a state is one GET, a commit of up to AT_ONCE states one MULTI/EXEC."""

    def __init__(
        self,
        url: str,
        tenant: str,
        history: int = HISTORY,
        *,
        ttl_days: float = 90.0,
        timeout_ms: int = 2_000,
        max_items: int = MAX_ITEMS,
    ) -> None:
        """ttl_days: how long a state is kept after its last change; max_items: how many items get a number.

        Raises SettingsError; connects later.
        """
        self._place = RedisPlace(url, tenant, setting="user_states_url", timeout_ms=timeout_ms)
        self._history = history
        self._ttl = max(1, int(ttl_days * DAY))
        self._states = f"{self._place.prefix}:u:"
        self._offsets = f"{self._place.prefix}:u-offsets"
        self._format = f"{self._place.prefix}:u-format"
        self._list = f"{self._place.prefix}:u-items"
        self._items = ItemNumbers(max_items)
        self._reloaded = -_RELOAD_SECONDS
        self._asked_again_at = 0.0
        self._written: dict[str, int] = {}
        self._known = False

    def _check_format(self) -> None:
        with self._place.errors("read user states") as client:
            found = client.get(self._format)
        if found is not None and found not in [str(one).encode() for one in _FORMATS]:
            raise StoreError(
                f"the user states in {self._place.where} have format {found!r}, this code reads {_FORMATS}",
                value=self._format,
                hint="update this process, or delete the keys: they are rebuilt from the log",
            )
        self._known = True

    def get(self, key: int) -> UserState | None:
        """See FeatureStore.get: one round trip. Raises StoreError, also for a damaged state."""
        name = f"{self._states}{key:016x}"
        if time.monotonic() < self._asked_again_at:
            raise StoreError(f"{self._place.where} did not answer a moment ago", hint="it is asked again soon")
        try:
            if not self._known:
                self._check_format()
            with self._place.errors("read a user state") as client:
                data = client.get(name)
        except StoreError:
            self._asked_again_at = time.monotonic() + _SILENCE_SECONDS
            raise
        if data is None:
            return None
        try:
            return self._state(key, bytes(data), name)
        except ValueError as error:
            raise StoreError(f"the Redis key {name} is damaged: {error}", value=name, hint="delete the key") from error

    def _state(self, key: int, data: bytes, name: str) -> UserState:
        """Raises StoreError for a damaged state and another user's, ValueError where its bytes make no sense."""
        body = data[_CHECK:]
        if body[:1] == b"\x01":
            return self._former(key, data, name)
        columns = self._columns(body)
        if columns is None or _sealed(key, columns, body) != data:
            self._reread_items()
            columns = self._columns(body)
        if columns is None or _sealed(key, columns, body) != data:
            raise StoreError(
                f"the Redis key {name} is damaged: its checksum does not fit",
                value=name,
                hint="delete the key: this user's history starts anew",
            )
        return UserState.of(key, columns, self._history)

    def _former(self, key: int, data: bytes, name: str) -> UserState:
        """A state of format 1, which knew whose it is."""
        body = unseal_state(data)
        if body is None:
            raise ValueError("its checksum does not fit")
        state = UserState.decode(body, self._history)
        if state.key != key:
            raise StoreError(f"the Redis key {name} holds another user's state", value=name, hint="delete the key")
        return state

    def _columns(self, body: bytes) -> Columns | None:
        """The state's columns; None where it names an item that the list, as Redis has it now, does not hold."""
        try:
            return unpack(body, self._items.keys_of)
        except Unknown:
            with self._place.errors("read item numbers") as client:
                self._items.follow(lambda start: self._read_list(client, start))
        try:
            return unpack(body, self._items.keys_of)
        except Unknown:
            return None

    def _read_list(self, client: Any, start: int) -> bytes:
        """The list of item keys from a byte on, in pieces that do not hold Redis up."""
        found = bytearray()
        while piece := client.getrange(self._list, start + len(found), start + len(found) + _PIECE - 1):
            found += piece
            if len(piece) < _PIECE:
                break
        return bytes(found)

    def _reread_items(self) -> None:
        """The copy of the list is not the one that was meant: read it whole, not more than once a second."""
        if time.monotonic() - self._reloaded < _RELOAD_SECONDS:
            return
        self._reloaded = time.monotonic()
        self._items.forget()
        with self._place.errors("read item numbers") as client:
            self._items.follow(lambda start: self._read_list(client, start))

    def commit(self, states: Iterable[UserState], deleted: Iterable[int], offsets: Mapping[str, int]) -> None:
        """See FeatureStore.commit. Raises StoreError (nothing has changed then, unless the answer was lost: writing
        the same again does no harm), and WentBack where Redis holds smaller offsets than this process wrote.
        """
        written = list(states)
        gone = [f"{self._states}{key:016x}" for key in deleted]
        if not self._known:
            self._check_format()

        while len(written) > AT_ONCE:
            self._write(written[:AT_ONCE], [], {})
            written = written[AT_ONCE:]
        self._write(written, gone, offsets)

    def _write(self, states: list[UserState], gone: list[str], offsets: Mapping[str, int]) -> None:
        """One transaction; it begins anew where another process lengthened the list of items meanwhile."""

        def queue(pipe: Pipeline) -> tuple[dict[str, int], npt.NDArray[np.uint64]]:
            stored = _decoded(pipe.hgetall(self._offsets))
            self._not_back(stored)
            merged = {name: max(at, stored.get(name, 0)) for name, at in offsets.items()}
            if states:
                self._items.follow(lambda start: self._read_list(pipe, start))
            numbers, new = self._items.numbers([state.items for state in states])
            pipe.multi()
            pipe.set(self._format, _FORMATS[-1])
            if gone:
                pipe.unlink(*gone)
            if len(new):
                pipe.append(self._list, new.astype("<u8").tobytes())
            for state, names in zip(states, numbers, strict=True):
                columns = state.columns(keyed=False)
                body = _sealed(state.key, columns, pack(columns, names))
                pipe.set(f"{self._states}{state.key:016x}", body, ex=self._ttl)
            if merged:
                pipe.hset(self._offsets, mapping={name: str(at) for name, at in merged.items()})
            return merged, new

        watched = (self._offsets, self._list) if states else (self._offsets,)
        merged, new = self._place.transaction("write user states", watched, queue)
        self._items.took(new)
        self._asked_again_at = 0.0
        self._written |= merged

    def _not_back(self, stored: Mapping[str, int]) -> None:
        lost = {name: at for name, at in self._written.items() if stored.get(name, 0) < at}
        if lost:
            wrote, self._written = lost, {}
            raise WentBack(
                f"{self._place.where} has lost user states: it was at {wrote}, and is at {dict(stored)} now",
                hint="nothing to do: what is missing is read from the log again",
            )

    def offsets(self) -> dict[str, int]:
        """See FeatureStore.offsets. Raises StoreError."""
        with self._place.errors("read offsets") as client:
            found = _decoded(client.hgetall(self._offsets))
        self._asked_again_at = 0.0
        return found

    def close(self) -> None:
        """Close the connections."""
        self._place.close()


def _decoded(found: Mapping[bytes, bytes]) -> dict[str, int]:
    try:
        return {bytes(name).decode(): int(at) for name, at in found.items()}
    except ValueError as error:
        raise StoreError(f"offsets of user states cannot be read: {error}", hint="delete the key u-offsets") from error
