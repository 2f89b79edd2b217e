"""User states in Redis: the networked twin of `EmbeddedFeatureStore`. It holds no LRU (`UserStates` does).

Keys, all under `repl:{TENANT}`: `:u:KEY` one user's state behind a checksum of 8 bytes and the place it was read
through, with a time to live that each write renews; `:u-items` the items' keys, 8 bytes each, whose places stand for
them in states (it grows in the same transaction); `:u-offsets` a hash of what was read through; `:u-format`. The
checksum is over the item keys that were meant: a state that is read with another list than it was written with is not
believed.

Several rankers may write: up to AT_ONCE states and the offsets go in one MULTI/EXEC, and a script in it keeps the newer
of two states (`feature_store_redis_script.py`). A larger commit would stall Redis: it goes in several, the offsets with
the last. A kill between them is harmless, because each state knows the place it was read through: what is read again is
not applied again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import xxhash

from features.errors import StoreError, WentBack
from features.feature_store_redis_script import KEEP_NEWER, MOVE_ON, marked_with_place, without_place
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
        self._held: dict[str, int] = {}  # the offsets that were last seen: smaller ones mean that Redis lost some
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
        return self.read(key, ())[0]

    def read(self, key: int, names: Sequence[str]) -> tuple[UserState | None, dict[str, int]]:
        """See ReadBeside.read: one round trip, in which the offsets come first: what was written between the two is
        in the state. Raises as `get`."""
        if not self._known:
            self._check_format()
        name = self._name(key)

        def ask(pipe: Pipeline) -> None:
            if names:
                pipe.hmget(self._offsets, names)
            pipe.get(name)

        *stored, data = self._place.read("read a user state", ask)
        pairs = zip(names, stored[0] if stored else (), strict=True)
        through = _decoded({one.encode(): at for one, at in pairs if at is not None})
        return None if data is None else self._believed(key, bytes(data), name), through

    def _believed(self, key: int, data: bytes, name: str) -> UserState:
        """Raises StoreError for a damaged state."""
        try:
            return self._state(key, data, name)
        except ValueError as error:
            raise StoreError(f"the Redis key {name} is damaged: {error}", value=name, hint="delete the key") from error

    def _state(self, key: int, data: bytes, name: str) -> UserState:
        """Raises StoreError for a damaged state and another user's, ValueError where its bytes make no sense."""
        body = data[_CHECK:]
        if body[:1] == b"\x01":
            return self._former(key, data, name)
        state = without_place(body)
        columns = self._columns(state)
        if columns is None or _sealed(key, columns, body) != data:
            self._reread_items()
            columns = self._columns(state)
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
        """See FeatureStore.commit; a state that another ranker has read further stays. Raises StoreError (nothing has
        changed then, unless the answer was lost: writing the same again does no harm), and WentBack where Redis holds
        smaller offsets than this process saw.
        """
        written = list(states)
        gone = [self._name(key) for key in deleted]
        if not self._known:
            self._check_format()
        with self._place.one_primary():
            while len(written) > AT_ONCE:
                self._write(written[:AT_ONCE], [], {})
                written = written[AT_ONCE:]
            self._write(written, gone, offsets)

    def _name(self, key: int) -> str:
        return f"{self._states}{key:016x}"

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
            values = []
            for state, names in zip(states, numbers, strict=True):
                columns = state.columns(keyed=False)
                values.append(_sealed(state.key, columns, marked_with_place(state.offset, pack(columns, names))))
            if states:
                pipe.eval(KEEP_NEWER, len(states), *(self._name(state.key) for state in states), self._ttl, *values)
            if offsets:
                pipe.eval(MOVE_ON, 1, self._offsets, *(part for pair in offsets.items() for part in pair))
            return stored | merged, new

        watched = (self._list,) if states else (self._format,)
        self._held, new = self._place.transaction("write user states", watched, queue)
        self._items.took(new)

    def _not_back(self, stored: Mapping[str, int]) -> None:
        if any(stored.get(name, 0) < at for name, at in self._held.items()):
            self._went_back(stored)

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
        self._not_back(found)
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
