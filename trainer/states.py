"""The trainer's user states: an LRU over what its checkpoints hold. It applies no events.

Changed states stay in memory until a checkpoint writes them; each state lies in the weight store as of the
checkpoint that wrote it, so that a replay from an older checkpoint finds the older state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from features.feature_store import UserStates
from features.user_state import UserState
from service.weight_store import WeightStore


class _AtCheckpoint:
    """A FeatureStore that reads states as of `checkpoint`, and collects what is committed to it."""

    def __init__(self, store: WeightStore, history: int) -> None:
        self.checkpoint = 0
        self.collected: list[tuple[int, bytes | None]] = []
        self.spilled: dict[int, bytes | None] = {}
        self._store, self._history = store, history

    def get(self, key: int) -> UserState | None:
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[int]) -> list[UserState | None]:
        stored = [key for key in keys if key not in self.spilled]
        found = dict(zip(stored, self._store.user_states(stored, self.checkpoint), strict=True)) if stored else {}
        bodies = [found[key] if key in found else self.spilled[key] for key in keys]
        return [None if body is None else UserState.decode(body, self._history) for body in bodies]

    def commit(self, states: Iterable[UserState], deleted: Iterable[int], offsets: Mapping[str, int]) -> None:
        gone: list[tuple[int, bytes | None]] = [(key, None) for key in deleted]
        self.collected = gone + [(state.key, state.encode()) for state in states]

    def offsets(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        return


class TrainerStates(UserStates):
    """`UserStates` whose flush hands the changed states to a checkpoint."""

    def __init__(self, store: WeightStore, capacity: int, history: int) -> None:
        self._at = _AtCheckpoint(store, history)
        super().__init__(self._at, capacity, history)

    def start_from(self, checkpoint: int) -> None:
        """Read states as of this checkpoint (a version); valid while nothing is in memory."""
        self._at.checkpoint = checkpoint

    def load(self, keys: Collection[int]) -> None:
        """Read the states of these actors at once, as far as they are not in memory."""
        missing = [key for key in keys if key and key not in self._held]
        if missing:
            self._held.update(zip(missing, self._at.get_many(missing), strict=True))
            self._evict()

    def changed(self) -> list[tuple[int, bytes | None]]:
        """(key, encoded state, None: deleted) since the last call, for a checkpoint to write."""
        self.flush({})
        return self._at.collected

    def spill(self) -> None:
        """Take what has changed out of memory, as bytes, without a checkpoint: for a replay that writes none."""
        self._at.spilled |= dict(self.changed())

    def written(self, checkpoint: int) -> None:
        """What `changed` gave is stored with this checkpoint."""
        self._at.checkpoint = checkpoint
