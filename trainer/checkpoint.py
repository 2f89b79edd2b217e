"""Checkpoints: the trainer's whole state as chunks named by sha256, only changed ones written. It decides no when.

Every part gives its chunks under a prefix: `realtime/`, `catalogue/`, `dedup/`, `served/`, `join/`, `learner/`,
`gate/`, `hold/`, `meta/`. User states lie beside them, in a table (`service/weight_store_sqlite.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from service.weight_store import Checkpoint, CheckpointWrite, WeightStore, chunk_sha
from trainer.arrivals import pack_held, unpack_held
from trainer.core import Core
from trainer.meta import Meta
from trainer.publish import Learning
from trainer.rollout import RolloutState


class _Part(Protocol):
    def changed_chunks(self) -> dict[str, bytes]: ...
    def chunk_names(self) -> list[str]: ...
    def mark_clean(self) -> None: ...
    def restore(self, chunks: Mapping[str, bytes]) -> None: ...


def _parts(core: Core) -> dict[str, _Part]:
    found: dict[str, _Part] = {
        "realtime/": core.realtime,
        "catalogue/": core.catalogue,
        "dedup/": core.dedup,
        "served/": core.served.window,
        "join/": core.learning.join,
    }
    if core.rollout.shadow is not None:
        found["beside/join/"] = core.rollout.shadow.learning.join
    if core.rollout.reading is not None:
        found["beside/served/"] = core.rollout.reading.served.window
    return found


def _small(core: Core, meta: Meta) -> dict[str, bytes]:
    """The chunks that always change."""
    found = _learned(core.learning)
    if core.rollout.shadow is not None:
        found |= {f"beside/{name}": data for name, data in _learned(core.rollout.shadow.learning).items()}
    found["meta/state"] = msgspec.msgpack.encode(meta)
    found["rollout/state"] = msgspec.msgpack.encode(core.rollout.state())
    return found


def _learned(learning: Learning) -> dict[str, bytes]:
    found = {f"learner/{name}": data for name, data in learning.learner.chunks().items()}
    found |= {f"gate/{name}": data for name, data in learning.gate.chunks().items()}
    found["hold/state"] = learning.hold.state(pack_held)
    return found


class Checkpoints:
    """Writes checkpoints of a core, and knows which chunks the last one named."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self._shas: dict[str, str] = {}
        self._pending: dict[str, str] = {}

    def prepare(self, core: Core, meta: Meta) -> CheckpointWrite:
        """Put the changed chunks (commit step 3) and give what the version's transaction writes."""
        bodies: dict[str, bytes] = {}
        shas: dict[str, str] = {}
        for prefix, part in _parts(core).items():
            changed = {prefix + name: data for name, data in part.changed_chunks().items()}
            for name in part.chunk_names():
                shas[prefix + name] = self._shas.get(prefix + name, "")
            bodies |= changed
        bodies |= _small(core, meta)
        named = {name: chunk_sha(data) for name, data in bodies.items()}
        self._store.put_chunks({named[name]: data for name, data in bodies.items()})
        self._pending = shas | named
        manifest = Checkpoint(meta.v, _still_needed(core, meta), self._pending)
        return CheckpointWrite(manifest, core.users.changed())

    def committed(self, core: Core, v: int) -> None:
        """The transaction with that checkpoint is through."""
        self._shas = self._pending
        core.users.written(v)
        for part in _parts(core).values():
            part.mark_clean()

    def load(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        """All chunks of a checkpoint, by name. Raises StoreError."""
        self._shas = dict(checkpoint.chunks)
        return self._store.load_chunks(checkpoint)


def _still_needed(core: Core, meta: Meta) -> dict[str, int]:
    """The first offsets that a restart reads, or a pair that is still behind the log."""
    reading = core.rollout.shadow if core.rollout.reading is not None else None
    cursor = {} if reading is None else reading.cursor
    return {name: min(at, cursor.get(name, at)) for name, at in meta.offsets.items()}


def meta_of(chunks: Mapping[str, bytes]) -> Meta:
    """The meta chunk of a checkpoint."""
    return msgspec.msgpack.decode(chunks["meta/state"], type=Meta)


def rollout_of(chunks: Mapping[str, bytes]) -> RolloutState:
    """What a checkpoint says of another base; nothing of it in one that an earlier release wrote."""
    found = chunks.get("rollout/state")
    return RolloutState() if found is None else msgspec.msgpack.decode(found, type=RolloutState)


def restore(core: Core, chunks: Mapping[str, bytes], *, learned: bool) -> None:
    """Put the state of a checkpoint into a fresh core; learned False: all but what belongs to its base."""

    def under(prefix: str) -> dict[str, bytes]:
        return {name.removeprefix(prefix): data for name, data in chunks.items() if name.startswith(prefix)}

    rollout = rollout_of(chunks)
    if learned:
        core.rollout.adopt(rollout)
    for prefix, part in _parts(core).items():
        if learned or prefix != "join/":
            part.restore(under(prefix))
    core.learning.hold.load(chunks["hold/state"], unpack_held)
    shadow = core.rollout.shadow
    if shadow is not None and rollout.shadow is not None:
        _restore_learned(shadow.learning, under("beside/"))
        shadow.adopt(rollout.shadow)
    core.users.start_from(meta_of(chunks).v)
    if learned:
        _restore_learned(core.learning, chunks)


def _restore_learned(learning: Learning, chunks: Mapping[str, bytes]) -> None:
    """The inverse of `_learned`."""
    for name, part in (("learner/", learning.learner), ("gate/", learning.gate)):
        part.restore({key.removeprefix(name): data for key, data in chunks.items() if key.startswith(name)})
    learning.hold.load(chunks["hold/state"], unpack_held)
