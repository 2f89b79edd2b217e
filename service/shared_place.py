"""Where the worker that writes says in which memory its tables lie, for the others of the same data directory.

One small file, replaced as a whole. It holds no table.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

FOLDER = "workers"
ANNOUNCED = "tables.json"


class Announcement(msgspec.Struct, frozen=True):
    """catalogue, counters: places of shared pages (`features/shared_pages.py`); base: the directory of the model."""

    catalogue: str
    counters: str
    base: str


def folder_of(data_dir: Path) -> Path:
    """Where workers of one data directory meet."""
    return data_dir / FOLDER


def announce(data_dir: Path, announcement: Announcement) -> None:
    """Say where the tables lie now. Raises OSError."""
    folder = folder_of(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{ANNOUNCED}.{os.getpid()}.tmp"
    draft.write_bytes(msgspec.json.encode(announcement))
    draft.replace(folder / ANNOUNCED)


def announced(data_dir: Path) -> Announcement | None:
    """What was said last; None before."""
    try:
        return msgspec.json.decode((folder_of(data_dir) / ANNOUNCED).read_bytes(), type=Announcement)
    except (OSError, msgspec.DecodeError):
        return None
