"""One log of an archive and of the live log behind it: read across the seam, appended to the live log.

The seam is the archive's offset of each stream and partition. `check` refuses a live log that is another one, or that
does not reach back to the seam; then nothing is missing and nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from features.errors import LogError
from features.event_log import EventLog, Promise
from features.event_log_archive import ArchiveLog
from features.event_log_archive_manifest import LogId, Manifest
from features.event_log_each import MOST_BYTES, EachPartition
from features.event_log_identity import LogIdentity, identity_of
from features.records import (
    Cut,
    NewRecord,
    Offsets,
    Record,
    Stream,
    offset_key,
    partition_and_offset,
    split_key,
)

CUTS = "cut/0"


class SeamedLog(EachPartition):
    """`EventLog`: below the seam the archive, from it on the live log. Neither is closed with it."""

    promises: frozenset[Promise] = frozenset()

    def __init__(self, archive: EventLog, live: EventLog, archived: Iterable[Stream]) -> None:
        """archived: the streams that are read from the archive first; the others are read from the live log alone."""
        streams = set(archived)
        self._archive, self._live = archive, live
        self.seam = {name: at for name, at in archive.end_offsets().items() if split_key(name)[0] in streams}
        self._starts = {name: at for name, at in archive.start_offsets().items() if name in self.seam}
        self.letters = 0  # dead letters that the log holds already

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = MOST_BYTES
    ) -> list[Record]:
        """See `EventLog.read`. A batch ends at the seam; the next one begins there."""
        seam = self.seam.get(offset_key(stream, partition), 0)
        if start < seam:
            found = self._archive.read(stream, start, limit, partition, max_bytes)
            if found:
                return found
        return self._live.read(stream, max(start, seam), limit, partition, max_bytes)

    def get(self, stream: Stream, offset: int, partition: int = 0) -> Record | None:
        """See `EventLog.get`."""
        below = offset < self.seam.get(offset_key(stream, partition), 0)
        return (self._archive if below else self._live).get(stream, offset, partition)

    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        """Append to the live log; not dead letters, which whoever read these records first has written."""
        if stream == "dead-letter":
            self.letters += len(records)
            return [None] * len(records)
        return self._live.append(stream, records)

    def identity(self) -> LogIdentity:
        """That of the live log."""
        return self._live.identity()

    def end_offsets(self) -> Offsets:
        """Those of the live log."""
        return self._live.end_offsets()

    def start_offsets(self) -> Offsets:
        """Where the archive begins, and where the live log does for what is not archived."""
        return {**self._live.start_offsets(), **self._starts}

    def blank_user(self, tenant: str, user: str, before: int | None = None) -> int:
        """On the live log, for deletions at or past the seam: it has long done so for those before."""
        if before is not None:
            partition, offset = partition_and_offset(before)
            if offset < self.seam.get(offset_key("event", partition), 0):
                return 0
        return self._live.blank_user(tenant, user, before)

    def retain(self, now: int, keep: Offsets) -> Mapping[str, int]:
        """Not from here."""
        return {}

    def sync(self) -> None:
        """See `EventLog.sync`."""
        self._live.sync()

    def close(self) -> None:
        """Nothing is open here."""


def check(archive: ArchiveLog, live: EventLog) -> None:
    """Raise LogError unless the live log is that of the archive and reaches back to where the archive ends."""
    manifest, found = archive.manifest, LogId(*identity_of(live))
    if manifest.log != found:
        differing = {
            name: f"{topic} in the archive, {found.topics.get(name)} here"
            for name, topic in manifest.log.topics.items()
            if found.topics.get(name) != topic
        }
        raise LogError(
            "the log is not the one that was archived: a topic was made again, or it is another cluster",
            field="then", value=differing or f"cluster {manifest.log.cluster} in the archive, {found.cluster} here",
            hint="offsets mean nothing across logs. Name the log that was archived; or let an empty embedded"
            " log take its place: --restore-log; or start the new one with a data directory and an archive of its own:"
            " `train --from-archive` makes its first base",
        )  # fmt: skip
    starts, ends = live.start_offsets(), live.end_offsets()
    for name, seam in manifest.offsets.items():
        first, end = starts.get(name, 0), ends.get(name, 0)
        if not first <= seam <= end:
            why = f"begins at {first}: what lies between has expired" if first > seam else f"ends at {end}"
            raise LogError(
                f"the archive of {name} ends at offset {seam}, and the log {why}", field="then", value=name,
                hint="was the archive copied, or its sink stopped for longer than the log is kept? Then "
                "`archive --accept-gaps` goes on past the loss and remembers it"
                if first > seam
                else "the log has lost records that were archived: restore it, or start a new one (docs/archive.md)",
            )  # fmt: skip


def _dense(manifest: Manifest) -> bool:
    """Whether every offset of events and control records is archived: none had expired before the sink came by."""
    spans = {"event": 0, "control": 0}
    for name, at in manifest.offsets.items():
        stream = split_key(name)[0]
        if stream in spans:
            spans[stream] += at - manifest.starts.get(name, 0)
    return all(manifest.rows(stream) == count for stream, count in spans.items())


def follows_cuts(archive: ArchiveLog, live: EventLog) -> bool:
    """Whether every cut from the first on is to be had, and what it covers is archived: then a bootstrap follows the
    cuts, to the same bits. Else it makes cuts of its own, which are appended to the log."""
    both = SeamedLog(archive, live, ("cut",))
    if both.start_offsets().get(CUTS, 0) > 0 or archive.manifest.gaps or not _dense(archive.manifest):
        return False
    first = both.read("cut", 0, 1)
    if not first:
        return False
    begun = Cut.from_bytes(first[0].body).offsets
    return all(begun.get(name, 0) >= at for name, at in archive.manifest.starts.items() if name != CUTS)
