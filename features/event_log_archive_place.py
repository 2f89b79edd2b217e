"""A directory or a bucket that holds an archive: objects by path, through fsspec. The only file that imports fsspec.

It knows neither parts nor manifests. An object is written whole or not at all: locally by a new file that takes its
name when it is on the disk, elsewhere by one put, which object stores do atomically.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from features.durable import sync_directory
from features.errors import LogError, ReplError, SettingsError
from features.redis_extra import masked

TEMPORARY = ".tmp-"


class ArchivePlace:
    """Objects under a URL or a path. Paths are relative to it, with `/`."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError where no driver for the URL is installed, or it is none."""
        self.shown = masked(url) if "://" in url else url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"no archive can lie there: {error}", field="archive", value=self.shown,
                hint="a directory, or a URL of fsspec; s3:// needs `pip install s3fs`, gs:// gcsfs, abfs:// adlfs",
            ) from error  # fmt: skip
        self.root = str(root).rstrip("/")
        self.local = isinstance(self._fs, LocalFileSystem)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextmanager
    def _errors(self, doing: str, path: str) -> Iterator[None]:
        """Whatever a driver raises, as LogError."""
        try:
            yield
        except ReplError:
            raise
        except Exception as error:
            raise LogError(
                f"the archive cannot {doing} {path}: {type(error).__name__}: {error}", field="archive",
                value=self.shown, hint="is it reachable, is there room, and may we read and write there?",
            ) from error  # fmt: skip

    def put(self, path: str, data: bytes) -> None:
        """Write an object; one of this name is replaced. Raises LogError."""
        with self._errors("write", path):
            if self.local:
                self._write_local(path, data, os.replace)
            else:
                self._fs.pipe_file(self._full(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that is not there; False where it is. Raises LogError."""
        with self._errors("write", path):
            try:
                if self.local:
                    self._write_local(path, data, os.link)
                elif self._fs.exists(self._full(path)):  # for drivers that know no conditional put
                    return False
                else:
                    self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
        return True

    def _write_local(self, path: str, data: bytes, name: Any) -> None:
        target = Path(self._full(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            name(draft, target)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
        sync_directory(target.parent)

    def get(self, path: str) -> bytes:
        """The bytes of an object. Raises LogError."""
        with self._errors("read", path):
            data: bytes = self._fs.cat_file(self._full(path))
            return data

    def open(self, path: str) -> Any:
        """An object as a file to read here and there: a path where it is local. Raises LogError."""
        with self._errors("read", path):
            return self._full(path) if self.local else self._fs.open(self._full(path), "rb", block_size=4 << 20)

    def exists(self, path: str) -> bool:
        """Whether there is such an object. Raises LogError."""
        with self._errors("look for", path):
            return bool(self._fs.exists(self._full(path)))

    def list(self, folder: str = "") -> dict[str, float | None]:
        """path → time of writing (s since 1970, None: not known) of all objects under a folder. Raises LogError."""
        with self._errors("list", folder or "/"):
            self._fs.invalidate_cache()
            full = self._full(folder) if folder else self.root
            try:
                found = self._fs.find(full, detail=True)
            except FileNotFoundError:
                return {}
        return {name[len(self.root) :].lstrip("/"): _time(info) for name, info in found.items()}

    def delete(self, path: str) -> None:
        """Take an object away; one that is gone is fine. Raises LogError."""
        with self._errors("delete", path), suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))


def _time(info: dict[str, Any]) -> float | None:
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
    return None
