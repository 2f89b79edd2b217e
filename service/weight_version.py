"""What a weight store holds: version, checkpoint manifest, heartbeat, bytes of weights. It stores nothing.

The fields are those of docs/formats.md §6.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from features.errors import InvalidRequest, StoreError

HEADS = ("click", "purchase")
FORMAT = 1
Kind = Literal["push", "rollback", "base", "start", "resume"]


class Beside(msgspec.Struct, frozen=True):
    """The pair beside the one that is served: another base with weights of its own, kept up to date as they are.

    It was staged and is not promoted yet, or it is the one before, which a revert goes back to."""

    base: str
    url: str  # where its files were staged from; "": every data directory has it
    weights: bytes = b""  # as in `Version`; empty until the trainer runs it
    weights_version: int = 0
    watermark: int = 0  # ms, trained through
    caught_up: bool = False  # it learns what the served pair learns, as that comes
    percent: float = 0.0  # of the users that it answers


class Version(msgspec.Struct, frozen=True):
    """One weight version (docs/formats.md §6). `weights` is safetensors of `click` and `purchase`, f64[d]."""

    v: int
    base: str
    kind: Kind
    weights_version: int  # the last version whose weights changed
    weights: bytes
    offsets: dict[str, int]  # trained through, exclusive
    watermark: int  # ms
    counters_through: int  # ms, effective time
    held: str | None
    hash: str
    created: int  # ms, wall clock; not in the hash
    pinned: bool = False  # as read; commit ignores it
    url: str = ""  # where its base was staged from, if it was
    beside: Beside | None = None

    def weights_of(self, base: str) -> bytes | None:
        """The weights of a base in this version; None where it has none of it."""
        if base == self.base:
            return self.weights
        return (self.beside.weights or None) if self.beside is not None and self.beside.base == base else None

    def alongside(self) -> bytes:
        """What a version of one pair alone does not have, as msgpack; nothing where there is none."""
        return msgspec.msgpack.encode((self.url, self.beside)) if self.url or self.beside is not None else b""

    def vectors(self) -> dict[str, NDArray[np.float64]]:
        """The weights of both heads, f64[d] each."""
        return decode_weights(self.weights)

    def norms(self) -> dict[str, float]:
        """The Euclidean norm of each head's weights."""
        return {head: float(np.linalg.norm(weights)) for head, weights in self.vectors().items()}

    def moved_from(self, other: Version) -> dict[str, float]:
        """By head, the Euclidean distance of the weights from another version's; InvalidRequest for another base's:
        their inputs mean other things."""
        if self.base != other.base:
            raise InvalidRequest(
                f"versions {self.v} and {other.v} are of different bases",
                field="against",
                value=other.v,
                hint="compare versions with the same `base`",
            )
        mine, theirs = self.vectors(), other.vectors()
        return {head: float(np.linalg.norm(mine[head] - theirs[head])) for head in mine}

    def info(self) -> dict[str, Any]:
        """What is shown of a version: every field but the weights themselves."""
        shown = msgspec.structs.asdict(self)
        shown.pop("weights")
        if self.beside is not None:
            shown["beside"] = msgspec.structs.asdict(self.beside)
            shown["beside"].pop("weights")
        return shown


class Checkpoint(msgspec.Struct, frozen=True):
    """The manifest of a checkpoint: names of state chunks → sha256 of their bytes."""

    version: int
    offsets: dict[str, int]
    chunks: dict[str, str]
    v: int = FORMAT


class CheckpointWrite(msgspec.Struct, frozen=True):
    """A checkpoint to commit: its manifest, and the user states that changed since the one before.

    A state of None says that the user was deleted: every stored state of hers goes, old checkpoints included.
    """

    manifest: Checkpoint
    states: Sequence[tuple[int, bytes | None]] = ()


class Heartbeat(msgspec.Struct, frozen=True):
    """How far the trainer is although it had nothing to publish: event times in ms; `at`: wall clock."""

    watermark: int
    counters_through: int
    at: int


def read_alongside(body: bytes | None) -> tuple[str, Beside | None]:
    """The inverse of `Version.alongside`: (url, beside)."""
    return msgspec.msgpack.decode(body, type=tuple[str, Beside | None]) if body else ("", None)


def encode_weights(click: NDArray[np.float64], purchase: NDArray[np.float64]) -> bytes:
    """Both heads' weights, f64[d] each, as safetensors bytes (equal arrays give equal bytes)."""
    heads = {"click": np.ascontiguousarray(click), "purchase": np.ascontiguousarray(purchase)}
    return safetensors.numpy.save(heads)


def decode_weights(data: bytes) -> dict[str, NDArray[np.float64]]:
    """The inverse of `encode_weights`, in the order of HEADS (what safetensors reads has any order).

    Raises ValueError for bytes that are something else."""
    try:
        found = safetensors.numpy.load(data)
        return {head: found[head] for head in HEADS}
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"these bytes are no weights: {error}") from error


def read_checkpoint(body: bytes, where: str) -> Checkpoint:
    """A manifest of a checkpoint from its JSON. Raises StoreError, also for a newer format: its chunks are others."""
    try:
        found = msgspec.json.decode(body, type=_Versioned)
        if found.v <= FORMAT:
            return msgspec.json.decode(body, type=Checkpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        hint = "restore the store, or delete it: all is learned anew from the log"
        raise StoreError(f"the checkpoint in {where} cannot be read: {error}", value=where, hint=hint) from error
    raise StoreError(
        f"the checkpoint in {where} has format version {found.v}; this code reads {FORMAT}", value=found.v,
        hint="update this process",
    )  # fmt: skip


class _Versioned(msgspec.Struct):
    v: int = FORMAT


def chunk_sha(data: bytes) -> str:
    """The name of a chunk: hex sha256 of its bytes."""
    return sha256(data).hexdigest()
