"""The weight store of a bootstrap: of a million versions those are written that somebody may ask for.

Written are versions with a checkpoint, those that a control record names, and those that the gate may go back to; the
others are held in memory until the next checkpoint, because a rollback of the gate may name one of them. Numbers and
contents are those of the trainer that was there before. It decides nothing about checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from features.errors import UnknownVersion
from service.weight_store import Checkpoint, CheckpointWrite, Heartbeat, Version, WeightStore


class SparseStore:
    """`WeightStore` over one; see the module. One thread."""

    def __init__(self, store: WeightStore, named: Collection[int]) -> None:
        """named: versions that control records name."""
        self._store, self._named = store, frozenset(named)
        self._held: dict[int, Version] = {}
        self._pins: dict[int, bool] = {}
        self._keep: set[int] = set()
        self._newest = store.latest()
        self.gate: Callable[[], Collection[int]] = list
        """The versions that the gate may go back to, as the learner stands."""

    def commit(
        self,
        version: Version,
        changes: bytes | None,
        checkpoint: CheckpointWrite | None = None,
        *,
        pins: Mapping[int, bool] | None = None,
        keep: Iterable[int] = (),
    ) -> None:
        """Hold the version; with a checkpoint, write what is wanted of those held, and it."""
        self._held[version.v] = version
        self._pins |= pins or {}
        self._keep |= set(keep)
        if checkpoint is not None:
            self.write(version.v, checkpoint)

    def write(self, v: int, checkpoint: CheckpointWrite) -> None:
        """Write version v, which is held, with its checkpoint, and before it what is wanted of the others."""
        wanted = self._named | self._keep | set(self._pins) | set(self.gate())
        for number in sorted(wanted & self._held.keys() - {v}):
            self._store.commit(self._held[number], None)
        known = {number: pinned for number, pinned in self._pins.items() if self._is_there(number)}
        self._store.commit(self._held[v], None, checkpoint, pins=known, keep=sorted(self._keep))
        self._newest = self._held[v]
        self._held.clear()
        self._pins.clear()
        self._keep.clear()

    def _is_there(self, v: int) -> bool:
        try:
            self.get(v)
        except UnknownVersion:
            return False
        return True

    def holds(self, v: int) -> bool:
        """Whether version v waits for a checkpoint."""
        return v in self._held

    def get(self, v: int) -> Version:
        """See `WeightStore.get`."""
        return self._held[v] if v in self._held else self._store.get(v)

    def thin(self, now: int, keep: Collection[int] = ()) -> dict[str, int]:
        """See `WeightStore.thin`; what control records to come name stays."""
        return self._store.thin(now, self._named.union(keep))

    def latest(self) -> Version | None:
        """See `WeightStore.latest`, without a way to the store: nobody else writes it."""
        return self._newest

    def versions_after(self, v: int, limit: int = 1_000) -> list[Version]:
        """See `WeightStore.versions_after`, without a way to the store where there are none."""
        return self._store.versions_after(v, limit) if self._newest is not None and self._newest.v > v else []

    # the rest is the store's

    def put_chunks(self, chunks: Mapping[str, bytes]) -> None:
        self._store.put_chunks(chunks)

    def versions(self, limit: int = 100, before: int | None = None) -> list[Version]:
        return self._store.versions(limit, before)

    def pin(self, v: int) -> None:
        self._store.pin(v)

    def unpin(self, v: int) -> None:
        self._store.unpin(v)

    def keep(self, v: int) -> None:
        self._store.keep(v)

    def flags(self) -> dict[str, str]:
        return self._store.flags()

    def set_flags(self, changes: Mapping[str, str | None]) -> None:
        self._store.set_flags(changes)

    def pinned(self) -> int | None:
        return self._store.pinned()

    def changes_since(self, v: int) -> list[tuple[int, bytes]] | None:
        return self._store.changes_since(v)

    def latest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        return self._store.latest_checkpoint(before)

    def chunk(self, sha: str) -> bytes:
        return self._store.chunk(sha)

    def load_chunks(self, checkpoint: Checkpoint, prefix: str = "") -> dict[str, bytes]:
        return self._store.load_chunks(checkpoint, prefix)

    def user_states(self, keys: Sequence[int], checkpoint: int) -> list[bytes | None]:
        return self._store.user_states(keys, checkpoint)

    def beat(self, heartbeat: Heartbeat, status: Mapping[str, Any] | None = None) -> None:
        self._store.beat(heartbeat, status)

    def heartbeat(self) -> Heartbeat | None:
        return self._store.heartbeat()

    def status(self) -> dict[str, Any]:
        return self._store.status()

    def follow(self, wake: Callable[[], None]) -> bool:
        return self._store.follow(wake)

    def close(self) -> None:
        self._store.close()
