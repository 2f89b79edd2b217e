"""A copy of the last version on the ranker's own disk: what it starts with while the weight store does not answer.

`local-copy/VERSION.copy` holds the sha256 of what follows, then the version, the changes since its checkpoint and the
checkpoint's list of chunks; `local-copy/chunks/SHA256` the chunks of counters and co-visitation. A thread writes it
from the store, one chunk in memory at a time; the manifest comes last, by an atomic rename. Two versions are kept.
Nothing that fails its checksum is served. It is no store: nobody commits here, and the ranker leaves it once the store
answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from features.errors import ReplError, StoreError, UnknownVersion
from service.background import Background
from service.metrics import Metrics
from service.weight_store import Checkpoint, Heartbeat, Version, WeightStore

log = logging.getLogger(__name__)

FORMAT = 1
KEPT = 2
EVERY_SECONDS = 10.0
LOOK_SECONDS = 1.0
_SHARE = 20
"""A copy that takes long is made more seldom: at most one part in so many of the time."""
_DIGEST = 64


class Manifest(msgspec.Struct, frozen=True):
    """What a copy holds beside its chunks. versions: the newest, and those whose weights it serves, by number."""

    newest: int
    versions: dict[int, Version]
    pinned: int | None
    checkpoint: Checkpoint | None
    changes: list[tuple[int, bytes]]
    format: int = FORMAT


class LocalCopy:
    """The directory. Written by one process; `load` reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._chunks = folder / "chunks"

    def _manifests(self) -> list[Path]:
        """Newest first."""
        found = [path for path in self._folder.glob("*.copy") if path.stem.isdigit()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, int(path.stem)), reverse=True)

    def write(self, store: WeightStore, prefix: str) -> int | None:
        """Copy the store's newest version; chunks: those whose names start with `prefix`. Its number, None where the
        store has none, or not all that belongs to it. Raises StoreError, OSError: the copies before are still there.
        """
        checkpoint, pinned = store.latest_checkpoint(), store.pinned()
        changes = store.changes_since(checkpoint.version if checkpoint else 0)
        if changes is None or not (changes or checkpoint):
            return None
        newest = changes[-1][0] if changes else checkpoint.version  # type: ignore[union-attr]
        if checkpoint is not None:
            named = {name: sha for name, sha in checkpoint.chunks.items() if name.startswith(prefix)}
            checkpoint = msgspec.structs.replace(checkpoint, chunks=named)
            self._fetch(store, set(named.values()))
        manifest = Manifest(newest, _versions(store, newest, pinned), pinned, checkpoint, changes)
        body = msgspec.msgpack.encode(manifest)
        sealed = hashlib.sha256(body).hexdigest().encode() + body
        _put(self._folder / f"{newest}.copy", sealed)
        self._tidy()
        return newest

    def _fetch(self, store: WeightStore, wanted: set[str]) -> None:
        self._chunks.mkdir(parents=True, exist_ok=True)
        for sha in sorted(wanted):
            if not (self._chunks / sha).exists():
                _put(self._chunks / sha, store.chunk(sha))

    def _tidy(self) -> None:
        """Drop all but KEPT copies, and chunks that none of them names."""
        kept = set()
        for number, path in enumerate(self._manifests()):
            if number >= KEPT:
                path.unlink()
                continue
            with contextlib.suppress(StoreError, OSError):
                checkpoint = _read(path).checkpoint
                kept |= set(checkpoint.chunks.values()) if checkpoint else set()
        for path in self._chunks.glob("*"):
            if path.name not in kept:
                path.unlink()

    def load(self) -> Iterator[CopiedStore]:
        """Copies whose manifest is whole, newest first; damaged ones are logged by name and left out."""
        for path in self._manifests():
            try:
                yield CopiedStore(_read(path), self._chunks)
            except (StoreError, OSError) as error:
                log.error("a local copy is refused", extra={"file": str(path), "reason": str(error)})


def _versions(store: WeightStore, newest: int, pinned: int | None) -> dict[int, Version]:
    found = {newest: store.get(newest)}
    if pinned is not None:
        found[pinned] = store.get(pinned)
    for version in list(found.values()):
        with contextlib.suppress(UnknownVersion):  # thinned out: its weights are in the version that names it, too
            found.setdefault(version.weights_version, store.get(version.weights_version))
    return found


def _put(path: Path, body: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> Manifest:
    """Raises StoreError naming the file where its checksum does not fit or it is of a newer format."""
    data = path.read_bytes()
    hint = "nothing to do: it is not served, and the next copy takes its place"
    if hashlib.sha256(data[_DIGEST:]).hexdigest().encode() != data[:_DIGEST]:
        raise StoreError(f"the local copy {path} is damaged: its checksum does not fit", value=path.name, hint=hint)
    try:
        manifest = msgspec.msgpack.decode(data[_DIGEST:], type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreError(f"the local copy {path} cannot be read: {error}", value=path.name, hint=hint) from error
    if manifest.format > FORMAT:
        why = f"the local copy {path} has format {manifest.format}; this code reads {FORMAT}"
        raise StoreError(why, value=manifest.format, hint="update this process: until then it is not served")
    return manifest


class CopiedStore:
    """What a replica reads of a weight store, from a copy."""

    def __init__(self, manifest: Manifest, chunks: Path) -> None:
        self._manifest, self._chunks = manifest, chunks

    def heartbeat(self) -> Heartbeat | None:
        """None: what the trainer does now is not known."""
        return None

    def latest(self) -> Version | None:
        """The version that was copied."""
        return self.get(self._manifest.newest)

    def pinned(self) -> int | None:
        """The pin at that time."""
        return self._manifest.pinned

    def get(self, v: int) -> Version:
        """Raises UnknownVersion for one that was not copied."""
        if v not in self._manifest.versions:
            raise UnknownVersion(f"version {v} is not in the local copy", value=v)
        return self._manifest.versions[v]

    def latest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        """The one checkpoint of the copy."""
        return self._manifest.checkpoint

    def changes_since(self, v: int) -> list[tuple[int, bytes]] | None:
        """The changes after the copy's checkpoint; None for another place."""
        checkpoint = self._manifest.checkpoint
        if v >= self._manifest.newest:
            return []
        return self._manifest.changes if v == (checkpoint.version if checkpoint else 0) else None

    def load_chunks(self, checkpoint: Checkpoint, prefix: str = "") -> dict[str, bytes]:
        """Chunks by name without the prefix. Raises StoreError naming the file that is damaged or gone."""
        found = {}
        for name, sha in checkpoint.chunks.items():
            if name.startswith(prefix):
                path = self._chunks / sha
                body = path.read_bytes() if path.exists() else b""
                if hashlib.sha256(body).hexdigest() != sha:
                    path.unlink(missing_ok=True)  # the next copy fetches it again
                    raise StoreError(f"the local copy's chunk {path} is damaged: its checksum does not fit", value=sha)
                found[name.removeprefix(prefix)] = body
        return found


class Copier(Background):
    """The thread that keeps the copy: every EVERY_SECONDS where there is a new version and the store answers."""

    def __init__(
        self, copy: LocalCopy, store: WeightStore, version: Callable[[], int], prefix: str, metrics: Metrics
    ) -> None:
        """version: the number that the replica serves of the store; 0 while it serves none of it."""
        self._copy, self._store, self._version, self._prefix = copy, store, version, prefix
        self._metrics = metrics
        self.copied = 0
        super().__init__("local-copy")

    def _run(self) -> None:
        due = time.monotonic() + LOOK_SECONDS
        while not self._stop.wait(LOOK_SECONDS):
            if time.monotonic() >= due and self._version() not in (0, self.copied):
                took = self.step()
                due = time.monotonic() + max(EVERY_SECONDS, _SHARE * took)

    def step(self) -> float:
        """Copy once; seconds that took. Failures are logged and tried again."""
        began = time.monotonic()
        try:
            self.copied = self._copy.write(self._store, self._prefix) or self.copied
        except (ReplError, OSError) as error:
            self._metrics.failures.labels("local_copy").inc()
            log.error("the local copy could not be renewed", extra={"reason": str(error)})
        return time.monotonic() - began
