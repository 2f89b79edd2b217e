"""The event log as an archive gives it back: `EventLog`, to read only. `trainer/archive/sink.py` writes archives.

Records come in the order of the log, exact in every field, whatever dates the parts lie under. Memory: the row groups
whose offsets overlap (in a live log two or three a partition), and a few that were looked up.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from operator import attrgetter
from typing import NoReturn

from features.errors import LogError, OffsetLost
from features.event_log import Promise
from features.event_log_archive_manifest import Manifest, Part
from features.event_log_archive_parquet import Group, PartFile
from features.event_log_archive_store import ArchiveStore
from features.event_log_each import MOST_BYTES, EachPartition
from features.event_log_identity import StoredIdentity
from features.records import STREAMS, NewRecord, Offsets, Record, Stream, offset_key, split_key

_OFFSET = attrgetter("offset")
_BUFFER = 60_000
_GROUPS = 8
_FILES = 16
_Todo = tuple[int, int, Part, PartFile | None, Group | None]


class ArchiveLog(EachPartition):
    """`EventLog` over the archive at a URL, as its newest manifest says at this moment. Usable from several threads."""

    promises: frozenset[Promise] = frozenset()

    def __init__(self, url: str) -> None:
        """Raises LogError where there is no archive, SettingsError for a URL that cannot be one."""
        self.store = ArchiveStore(url)
        found = self.store.latest()
        if found is None:
            raise LogError(
                "there is no archive", field="archive", value=self.store.place.shown,
                hint="make one: repl-ranker archive --to URL",
            )  # fmt: skip
        self.manifest: Manifest = found
        self._parts: dict[str, list[tuple[int, int, Part]]] = {}
        for part in found.parts:
            for name, (first, last) in part.spans.items():
                self._parts.setdefault(name, []).append((first, last, part))
        self._cursors: dict[str, _Cursor] = {}
        self._looked_up: OrderedDict[tuple[str, int], list[Record]] = OrderedDict()
        self._files: OrderedDict[str, PartFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = MOST_BYTES
    ) -> list[Record]:
        """See `EventLog.read`. Reading on from where the last call ended costs least."""
        name = offset_key(stream, partition)
        first = self.manifest.starts.get(name, 0)
        if start < first:
            raise OffsetLost(
                f"the archive of {name} begins at offset {first}", field="offset", value=start,
                hint="resume from there: what lies before was gone when the archive was made",
            )  # fmt: skip
        if start >= self.manifest.offsets.get(name, 0):
            return []
        with self._lock:
            cursor = self._cursors.get(name)
            if cursor is None or not cursor.covers(start):
                cursor = self._cursors[name] = _Cursor(self._in_order(name, start), start)
            return cursor.read(start, limit, max_bytes)

    def _open(self, part: Part) -> PartFile:
        return PartFile(self.store.place.open(part.path), part)

    def _in_order(self, name: str, start: int) -> Iterator[list[Record]]:
        """All records of a stream/partition from `start` on: parts, then row groups, are opened when their first
        offset is due, and what lies below the next one's first is given."""
        partition, numbers = split_key(name)[1], count()
        todo: list[_Todo] = [
            (first, next(numbers), part, None, None) for first, last, part in self._parts.get(name, ()) if last >= start
        ]
        heapq.heapify(todo)
        left: dict[PartFile, int] = {}  # open files, and their groups that are still to be read
        waiting: list[Record] = []
        try:
            while todo:
                _, _, part, file, group = heapq.heappop(todo)
                if file is None or group is None:
                    file = self._open(part)
                    groups = [one for one in file.groups if one.partition == partition and one.last >= start]
                    left[file] = len(groups)
                    for one in groups:
                        heapq.heappush(todo, (one.first, next(numbers), part, file, one))
                else:
                    waiting = _merged(waiting, file.records(group), start)
                    left[file] -= 1
                if not left[file]:
                    del left[file]
                    file.close()
                frontier = bisect_left(waiting, todo[0][0], key=_OFFSET) if todo else len(waiting)
                if frontier:
                    yield waiting[:frontier]
                    waiting = waiting[frontier:]
        finally:
            for file in left:
                file.close()

    def get(self, stream: Stream, offset: int, partition: int = 0) -> Record | None:
        """See `EventLog.get`."""
        name = offset_key(stream, partition)
        with self._lock:
            for first, last, part in self._parts.get(name, ()):
                if first <= offset <= last:
                    for group in self._file(part).groups:
                        if group.partition == partition and group.first <= offset <= group.last:
                            records = self._group(part, group)
                            at = bisect_left(records, offset, key=_OFFSET)
                            if records[at].offset == offset:
                                return records[at]
        return None

    def _file(self, part: Part) -> PartFile:
        found = self._files.get(part.path) or self._open(part)
        self._files[part.path] = found
        self._files.move_to_end(part.path)
        while len(self._files) > _FILES:
            self._files.popitem(last=False)[1].close()
        return found

    def _group(self, part: Part, group: Group) -> list[Record]:
        key = (part.path, group.at)
        found = self._looked_up.get(key)
        if found is None:
            found = self._looked_up[key] = self._file(part).records(group)
        self._looked_up.move_to_end(key)
        while len(self._looked_up) > _GROUPS:
            self._looked_up.popitem(last=False)
        return found

    def identity(self) -> StoredIdentity:
        """That of the log that was archived."""
        log = self.manifest.log
        return StoredIdentity({stream: log.topics[stream] for stream in STREAMS if stream in log.topics}, log.cluster)

    def end_offsets(self) -> Offsets:
        """See `EventLog.end_offsets`: of what is archived."""
        return dict(self.manifest.offsets)

    def start_offsets(self) -> Offsets:
        """See `EventLog.start_offsets`."""
        return dict(self.manifest.starts)

    def append(self, stream: Stream, records: Sequence[NewRecord]) -> NoReturn:
        """An archive is written by its sink alone. Raises LogError."""
        hint = "append to the log: repl-ranker archive follows it"
        raise LogError("an archive is not appended to", field="archive", hint=hint)

    def blank_user(self, tenant: str, user: str, before: int | None = None) -> int:
        """Not promised here: `repl-ranker archive` blanks what it archived."""
        return 0

    def retain(self, now: int, keep: Offsets) -> Mapping[str, int]:
        """Not promised: an archive is kept for ever."""
        return {}

    def sync(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._cursors.clear()
            while self._files:
                self._files.popitem()[1].close()


def _merged(waiting: list[Record], more: list[Record], start: int) -> list[Record]:
    if more and more[0].offset < start:
        more = more[bisect_left(more, start, key=_OFFSET) :]
    if not waiting:
        return more
    if more and waiting[-1].offset < more[0].offset:
        return waiting + more
    return sorted(waiting + more, key=_OFFSET)


class _Cursor:
    """A reader's place in one stream/partition: records decoded from offset `low` on."""

    def __init__(self, source: Iterator[list[Record]], low: int) -> None:
        self._source, self._low = source, low
        self._records: list[Record] = []
        self._next = low  # from here on nothing is decoded yet

    def covers(self, start: int) -> bool:
        """Whether `read` can begin there: within what is held, or close behind it."""
        return self._low <= start <= self._next + _BUFFER

    def read(self, start: int, limit: int, max_bytes: int) -> list[Record]:
        at = bisect_left(self._records, start, key=_OFFSET)
        while len(self._records) - at < limit and self._more():
            at = bisect_left(self._records, start, key=_OFFSET)
        found = self._records[at : at + limit]
        if at > _BUFFER:
            del self._records[:at]
            self._low = start
        size = 0
        for n, record in enumerate(found, 1):
            size += len(record.body)
            if size >= max_bytes:
                return found[:n]
        return found

    def _more(self) -> bool:
        part = next(self._source, None)
        if part is None:
            return False
        self._records += part
        self._next = part[-1].offset + 1
        return True
