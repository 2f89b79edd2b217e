"""Records as Parquet and back. The only file that imports pyarrow. It opens no archive.

A file holds rows of one stream and tenant, sorted by partition and offset, in row groups of one partition each, so
that reading in the order of the log touches one group after the other.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import LogError
from features.event_log_archive_manifest import VERSION, Part
from features.records import Record

GROUP_ROWS = 16_384
GROUP_BYTES = 8 << 20
_READ = ["partition", "offset", "kind", "timestamp", "append_time", "imported", "key", "body"]
_SCHEMA = pa.schema(
    [
        ("stream", pa.dictionary(pa.int32(), pa.string())),
        ("topic", pa.dictionary(pa.int32(), pa.string())),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("tenant", pa.dictionary(pa.int32(), pa.string())),
        ("timestamp", pa.int64()),
        ("append_time", pa.int64()),
        ("imported", pa.bool_()),
        ("key", pa.string()),
        ("body", pa.binary()),
    ],
    metadata={"repl-archive": str(VERSION)},
)


class Group(NamedTuple):
    """A row group: the offsets of one partition."""

    partition: int
    first: int
    last: int
    at: int  # its place in the file


def encode(records: Sequence[Record], topic: str) -> bytes:
    """A Parquet file of records that are sorted by partition and offset, with the id of their topic."""
    out = io.BytesIO()
    with pq.ParquetWriter(out, _SCHEMA, compression="zstd") as writer:
        for group in _groups(records):
            writer.write_table(_table(group, topic), row_group_size=len(group))
    return out.getvalue()


def _groups(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    start = size = 0
    for at, record in enumerate(records):
        full = at - start >= GROUP_ROWS or size >= GROUP_BYTES
        if at > start and (full or record.partition != records[start].partition):
            yield records[start:at]
            start, size = at, 0
        size += len(record.body)
    if records:
        yield records[start:]


def _table(records: Sequence[Record], topic: str) -> Any:
    columns = dict(zip(Record._fields, zip(*records, strict=True), strict=True))
    columns["topic"] = (topic,) * len(records)
    return pa.table([pa.array(columns[field.name], field.type) for field in _SCHEMA], schema=_SCHEMA)


class PartFile:
    """An open part: its row groups, and the records of one. Raises LogError where it is damaged."""

    def __init__(self, file: Any, part: Part) -> None:
        """file: a path, or an open file, which `close` closes."""
        self.part, self._own = part, None if isinstance(file, str) else file
        try:
            self._file = pq.ParquetFile(file, read_dictionary=["kind"], memory_map=isinstance(file, str))
            self._check_version()
            self.groups = self._read_groups()
        except (OSError, pa.ArrowException) as error:
            raise _damaged(part, error) from error

    def _check_version(self) -> None:
        version = int((self._file.schema_arrow.metadata or {}).get(b"repl-archive", b"0"))
        if version > VERSION:
            raise LogError(
                f"a part of the archive has format version {version}; this code reads {VERSION}", field="archive",
                value=self.part.path, hint="update this process",
            )  # fmt: skip

    def _read_groups(self) -> list[Group]:
        meta, found = self._file.metadata, []
        names = [meta.schema.column(n).name for n in range(meta.num_columns)]
        partition, offset = names.index("partition"), names.index("offset")
        for index in range(meta.num_row_groups):
            group = meta.row_group(index)
            places = group.column(offset).statistics
            found.append(Group(group.column(partition).statistics.min, places.min, places.max, index))
        return found

    def records(self, group: Group) -> list[Record]:
        """The records of a row group, by offset."""
        try:
            table = self._file.read_row_group(group.at, columns=_READ, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.part, error) from error
        kind = _whole(table, "kind")
        kinds = np.array(kind.dictionary.to_pylist(), object)[kind.indices.to_numpy()].tolist()
        numbers = {name: _whole(table, name).to_numpy().tolist() for name in ("offset", "timestamp", "append_time")}
        imported = _whole(table, "imported").to_numpy(zero_copy_only=False).tolist()
        columns = zip(
            repeat(self.part.stream), repeat(group.partition), numbers["offset"], kinds, repeat(self.part.tenant),
            numbers["timestamp"], numbers["append_time"], imported, _texts(_whole(table, "key")),
            _slices(_whole(table, "body")), strict=False,
        )  # fmt: skip
        return list(map(Record._make, columns))

    def holds(self, keys: Collection[str]) -> bool:
        """Whether any record has one of these keys."""
        try:
            column = self._file.read(columns=["key"]).column("key")
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.part, error) from error
        return bool(pc.any(pc.is_in(column, pa.array(sorted(keys), pa.string()))).as_py())

    def close(self) -> None:
        """Free the file."""
        self._file.close()
        if self._own is not None:
            self._own.close()


def _whole(table: Any, name: str) -> Any:
    """A column as one array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _bounds(array: Any) -> tuple[list[int], bytes]:
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32, len(array) + 1, 4 * array.offset)
    return ends.tolist(), b"" if data is None else data.to_pybytes()


def _slices(array: Any) -> list[bytes]:
    """The values of a binary column; pyarrow's own way makes an object of its own of each first."""
    ends, data = _bounds(array)
    return [data[a:b] for a, b in pairwise(ends)]


def _texts(array: Any) -> list[str]:
    ends, data = _bounds(array)
    if data.isascii():
        text = data.decode("ascii")
        return [text[a:b] for a, b in pairwise(ends)]
    return [data[a:b].decode() for a, b in pairwise(ends)]


def _damaged(part: Part, error: Exception) -> LogError:
    return LogError(
        f"a part of the archive cannot be read: {error}", field="archive", value=part.path,
        hint="restore it from a copy; if the archive was rewritten meanwhile, start again",
    )  # fmt: skip
