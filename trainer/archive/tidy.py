"""Keeps an archive small and clean: rows of deleted users are blanked, small parts of past dates are merged, what
nobody names is deleted. It reads no log.

Each change is one manifest: a reader finds the archive before it or after it. Replaced parts stay an hour for readers
that are at it; parts that held a deleted user's rows go at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import msgspec

from features.event_log import Clock, system_clock
from features.event_log_archive_manifest import Deletion, Garbage, Manifest, Part
from features.event_log_archive_parquet import PartFile
from features.event_log_archive_store import ArchiveStore
from features.event_log_retention import is_hers
from features.records import Record
from trainer.archive.sink import write_part

log = logging.getLogger(__name__)

TARGET = 64 << 20
"""Bytes of bodies of a merged part, about: a merge is done in memory."""
GRACE_MS = 3_600_000
ORPHANS_MS = 86_400_000
CLOSED_MS = 3_600_000
"""How long after its end a date is closed: what comes later is merged another time."""
_KINDS = frozenset(("interaction", "ranking", "identify", "user", "served"))
_DAY_MS = 86_400_000


def _no_step(number: int) -> None:
    """Nothing happens between the steps."""


class Tidy:
    """Works on an archive that nobody else writes meanwhile, after `Sink.catch_up`: what a user was shown before her
    deletion is archived then. `run` returns the manifest to go on with."""

    def __init__(
        self, store: ArchiveStore, clock: Clock = system_clock, steps: Callable[[int], None] = _no_step,
        target: int = TARGET,
    ) -> None:  # fmt: skip
        """steps: called when the parts of a change are written (1) and when its manifest is (2)."""
        self._store, self._clock, self._steps, self._target = store, clock, steps, target
        self.counts = {"blanked": 0, "merged": 0, "swept": 0}

    def run(self, manifest: Manifest) -> Manifest:
        """Blank, merge, sweep. Raises LogError, Fenced."""
        manifest = self._blank(manifest)
        manifest = self._merge(manifest)
        manifest, swept = self._store.sweep(manifest, self._clock(), ORPHANS_MS)
        self.counts["swept"] += swept
        return manifest

    def _blank(self, manifest: Manifest) -> Manifest:
        """Blank what deleted users did and were shown: a manifest for all, parts one after the other."""
        if not manifest.deletions:
            return manifest
        wanted: dict[tuple[str, str], list[Deletion]] = {}
        for one in manifest.deletions:
            wanted.setdefault((one.tenant, one.user), []).append(one)
        replaced: dict[str, Part] = {}
        for part in manifest.parts:
            users = {user for tenant, user in wanted if tenant == part.tenant}
            if part.stream in ("event", "served") and users and self._holds(part, users):
                records = self._records(part)
                blanked = [_blanked(record, wanted) for record in records]
                count = sum(new is not old for new, old in zip(blanked, records, strict=True))
                if count:
                    replaced[part.path] = self._write(manifest, part, blanked)
                    self.counts["blanked"] += count
        self._steps(1)
        now = self._clock()
        gone = [Garbage(path, now) for path in replaced]
        parts = [replaced.get(part.path, part) for part in manifest.parts]
        return self._commit(manifest, parts, list(replaced.values()), gone, deletions=[])

    def _merge(self, manifest: Manifest) -> Manifest:
        """Merge small parts of closed dates, a manifest for each merge."""
        for group in list(self._small(manifest)):
            records = [record for part in group for record in self._records(part)]
            made = self._write(manifest, group[0], records)
            self._steps(1)
            paths = {part.path for part in group}
            at = self._clock() + GRACE_MS
            parts = [part for part in manifest.parts if part.path not in paths]
            manifest = self._commit(manifest, [*parts, made], [made], [Garbage(path, at) for path in sorted(paths)])
            self.counts["merged"] += len(group)
        return manifest

    def _small(self, manifest: Manifest) -> Iterator[list[Part]]:
        """Parts to merge: of one stream, tenant and closed date, neighbours in the log, together at most `target`."""
        chunks: dict[tuple[str, str, str], list[Part]] = {}
        for part in sorted(manifest.parts, key=lambda part: min(part.spans.values())):
            if part.body < self._target // 2 and part.date < _date(self._clock() - CLOSED_MS):
                chunks.setdefault((part.stream, part.tenant, part.date), []).append(part)
        for parts in chunks.values():
            group: list[Part] = []
            for part in parts:
                if group and sum(one.body for one in group) + part.body > self._target:
                    if len(group) > 1:
                        yield group
                    group = []
                group.append(part)
            if len(group) > 1:
                yield group

    def _records(self, part: Part) -> list[Record]:
        file = PartFile(self._store.place.open(part.path), part)
        try:
            return [record for group in file.groups for record in file.records(group)]
        finally:
            file.close()

    def _holds(self, part: Part, users: set[str]) -> bool:
        file = PartFile(self._store.place.open(part.path), part)
        try:
            return file.holds(users)
        finally:
            file.close()

    def _write(self, manifest: Manifest, like: Part, records: list[Record]) -> Part:
        return write_part(self._store, like.stream, like.tenant, like.date, records, manifest.log.topics[like.stream])

    def _commit(
        self, manifest: Manifest, parts: list[Part], new: list[Part], gone: list[Garbage], **more: object
    ) -> Manifest:
        kept = {part.path for part in parts}  # blanked to what it was: the same object
        garbage = [one for one in [*manifest.garbage, *gone] if one.path not in kept]
        found = msgspec.structs.replace(
            manifest, number=manifest.number + 1, parts=parts, garbage=garbage, written=self._clock(), **more
        )
        made = self._store.commit(found, [part.path for part in new])
        self._steps(2)
        self._store.drop_old()
        return made


def _date(now: int) -> str:
    """The UTC date at a time, ms."""
    import datetime

    return datetime.datetime.fromtimestamp(now / 1_000, datetime.UTC).date().isoformat()


def _blanked(record: Record, wanted: dict[tuple[str, str], list[Deletion]]) -> Record:
    """The record, or what `blank_user` of the log would leave of it."""
    found = wanted.get((record.tenant, record.key))
    if found is None or record.kind not in _KINDS or not any(_before(record, one) for one in found):
        return record
    if not is_hers(record.kind, record.body, record.key):
        return record
    return record._replace(kind="blank", key="", body=b"{}" if record.stream == "event" else b"")


def _before(record: Record, deletion: Deletion) -> bool:
    if record.stream == "event" and record.partition == deletion.partition:
        return record.offset < deletion.offset
    return record.append_time <= deletion.append_time
