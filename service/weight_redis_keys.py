"""What the weight store in Redis calls its keys, and the bytes behind them: sealed, and checked when read.

It talks to no Redis. Whatever is damaged or poisoned is a StoreError that names the key; nothing of it is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
import numpy as np
from safetensors import SafetensorError

from features import redis_extra
from features.errors import StoreError
from service.weight_version import HEADS, Version, chunk_sha, decode_weights

T = TypeVar("T")
PIECE_BYTES = 256 << 10  # also how large chunks are stored: part of format 1
PIECE_KEYS = 200
PART_SECONDS = 3_600
_SHA = 32


class Keys:
    """Names of the keys of one tenant. `{TENANT}` in braces: a Cluster keeps them in one slot."""

    def __init__(self, prefix: str) -> None:
        self._base = f"{prefix}:w:"
        self.fence = self._base + "fence"  # EPOCH:RANDOM of the one process that may write
        self.lease = self._base + "lease"  # whose turn it is to train; runs out
        self.members = self._base + "members"  # set: names of the trainers that share the tenants; runs out
        self.meta = self._base + "meta"  # hash: format, heartbeat, status
        self.latest = self._base + "latest"  # the newest version once more, sealed
        self.versions = self._base + "versions"  # sorted set: v:created by v
        self.changes = self._base + "changes"  # sorted set: v by v
        self.checkpoints = self._base + "checkpoints"  # sorted set: v by v
        self.pins = self._base + "pins"  # sorted set: v by place
        self.kept = self._base + "kept"  # set of v
        self.flags = self._base + "flags"  # hash: name → value of small switches
        self.chunks = self._base + "chunks"  # hash: sha256 → "checkpoints that name it:bytes"
        self.unused = self._base + "unused"  # set of sha256 that no checkpoint names
        self.bytes = self._base + "bytes"  # bytes of all chunks
        self.state_sets = self._base + "state-sets"  # sorted set: checkpoints that wrote user states
        self.news = self._base + "news"  # channel: the number of a new version, "pin" or "flags"

    def member(self, name: str) -> str:
        """What one of these trainers said last, JSON; runs out."""
        return f"{self._base}member:{name}"

    def version(self, v: int) -> str:
        """A version, sealed msgpack."""
        return f"{self._base}version:{v}"

    def change(self, v: int) -> str:
        """The changes of a version, sealed."""
        return f"{self._base}change:{v}"

    def checkpoint(self, v: int) -> str:
        """The manifest of a checkpoint, sealed JSON."""
        return f"{self._base}checkpoint:{v}"

    def chunk(self, sha: str) -> str:
        """A chunk; its name is its checksum."""
        return f"{self._base}chunk:{sha}"

    def parts(self, sha: str, size: int) -> list[str]:
        """The keys that hold a chunk of so many bytes: one, or one for each PIECE_BYTES."""
        if size <= PIECE_BYTES:
            return [self.chunk(sha)]
        return [f"{self.chunk(sha)}:{k}" for k in range(-(-size // PIECE_BYTES))]

    def user(self, key: int) -> str:
        """Hash: checkpoint → the user's state as of it, behind 8 bytes of checksum."""
        return f"{self._base}user:{key:016x}"

    def state_set(self, checkpoint: int) -> str:
        """Set: user keys (hex) whose states this checkpoint wrote."""
        return f"{self._base}states:{checkpoint}"


def damaged(key: str, why: str) -> StoreError:
    """The error for bytes that are not what was written."""
    return StoreError(
        f"the Redis key {key} is damaged: {why}",
        value=key,
        hint="it is not served; restore Redis, or delete this tenant's keys `…:w:*`: all is learned anew from the log",
    )


def seal(body: bytes) -> bytes:
    """The body behind its sha256."""
    return sha256(body).digest() + body


def unseal(key: str, data: bytes) -> bytes:
    """The inverse of `seal`. Raises StoreError."""
    body = data[_SHA:]
    if sha256(body).digest() != data[:_SHA]:
        raise damaged(key, f"{len(data)} bytes whose sha256 does not fit")
    return body


def unseal_state(key: str, data: bytes) -> bytes:
    """The user state behind its checksum. Raises StoreError."""
    body = redis_extra.unseal_state(data)
    if body is None:
        raise damaged(key, "the checksum of a user state does not fit")
    return body


def seal_version(version: Version) -> bytes:
    """A version as stored; whether it is pinned stands elsewhere."""
    return seal(msgspec.msgpack.encode(msgspec.structs.replace(version, pinned=False)))


def unseal_version(key: str, data: bytes, v: int | None = None) -> Version:
    """The inverse of `seal_version`. Raises StoreError, also for weights that nobody may serve.

    v: the number that it must have, where known.
    """
    found = decoded(key, unseal(key, data), Version)
    if v is not None and found.v != v:
        raise damaged(key, f"it holds version {found.v}")
    _check_weights(key, found.weights)
    if found.beside is not None and found.beside.weights:
        _check_weights(key, found.beside.weights)
    return found


def _check_weights(key: str, data: bytes) -> None:
    """Raise StoreError unless these are weights that may be served."""
    try:
        heads = decode_weights(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise damaged(key, f"its weights cannot be read: {error}") from error
    if len({heads[head].shape for head in HEADS}) != 1 or any(row.ndim != 1 for row in heads.values()):
        raise damaged(key, f"weights of shapes {[heads[head].shape for head in HEADS]}")
    if any(row.dtype != np.float64 or not np.isfinite(row).all() for row in heads.values()):
        raise damaged(key, "its weights are not all finite f64 numbers")


def check_chunk(key: str, sha: str, data: bytes) -> bytes:
    """The chunk, if it is the one of that name. Raises StoreError."""
    if chunk_sha(data) != sha:
        raise damaged(key, f"{len(data)} bytes whose sha256 is not its name")
    return data


def size_of(entry: bytes) -> int:
    """The bytes of a chunk by its entry in `chunks`."""
    return int(bytes(entry).partition(b":")[2])


def decoded(key: str, body: bytes, kind: type[T]) -> T:
    """JSON (hashes' fields, manifests) or msgpack (versions) as a struct. Raises StoreError."""
    decode: Any = msgspec.msgpack.decode if kind is Version else msgspec.json.decode
    try:
        found: T = decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(key, str(error)) from error
    return found


def pieces(rows: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Rows in pieces small enough that none stalls Redis: PIECE_BYTES (or one row), PIECE_KEYS rows at most."""
    piece: list[tuple[str, bytes]] = []
    size = 0
    for row in rows:
        if piece and (size + len(row[1]) > PIECE_BYTES or len(piece) == PIECE_KEYS):
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += len(row[1])
    if piece:
        yield piece


def batches(rows: list[T], size: int = PIECE_KEYS) -> Iterator[list[T]]:
    """A list in lists of at most `size`."""
    return (rows[at : at + size] for at in range(0, len(rows), size))
