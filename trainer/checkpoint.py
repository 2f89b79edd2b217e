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


class _Part(Protocol):
    def changed_chunks(self) -> dict[str, bytes]: ...
    def chunk_names(self) -> list[str]: ...
    def mark_clean(self) -> None: ...
    def restore(self, chunks: Mapping[str, bytes]) -> None: ...


def _parts(core: Core) -> dict[str, _Part]:
    return {
        "realtime/": core.realtime,
        "catalogue/": core.catalogue,
        "dedup/": core.dedup,
        "served/": core.served.window,
        "join/": core.learning.join,
    }


def _small(core: Core, meta: Meta) -> dict[str, bytes]:
    """The chunks that always change."""
    learning = core.learning
    found = {f"learner/{name}": data for name, data in learning.learner.chunks().items()}
    found |= {f"gate/{name}": data for name, data in learning.gate.chunks().items()}
    found["hold/state"] = learning.hold.state(pack_held)
    found["meta/state"] = msgspec.msgpack.encode(meta)
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
        manifest = Checkpoint(meta.v, meta.offsets, self._pending)
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


def meta_of(chunks: Mapping[str, bytes]) -> Meta:
    """The meta chunk of a checkpoint."""
    return msgspec.msgpack.decode(chunks["meta/state"], type=Meta)


def restore(core: Core, chunks: Mapping[str, bytes], *, learned: bool) -> None:
    """Put the state of a checkpoint into a fresh core; learned False: all but what belongs to its base."""

    def under(prefix: str) -> dict[str, bytes]:
        return {name.removeprefix(prefix): data for name, data in chunks.items() if name.startswith(prefix)}

    for prefix, part in _parts(core).items():
        if learned or prefix != "join/":
            part.restore(under(prefix))
    core.learning.hold.load(chunks["hold/state"], unpack_held)
    core.users.start_from(meta_of(chunks).v)
    if learned:
        core.learning.learner.restore(under("learner/"))
        core.learning.gate.restore(under("gate/"))
