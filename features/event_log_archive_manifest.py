"""What an archive holds: the manifest, its parts, and how both are named. It reads and writes nothing.

A manifest names every part that counts; a part that none names is an orphan. Manifests are numbered and never
changed: the highest number is the archive as it is.
"""

from __future__ import annotations

import datetime
from urllib.parse import quote

import msgspec

from features.errors import LogError
from features.records import Offsets, Record, Stream

VERSION = 1
KEPT: tuple[Stream, ...] = ("event", "served", "control", "cut")
"""The streams of an archive: all that a replay needs."""
_DAY_MS = 86_400_000
_EPOCH = datetime.date(1970, 1, 1).toordinal()


def _version() -> int:
    return VERSION


class LogId(msgspec.Struct, frozen=True):
    """The log that an archive was taken of."""

    cluster: str
    topics: dict[str, str]


class Part(msgspec.Struct, frozen=True):
    """An immutable Parquet file: rows of one stream, tenant and date, sorted by partition and offset."""

    path: str
    stream: str
    tenant: str
    date: str
    rows: int
    bytes: int  # of the file
    body: int  # of the records' bodies
    sha256: str
    spans: dict[str, tuple[int, int]]  # stream/partition → first and last offset


class Deletion(msgspec.Struct, frozen=True):
    """A user who was deleted and whose rows are still to be blanked."""

    tenant: str
    user: str
    partition: int
    offset: int
    append_time: int


class Gap(msgspec.Struct, frozen=True):
    """Offsets that the log had lost before they were archived."""

    name: str
    start: int
    end: int


class Garbage(msgspec.Struct, frozen=True):
    """A part that another one replaces, deleted from `at` (ms) on: readers may still be at it."""

    path: str
    at: int


class Began(msgspec.Struct, frozen=True):
    """Base and rules of the trainer when the archive was made; a bootstrap starts with them."""

    base: str
    rules: dict[str, float | int | bool]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `starts`: where the archive begins; `offsets`: the next offset to archive."""

    number: int
    log: LogId
    starts: Offsets
    offsets: Offsets
    parts: list[Part]
    deletions: list[Deletion] = []
    gaps: list[Gap] = []
    garbage: list[Garbage] = []
    began: Began | None = None
    written: int = 0
    v: int = msgspec.field(default_factory=_version)

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, body: bytes, name: str) -> Manifest:
        """Raises LogError where it is no manifest, or one of a newer version."""
        try:
            version = msgspec.json.decode(body, type=_Versioned).v
            if version <= VERSION:
                return msgspec.json.decode(body, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise LogError(f"{name} is no manifest of an archive: {error}", hint="restore it from a copy") from error
        raise LogError(f"{name} has format version {version}; this code reads {VERSION}", hint="update this process")

    def rows(self, stream: str) -> int:
        """Rows of a stream in all parts."""
        return sum(part.rows for part in self.parts if part.stream == stream)


class _Versioned(msgspec.Struct):
    v: int = VERSION


def manifest_path(number: int) -> str:
    """Where the manifest of this number lies."""
    return f"manifest/{number:016d}.json"


def number_of(path: str) -> int | None:
    """The number of a manifest's path; None where it is none."""
    name = path.rpartition("/")[2]
    return int(name[:16]) if len(name) == 21 and name[:16].isdecimal() and name.endswith(".json") else None


def date_of(record: Record) -> str:
    """The UTC date of a record's effective time; `other` outside the years 1 to 9999."""
    day = record.effective_time // _DAY_MS + _EPOCH
    try:
        return datetime.date.fromordinal(day).isoformat()
    except (ValueError, OverflowError):
        return "other"


def part_path(tenant: str, date: str, stream: str, spans: dict[str, tuple[int, int]], sha256: str) -> str:
    """Where a part lies: named by what it holds, so that a repeated write is the same object."""
    first, last = min(spans), max(spans)
    begin, end = f"{first.partition('/')[2]}.{spans[first][0]}", f"{last.partition('/')[2]}.{spans[last][1]}"
    folder = f"tenant={quote(tenant, safe='')}/date={date}"
    return f"{folder}/{stream}-{begin}-{end}-{sha256[:16]}.parquet"
