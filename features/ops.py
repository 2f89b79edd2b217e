"""Ops: the changes that counters and co-visitation take, as columns; what a weight version carries to the
replicas.

An op is one impression or interaction with all it needs (keys, position, the actor's interactions before it),
so that applying it (`features/realtime.py`) asks nobody anything. This module only holds, joins and encodes
them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.user_state import NO_RECENTS, Recents

IMPRESSION = 0
"""Kind of an op that tells of a shown item; the other kinds are the behaviour codes of
`features/schema.py`.
"""

_HEADER = struct.Struct("<4sBII")
_MAGIC = b"rops"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Ops:
    """n ops in order. Row i's recents are `recent_*[recent_start[i]:recent_start[i + 1]]`, oldest first.

    t: i64 ms; kind: u8; item, category: u64 keys (0: none); position: i16 (1 = first, 0 unknown); surface: u8
    (0 recommendation, 1 search).
    """

    t: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    item: npt.NDArray[np.uint64]
    category: npt.NDArray[np.uint64]
    position: npt.NDArray[np.int16]
    surface: npt.NDArray[np.uint8]
    recent_start: npt.NDArray[np.int32]
    recent_item: npt.NDArray[np.uint64]
    recent_t: npt.NDArray[np.int64]
    recent_kind: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.t)

    @classmethod
    def empty(cls) -> Ops:
        """No ops."""
        return OpsBuilder().build()

    def to_bytes(self) -> bytes:
        """Format 1: `rops`, format byte, n and number of recents (u32), then the columns, little endian."""
        head = _HEADER.pack(_MAGIC, _FORMAT, len(self.t), len(self.recent_item))
        return head + b"".join(np.ascontiguousarray(getattr(self, name)).tobytes() for name, _, _ in _COLUMNS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Ops:
        """Undo `to_bytes`. Raises ValueError where the bytes are no ops of a format this code reads."""
        if len(data) < _HEADER.size:
            raise ValueError(f"ops of {len(data)} bytes cannot be read")
        magic, version, n, m = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"{len(data)} bytes that begin with {magic!r} are no changes of counters")
        if version != _FORMAT:
            raise ValueError(
                f"changes of counters (ops) of format {version} cannot be read; this code reads {_FORMAT}:"
                " update this process"
            )
        sizes = {"n": n, "n+1": n + 1, "m": m}
        at, columns = _HEADER.size, {}
        for name, dtype, size in _COLUMNS:
            columns[name] = np.frombuffer(data, dtype, sizes[size], at)
            at += columns[name].nbytes
        return cls(**columns)

    @classmethod
    def concat(cls, parts: Sequence[Ops]) -> Ops:
        """The ops of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        builder: dict[str, npt.NDArray[np.generic]] = {}
        for name, dtype, size in _COLUMNS:
            if size != "n+1":
                builder[name] = np.concatenate(
                    [np.zeros(0, dtype), *(getattr(part, name) for part in parts)], dtype=dtype
                )
        lengths = [np.zeros(1, np.int32), *(np.diff(part.recent_start) for part in parts)]
        start = np.cumsum(np.concatenate(lengths), dtype=np.int32)
        return cls(recent_start=start, **builder)  # type: ignore[arg-type]


_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("t", "<i8", "n"),
    ("item", "<u8", "n"),
    ("category", "<u8", "n"),
    ("recent_item", "<u8", "m"),
    ("recent_t", "<i8", "m"),
    ("recent_start", "<i4", "n+1"),
    ("position", "<i2", "n"),
    ("kind", "u1", "n"),
    ("surface", "u1", "n"),
    ("recent_kind", "u1", "m"),
)


class OpsBuilder:
    """Collects ops one by one, in order."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._recents: list[Recents] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        t: int,
        kind: int,
        item: int,
        category: int = 0,
        position: int = 0,
        surface: int = 0,
        recents: Recents = NO_RECENTS,
    ) -> None:
        """One op; `recents` are the actor's interactions before it (`UserState.recents`), none for
        impressions.
        """
        self._rows.append((t, kind, item, category, min(max(position, 0), 32_767), surface))
        self._recents.append(recents)

    def build(self) -> Ops:
        """All ops added since the last build; the builder is empty after it."""
        rows, recents = self._rows, self._recents
        self._rows, self._recents = [], []
        columns = list(zip(*rows, strict=True)) or [()] * 6
        items, times, kinds = zip(*recents, strict=True) if recents else ((), (), ())
        start = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(list(map(len, items)), out=start[1:])
        return Ops(
            t=np.array(columns[0], np.int64),
            kind=np.array(columns[1], np.uint8),
            item=np.array(columns[2], np.uint64),
            category=np.array(columns[3], np.uint64),
            position=np.array(columns[4], np.int16),
            surface=np.array(columns[5], np.uint8),
            recent_start=start,
            recent_item=np.concatenate([NO_RECENTS.items, *items]),
            recent_t=np.concatenate([NO_RECENTS.times, *times]),
            recent_kind=np.concatenate([NO_RECENTS.kinds, *kinds]),
        )
