"""The weight store: versions, changes for replicas, checkpoints, pins; its protocol and how to open it.

A version is written by one trainer in one transaction, with everything that belongs to it; rankers read. The
embedded form is `weight_store_sqlite.py`, the networked one `weight_store_redis.py`. It decides nothing: what a version
is worth is the gate's matter (`trainer/gate.py`), what is kept is `weight_keeping.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from service.settings import Settings
from service.weight_keeping import Keeping
from service.weight_store_sqlite import EmbeddedWeightStore
from service.weight_version import (
    HEADS,
    Beside,
    Checkpoint,
    CheckpointWrite,
    Heartbeat,
    Kind,
    Version,
    chunk_sha,
    decode_weights,
    encode_weights,
)

__all__ = [
    "HEADS",
    "Beside",
    "Checkpoint",
    "CheckpointWrite",
    "Heartbeat",
    "Kind",
    "Version",
    "WeightStore",
    "chunk_sha",
    "decode_weights",
    "encode_weights",
    "open_weight_store",
]


class WeightStore(Protocol):
    """What trainer and ranker need of a weight store. Errors: StoreError, UnknownVersion."""

    def commit(
        self,
        version: Version,
        changes: bytes | None,
        checkpoint: CheckpointWrite | None = None,
        *,
        pins: Mapping[int, bool] | None = None,
        keep: Iterable[int] = (),
    ) -> None:
        """Write a version and all that belongs to it in one transaction, or nothing.

        changes: Ops bytes for replicas (b"" = none were taken); None leaves a gap, replicas reload from a
        checkpoint. Chunks of the checkpoint must have been put before. pins: version → pinned or not. keep: versions
        that are never thinned out, because a replay needs their weights (they were rolled back to).
        """
        ...

    def put_chunks(self, chunks: Mapping[str, bytes]) -> None:
        """Store chunks by sha256; known ones are left; those no checkpoint names are dropped by `thin`."""
        ...

    def latest(self) -> Version | None:
        """The newest version, or None in an empty store."""
        ...

    def get(self, v: int) -> Version:
        """Version v; raises UnknownVersion."""
        ...

    def versions(self, limit: int = 100, before: int | None = None) -> list[Version]:
        """Up to `limit` versions, newest first, older than `before` where given."""
        ...

    def versions_after(self, v: int, limit: int = 1_000) -> list[Version]:
        """Versions newer than v, oldest first."""
        ...

    def pin(self, v: int) -> None:
        """Keep version v, and have rankers serve its weights. Raises UnknownVersion."""
        ...

    def unpin(self, v: int) -> None:
        """End a pin; unpinning what is not pinned does nothing."""
        ...

    def pinned(self) -> int | None:
        """The version whose weights rankers serve because it was pinned last; None: serve the latest."""
        ...

    def keep(self, v: int) -> None:
        """Never thin version v out (an arm of an experiment serves it). Raises UnknownVersion."""
        ...

    def flags(self) -> dict[str, str]:
        """Small switches by name (`weight_flags.py`), whoever set them."""
        ...

    def set_flags(self, changes: Mapping[str, str | None]) -> None:
        """Set or remove (None) flags in one write, from any process; it is announced. Raises InvalidRequest."""
        ...

    def changes_since(self, v: int) -> list[tuple[int, bytes]] | None:
        """Changes of every version after v up to the latest, in order; None where one is missing."""
        ...

    def latest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        """The newest checkpoint, of a version ≤ `before` where given."""
        ...

    def chunk(self, sha: str) -> bytes:
        """One chunk; raises StoreError when it is not there."""
        ...

    def load_chunks(self, checkpoint: Checkpoint, prefix: str = "") -> dict[str, bytes]:
        """The chunks of a checkpoint whose names start with `prefix`, by name without it."""
        ...

    def user_states(self, keys: Sequence[int], checkpoint: int) -> list[bytes | None]:
        """The trainer's states of these users as of a checkpoint (its version number); None where there is none."""
        ...

    def thin(self, now: int, keep: Collection[int] = ()) -> dict[str, int]:
        """Drop what need not be kept at wall-clock `now` (ms), none of `keep`; counts dropped, by kind."""
        ...

    def beat(self, heartbeat: Heartbeat, status: Mapping[str, Any] | None = None) -> None:
        """Write the trainer's heartbeat and its status for the page and metrics."""
        ...

    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat."""
        ...

    def status(self) -> dict[str, Any]:
        """The trainer's last status, {} where there is none."""
        ...

    def follow(self, wake: Callable[[], None]) -> bool:
        """Call `wake` from another thread soon after each commit; False where the store announces nothing."""
        ...

    def close(self) -> None:
        """Give back what is held open."""
        ...


def open_weight_store(
    place: Settings | Path, *, fsync: bool = False, keeping: Keeping | None = None, writer: bool = False
) -> WeightStore:
    """The store that the settings name (`weights_url`), else the embedded one of the data directory (`trainer.db`).

    place: the settings, or a data directory alone. keeping: what `thin` leaves, for who calls it. writer: fence other
    trainers off, where the store is not fenced by `trainer.lock`. Raises StoreError, SettingsError.
    """
    if isinstance(place, Settings) and place.weights_url is not None:
        from features.redis_extra import require_redis

        require_redis("weights_url")
        from service.weight_store_redis import RedisWeightStore

        return RedisWeightStore(
            place.weights_url.get_secret_value(),
            place.tenant,
            writer=writer,
            max_bytes=place.redis_checkpoint_bytes,
            keeping=keeping,
            timeout_ms=place.redis_timeout_ms,
        )
    data_dir = place.data_dir if isinstance(place, Settings) else place
    return EmbeddedWeightStore(data_dir / "trainer.db", fsync=fsync, keeping=keeping)
