"""What lies on the log: record header, offsets, the served record, cuts, the token (docs/formats.md §2, §3, §7).

It stores nothing; `features/event_log.py` does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from features.errors import InvalidInput, LogError
from features.events import Event, event_hash, event_key, event_kind
from features.events import to_bytes as event_bytes

Stream = Literal["event", "served", "dead-letter", "cut", "control"]
STREAMS: tuple[Stream, ...] = ("event", "served", "dead-letter", "cut", "control")
VERSION = 1
THINNED = 2  # of a cut that learns a share of its negatives
TOKEN_PARTITIONS = 8
MAX_TOKEN = 256

Offsets = dict[str, int]
"""stream/partition → the next offset to read."""

PLACE_BITS = 48
"""A place is partition << 48 | offset: where a record of a known stream lies, as one integer that grows within its
partition. In partition 0 it is the offset. Partitions take 10 bits; 5 above them count the logs that a reader has gone
through (a topic that was made again), so that places of the old one and the new one differ."""

MAX_PARTITIONS = 1 << 10


def place(partition: int, offset: int) -> int:
    """The place of a record of a stream."""
    return partition << PLACE_BITS | offset


def partition_and_offset(at: int) -> tuple[int, int]:
    """The inverse of `place`."""
    return at >> PLACE_BITS & MAX_PARTITIONS - 1, at & ((1 << PLACE_BITS) - 1)


def offsets_of(stream: str, at: int) -> Offsets:
    """A place as an offset map of one partition."""
    partition, offset = partition_and_offset(at)
    return {offset_key(stream, partition): offset}


def through_places(stream: str, places: Iterable[int]) -> Offsets:
    """The offsets just after records at these places, by partition."""
    found: Offsets = {}
    for partition, offset in map(partition_and_offset, places):
        name = offset_key(stream, partition)
        found[name] = max(found.get(name, 0), offset + 1)
    return found


def partitions_in(stream: str, names: Iterable[str]) -> list[str]:
    """Those names of an offset map that are partitions of a stream."""
    return [name for name in names if name.startswith(stream) and name[len(stream) : len(stream) + 1] == "/"]


class NewRecord(NamedTuple):
    """A record to append. `id_hash` 0: never a duplicate."""

    kind: str
    tenant: str
    timestamp: int
    key: str
    body: bytes
    imported: bool = False
    id_hash: int = 0


class Record(NamedTuple):
    """A record of the log. Times in ms since 1970; `append_time` is the log's clock."""

    stream: str
    partition: int
    offset: int
    kind: str
    tenant: str
    timestamp: int
    append_time: int
    imported: bool
    key: str
    body: bytes

    @property
    def place(self) -> int:
        """Partition and offset as one integer (PLACE_BITS)."""
        return self.partition << PLACE_BITS | self.offset

    @property
    def effective_time(self) -> int:
        """min(timestamp, append time) live, the timestamp in imports: what windows and order go by."""
        return self.timestamp if self.imported else min(self.timestamp, self.append_time)


def marked(records: list[Record], generation: int) -> list[Record]:
    """Records of the log of this generation: their places tell them from those of the logs before."""
    if not generation:
        return records
    return [one._replace(partition=one.partition | generation * MAX_PARTITIONS) for one in records]


class Many(NamedTuple):
    """Records of several partitions, by `stream/partition`, and the offset that each is read through.

    `whole`: nothing more was there (`tail` only).
    """

    records: dict[str, list[Record]]
    reached: Offsets
    whole: bool = False


UNREADABLE = "unreadable"
"""Kind of a record that reading made of a message which is none; its body is that of a dead letter."""


def event_record(event: Event, *, imported: bool = False) -> NewRecord:
    """The record of an event, counted once by (tenant, kind, id)."""
    body = event_bytes(event)
    return NewRecord(
        event_kind(event), event.tenant, event.timestamp, event_key(event), body, imported, event_hash(event)
    )


def offset_key(stream: str, partition: int = 0) -> str:
    """The key of an offset map."""
    return f"{stream}/{partition}"


def split_key(name: str) -> tuple[Stream, int]:
    """Stream and partition of a key of an offset map. Raises LogError where it is none."""
    stream, _, partition = name.rpartition("/")
    if stream not in STREAMS or not partition.isdecimal():
        raise LogError("not a partition of a stream", field="offset", value=name, hint="such as event/0")
    return stream, int(partition)


def encode_token(offsets: Offsets) -> str | None:
    """Token for `after`: base64url of the map. None above 8 partitions or 256 bytes (then the caller says why)."""
    if len(offsets) > TOKEN_PARTITIONS:
        return None
    token = base64.urlsafe_b64encode(orjson.dumps(offsets, option=orjson.OPT_SORT_KEYS)).decode()
    return token if len(token) <= MAX_TOKEN else None


def decode_token(token: str) -> Offsets:
    """The offsets of a token; members that are none (a later release may add some) are ignored. Raises InvalidInput."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        found = orjson.loads(base64.b64decode(token.encode("ascii"), b"-_", validate=True))
        if not isinstance(found, dict):
            raise ValueError("not a map of offsets")
        version = found.get("v", VERSION)
        if type(version) is not int or version > VERSION:
            raise ValueError(f"its format version is {version}, this code reads {VERSION}: update this process")
        found = {name: at for name, at in found.items() if "/" in name}
        if not all(type(at) is int and at >= 0 for at in found.values()):
            raise ValueError("not a map of offsets")
    except (ValueError, binascii.Error) as error:
        raise InvalidInput(
            f"not a token: {error}",
            field="after",
            value=token,
            hint="send the `token` of /v1/events as it came",
        ) from error
    return found


def _version() -> int:
    """The version of this code. As a factory, so that it is always written: what is left out cannot be refused."""
    return VERSION


def control_body(kind: str, body: bytes) -> dict[str, Any]:
    """The members of a control record. Raises ValueError where it is of a newer major version, or no JSON."""
    found = msgspec.json.decode(body, type=dict[str, Any])
    version = found.get("v", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"control record {kind!r} of format version {version}; this code reads {VERSION}: update this process, then"
            " ask for it again"
        )
    return found


class Cut(msgspec.Struct, frozen=True):
    """Where the trainer cut the streams: it learns up to `offsets` (exclusive), with timers at `watermark` (ms).
    `kept`: the share of negatives that it learns (`trainer/thinning.py`)."""

    offsets: Offsets
    watermark: int
    v: int = msgspec.field(default_factory=_version)
    kept: float = 1.0

    def to_bytes(self) -> bytes:
        """JSON. Where nothing is thinned it is that of version 1, which knows no `kept`; else version 2, so that a
        trainer that would learn all of it refuses."""
        whole = {"offsets": self.offsets, "watermark": self.watermark, "v": VERSION}
        return msgspec.json.encode(whole if self.kept == 1.0 else whole | {"v": THINNED, "kept": self.kept})

    @classmethod
    def from_bytes(cls, body: bytes) -> Cut:
        """Raises LogError where the record is no cut of a version known here."""
        found = _versioned(msgspec.json.decode, body, cls, "cut", THINNED)
        if not 0.0 < found.kept <= 1.0:
            raise LogError(f"not a cut: it keeps a share of {found.kept:g}", hint="it goes to the dead-letter stream")
        return found


class ServedRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the ranker answered, with the last-layer inputs z as scored (docs/formats.md §3)."""

    request_id: str
    t: int
    tenant: str
    base: str
    version: int
    objective: str
    items: list[str]
    scores: bytes  # f32[n], little endian
    hidden: int
    z: bytes  # f16[n, d], row-major, little endian
    propensity: bytes = b""  # f32[n]; empty: 1 for all
    user: str | None = None
    session: str | None = None
    arm: str = "live"
    mode: str = "rank"  # or passthrough: shown in the order sent
    experiments: dict[str, str] = {}
    counters: Offsets = {}
    user_state: Offsets = {}
    surface: int = 0
    query: str | None = None
    fields: dict[str, float] = {}
    v: int = msgspec.field(default_factory=_version)

    def to_bytes(self) -> bytes:
        """msgpack, defaults left out."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, body: bytes) -> ServedRecord:
        """Raises LogError where the record is damaged or of a newer major version."""
        found = _versioned(msgspec.msgpack.decode, body, cls, "served record")
        n = len(found.items)
        fits = len(found.z) % (2 * n) == 0 if n else not found.z
        if not fits or len(found.scores) != 4 * n or len(found.propensity) not in (0, 4 * n):
            raise LogError(
                f"served record {found.request_id!r}: arrays do not fit its {n} items",
                hint="it goes to the dead-letter stream",
            )
        return found

    def z_rows(self) -> npt.NDArray[np.float16]:
        """f16[n, d]: the inputs of the n logged items, in answer order."""
        n = len(self.items)
        return np.frombuffer(self.z, "<f2").reshape(n, len(self.z) // (2 * n) if n else 0)

    def score_row(self) -> npt.NDArray[np.float32]:
        """f32[n]: the scores as served."""
        return np.frombuffer(self.scores, "<f4")


_Versioned = TypeVar("_Versioned", "Cut", "ServedRecord")


class _Versions(msgspec.Struct):
    v: int = VERSION


def _versioned(
    decode: Any, body: bytes, kind: type[_Versioned], name: str, newest: int = VERSION
) -> _Versioned:
    try:
        version = decode(body, type=_Versions).v
        found: _Versioned | None = decode(body, type=kind) if version <= newest else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogError(f"not a {name}: {error}", hint="it goes to the dead-letter stream") from error
    if found is None:
        raise LogError(
            f"{name} of format version {version}; this code reads {newest}", hint="update this process first"
        )
    return found
