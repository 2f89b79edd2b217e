"""API keys: the file they lie in as hashes, how one is made and found, and the thread that reads the file again when it
changes. Who may do what with one is decided in `service/auth.py`.

A key is `rr_ID_SECRET` with a secret of 256 random bits, so one round of SHA-256 is enough at rest: there is nothing
to guess. It is found by its ID; the hashes are compared in constant time.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import msgspec

from features.errors import SettingsError
from service.background import Background
from service.settings import Settings

log = logging.getLogger(__name__)

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
FILE = "keys.json"
MOST = 10_000
EVERY = 0.4
"""Seconds between two looks at the file."""

_FORMAT = 1
_TOKEN = re.compile(r"rr_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64


class Key(msgspec.Struct, frozen=True):
    """What the file holds of a key. `scopes`: admin includes the others; `tenant`: None for all; `created`: ms."""

    id: str
    hash: str
    scopes: tuple[Scope, ...]
    tenant: str | None
    name: str
    created: int


class KeyFile(msgspec.Struct):
    """The whole file."""

    format: int
    keys: list[Key]


def keys_path(settings: Settings) -> Path:
    """Where the keys of these settings lie."""
    return settings.keys_file or settings.data_dir / FILE


def hash_of(token: str) -> str:
    """SHA-256 in hexadecimal: what stands in the file."""
    return sha256(token.encode()).hexdigest()


def read_keys(path: Path) -> list[Key] | None:
    """The keys of a file, None where there is no file. Raises SettingsError for one that cannot be read."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        hint = "restore it, or remove it and make keys anew: repl-ranker keys add"
        raise SettingsError(f"cannot read the keys in {path}: {error}", field="keys_file", hint=hint) from error
    if found.format != _FORMAT:
        raise SettingsError(
            f"{path} has format {found.format}, this release reads {_FORMAT}", field="keys_file", value=found.format
        )
    if len(found.keys) > MOST:
        raise SettingsError(f"{path} has more than {MOST} keys", field="keys_file", value=len(found.keys))
    return found.keys


@contextmanager
def changing(path: Path) -> Iterator[list[Key]]:
    """The list of keys to change, one process at a time; written as a whole, for its owner only, when it changed."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_keys(path)
        keys = list(before or [])
        yield keys
        if keys == before:
            return
        if len(keys) > MOST:
            raise SettingsError(f"{path} holds {MOST} keys at most", field="keys_file", hint="revoke some first")
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # mode 600
            file.write(msgspec.json.format(msgspec.json.encode(KeyFile(_FORMAT, keys))))
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)


def new_key(name: str, scopes: tuple[Scope, ...], tenant: str | None, now: int) -> tuple[Key, str]:
    """(what the file holds, the key itself, which is shown once and kept nowhere)."""
    id = secrets.token_hex(4)
    token = f"rr_{id}_{secrets.token_urlsafe(32)}"
    return Key(id, hash_of(token), scopes, tenant, name, now), token


class Keys(Background):
    """The keys of one file, followed by a thread. A file that breaks or goes leaves the keys as they were."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError for a file that cannot be read."""
        super().__init__("keys")
        self._path = path
        self._seen = self._look()
        found = read_keys(path)
        self.locked = found is not None
        self._by_id: dict[str, Key] = {key.id: key for key in found or ()}

    def find(self, token: str) -> Key | None:
        """The key that was sent, None for one that is not in the file."""
        shaped = _TOKEN.fullmatch(token)
        if shaped is None:
            return None
        key = self._by_id.get(shaped[1])
        same = hmac.compare_digest(hash_of(token), _NOBODY if key is None else key.hash)
        return key if same else None

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._read()

    def _read(self) -> None:
        try:
            found = read_keys(self._path)
        except SettingsError as error:
            log.error("the keys stay as they were", extra={"reason": str(error)})
            return
        if found is None:
            log.error("the keys file is gone: the keys stay as they were until a restart", extra={"file": self._path})
            return
        self._by_id = {key.id: key for key in found}
        self.locked = True
        log.info("keys read", extra={"keys": len(found)})
