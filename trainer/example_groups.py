"""Training groups on disk, in chunks: how they are written and read back. What belongs into one decides
trainer/examples.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from features.coding import U64
from trainer.item_book import ItemBook

CHUNK = 4_096
CLICKED, PURCHASED, SHOWN = 1, 2, 4
"""Bits of a candidate's flags; any behaviour implies the click."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass
class Group:
    """One request (or one time of one actor) with its labels, while it is in memory."""

    actor: int
    t: int
    history: Sequence[tuple[int, int, int]]  # (item number, kind, ms), oldest first
    items: dict[int, int] = field(default_factory=dict)  # item number → flags
    words: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    clicked_at: dict[int, int] = field(default_factory=dict)
    closes: int = 0
    known: int = 0  # items that existed at its time
    seen: int = 0  # positives before it


class GroupFiles:
    """Writes groups to numbered safetensors files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.files: list[Path] = []
        self.seen = 0
        self._groups: list[Group] = []
        self._stream = (directory / "positives.i32").open("wb")

    def add(self, group: Group) -> None:
        """Take a group; a full chunk goes to disk."""
        self._groups.append(group)
        taken = np.array([item for item, flags in group.items.items() if flags & CLICKED], np.int32)
        self._stream.write(taken.tobytes())
        self.seen += len(taken)
        if len(self._groups) == CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write the groups at hand as one chunk."""
        if not self._groups:
            return
        groups = self._groups
        arrays: Arrays = {
            "actor": np.array([g.actor for g in groups], np.uint64),
            "t": np.array([g.t for g in groups], np.int64),
            "known": np.array([g.known for g in groups], np.int64),
            "seen": np.array([g.seen for g in groups], np.int64),
            "history_starts": _starts([len(g.history) for g in groups]),
            "history": np.array([step for g in groups for step in g.history], np.int64).reshape(-1, 3),
            "item_starts": _starts([len(g.items) for g in groups]),
            "items": np.array([item for g in groups for item in g.items], np.int64),
            "flags": np.array([flags for g in groups for flags in g.items.values()], np.uint8),
            "word_starts": _starts([len(g.words) for g in groups]),
            "words": np.concatenate([g.words for g in groups]),
        }
        path = self.directory / f"groups-{len(self.files):06d}.safetensors"
        save_file(arrays, path)
        self.files.append(path)
        self._groups = []

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._stream.close()


def _starts(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass
class ExampleSet:
    """Groups on disk and the items they name. Chunk files hold the arrays of `GroupFiles.flush`."""

    directory: Path
    files: list[Path]
    book: ItemBook
    groups: int
    first: int
    through: int  # ms: the last event read
    counts: Mapping[str, int]
    actors: int
    """Actors seen, counted approximately (sizes the user table)."""

    def chunks(self) -> Iterator[Arrays]:
        """Chunks in order, read one at a time."""
        for path in self.files:
            yield load_file(path)

    def positives(self) -> npt.NDArray[np.int32]:
        """Item numbers of all positives in order, mapped from disk: a place before now is drawn by
        popularity.
        """
        path = self.directory / "positives.i32"
        if path.stat().st_size == 0:
            return np.empty(0, np.int32)
        return np.memmap(path, np.int32, mode="r")
