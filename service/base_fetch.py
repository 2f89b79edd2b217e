"""Fetches a base model from a directory or an HTTP address into DATA_DIR/base/<sha256>. It decides on none to serve.

Every file is checked against the manifest, the manifest against the sha256 that was asked for. The directory appears
whole, under its name, or not at all; one that is there is not fetched again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from features.errors import ArtifactError
from service.artifact import CURRENT, MANIFEST, Artifact, Manifest, load_artifact

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
BLOCK = 1 << 20
MAX_MANIFEST = 16 << 20
KEPT = 8
"""Bases that stay in a data directory beside those in use: for a pin, a rollback, `versions verify`."""
MAX_BYTES = 64 << 30
"""Of one file."""


def place_of(bases: Path, sha256: str) -> Path:
    """Where a base lies."""
    return bases / sha256


def fetch(source: str, bases: Path, sha256: str | None = None) -> Artifact:
    """The base at a directory or http(s) address, installed under `bases` and checked; sha256: the one that it must be.

    Nothing is read from `source` where that base is installed. Raises ArtifactError, SchemaError.
    """
    if sha256 is not None and place_of(bases, sha256).exists():
        return _checked(place_of(bases, sha256), sha256)
    if not source:
        hint = "name where it lies: `base stage PATH|URL`"
        raise ArtifactError(f"base {sha256} is not here", field=str(bases), value=sha256, hint=hint)
    head = b"".join(_blocks(source, MANIFEST, MAX_MANIFEST))
    found = hashlib.sha256(head).hexdigest()
    if sha256 not in (None, found):
        raise ArtifactError(
            f"{source} holds base {found}, not {sha256}", field="url", value=source, hint="stage it anew"
        )
    place = place_of(bases, found)
    if not place.exists():
        _install(source, head, place)
    return _checked(place, found)


def tidy(bases: Path, keep: Collection[str]) -> list[str]:
    """Remove bases beyond the KEPT newest, none of `keep` and not the one that `current` names; those removed."""
    current = bases / CURRENT
    spared = {*keep, current.read_text(encoding="ascii").strip() if current.exists() else ""}
    places = [one for one in bases.iterdir() if (one / MANIFEST).exists()] if bases.exists() else []
    places.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    gone = [one for one in places[KEPT:] if one.name not in spared]
    for place in gone:
        shutil.rmtree(place, ignore_errors=True)
        log.info("an old base was removed", extra={"base": place.name})
    return [one.name for one in gone]


def _checked(place: Path, sha256: str) -> Artifact:
    made = load_artifact(place)
    if made.sha256 != sha256:
        raise ArtifactError(
            f"{place} holds base {made.sha256}", field=str(place), value=made.sha256, hint="delete the directory"
        )
    return made


def _install(source: str, head: bytes, place: Path) -> None:
    """Fetch all files beside `place`, then give them its name."""
    try:
        files = msgspec.json.decode(head, type=Manifest).files
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{source}/{MANIFEST} is not a manifest: {error}", field="url", value=source) from error
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{place.name[:12]}.", suffix=".partial", dir=place.parent))
    try:
        for name, digest in files.items():
            _fetch_file(source, name, digest, partial / name)
        (partial / MANIFEST).write_bytes(head)
        partial.chmod(0o755)
        if not place.exists():
            os.rename(partial, place)
    except OSError as error:
        if not place.exists():  # else another process was faster
            raise ArtifactError(f"base {place.name} cannot be stored: {error}", field=str(place)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fetch_file(source: str, name: str, digest: str, target: Path) -> None:
    if Path(name).name != name:
        raise ArtifactError(f"the manifest names a file outside its directory: {name!r}", field="url", value=source)
    found = hashlib.sha256()
    with target.open("wb") as file:
        for block in _blocks(source, name, MAX_BYTES):
            file.write(block)
            found.update(block)
    if found.hexdigest() != digest:
        raise ArtifactError(
            f"{source}/{name} has sha256 {found.hexdigest()[:12]}…, the manifest says {digest[:12]}…",
            field="url",
            value=source,
            hint="it was damaged on its way or changed since: stage it anew",
        )


def _blocks(source: str, name: str, most: int) -> Iterator[bytes]:
    """The bytes of a file at the source. Raises ArtifactError."""
    size = 0
    try:
        with _open(source, name) as file:
            while block := file.read(BLOCK):
                size += len(block)
                if size > most:
                    raise ArtifactError(f"{source}/{name} is larger than {most} bytes", field="url", value=source)
                yield block
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise ArtifactError(
            f"{source}/{name} cannot be read: {error}", field="url", value=source, hint="is it there, seen from here?"
        ) from error


def _open(source: str, name: str) -> BinaryIO:
    parts = urllib.parse.urlsplit(source)
    if parts.scheme in ("http", "https"):
        address = f"{source.rstrip('/')}/{urllib.parse.quote(name)}"
        opened: BinaryIO = urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS)
        return opened
    if parts.scheme not in ("", "file"):
        raise ArtifactError(
            f"bases are fetched from directories and http(s) addresses, not from {parts.scheme}://",
            field="url",
            value=source,
            hint="copy it to one of these first",
        )
    return (Path(urllib.parse.unquote(parts.path) if parts.scheme else source) / name).open("rb")
