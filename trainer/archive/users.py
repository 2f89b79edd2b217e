"""The ranker's user states and items from an archive, up to its end: what `state.db` or Redis, and `catalogue.db` hold.

It applies what `service/user_state_consumer.py` applies, in the same order, without its thread: the ranker goes on from
the offsets that are written here. No ranker may run meanwhile on the same store: two that write states lose some.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from features import events
from features.catalogue import Catalogue
from features.errors import LogError, ReplError, StoreError
from features.event_log import EventLog
from features.event_log_archive import ArchiveLog
from features.feature_store import FeatureStore, open_feature_store
from features.hash_window import HashWindow
from features.keys import actor_key, item_key
from features.records import Offsets, Record, marked, partitions_in, split_key
from features.schema import Schema
from service.catalogue_store import CatalogueStore
from service.event_applying import ids_seen
from service.log_positions import generation_in, log_key, positions_in, to_store
from service.settings import Settings
from service.shared_users import SharedUserStates
from trainer.archive.seam import check
from trainer.bases import current_base

Progress = Callable[[int, int], None]
FLUSH_DIRTY = 20_000
_READ = 10_000


class UserRebuild:
    """One pass over the archive's events; `run` returns what was done. Raises LogError, StoreError."""

    def __init__(
        self, archive: ArchiveLog, store: FeatureStore, schema: Schema, settings: Settings,
        catalogue: Catalogue | None, seen: HashWindow | None = None,
    ) -> None:  # fmt: skip
        """catalogue: filled too, where it is not there yet; seen: ids that counted, where the log does not look."""
        self._key = log_key(archive, "event")
        self._generation = generation_in(store.offsets(), self._key)
        self._seen = seen
        self._archive, self._store, self._schema = archive, store, schema
        self._users = SharedUserStates(store, max(2 * FLUSH_DIRTY, settings.users_in_memory), settings.history)
        self._catalogue = catalogue
        self._done: Offsets = {}
        self.counts = {"events": 0, "interactions": 0, "deleted": 0, "unreadable": 0}

    def run(self, progress: Progress = lambda done, total: None) -> dict[str, Any]:
        """Read every partition from where the store stands (a catalogue: from the start) to the archive's end."""
        began, total = time.monotonic(), self._archive.manifest.rows("event")
        self._done = self._held()
        ends = self._archive.manifest.offsets
        for name in sorted(partitions_in("event", ends)):
            self._partition(name, ends[name], lambda: progress(self.counts["events"], total))
        seconds = time.monotonic() - began
        return {**self.counts, "seconds": round(seconds, 2), "offsets": dict(self._done)}

    def _partition(self, name: str, end: int, tell: Callable[[], None]) -> None:
        partition, first = split_key(name)[1], self._archive.manifest.starts.get(name, 0)
        users_from = self._done.get(name, 0)
        at = first if self._catalogue is not None else max(first, users_from)
        while at < end and (records := self._archive.read("event", at, _READ, partition)):
            for record in marked(records, self._generation):
                self._apply(record, record.offset >= users_from)
            self.counts["events"] += len(records)
            at = records[-1].offset + 1
            if self._users.dirty >= FLUSH_DIRTY:
                self._flush(name, max(at, users_from))
            tell()
        self._flush(name, max(end, users_from))

    def _apply(self, record: Record, for_users: bool) -> None:
        try:
            if record.kind == "interaction":
                self._interaction(record, for_users)
            elif record.kind == "item" and self._catalogue is not None:
                event = events.from_bytes(record.body)
                if isinstance(event, events.ItemEvent):
                    self._catalogue.apply(event)
            elif record.kind == "user" and for_users:
                event = events.from_bytes(record.body)
                if isinstance(event, events.UserEvent) and event.op == "delete":
                    self._users.forget(actor_key(event.user, None), record.place)
                    self.counts["deleted"] += 1
        except ReplError as error:
            if isinstance(error, StoreError | LogError):
                raise
            self.counts["unreadable"] += 1  # a dead letter when it was read first

    def _interaction(self, record: Record, for_users: bool) -> None:
        event = events.from_bytes(record.body)
        if not isinstance(event, events.InteractionEvent):
            return
        if self._catalogue is not None:
            self._catalogue.intern(event.item)
        kind, key = self._schema.behaviour(event.type), actor_key(event.user, event.session)
        if not for_users or key == 0 or kind < 0:
            return
        state = self._users.get_or_new(key)
        if self._seen is not None and not self._seen.add(events.event_hash(event), record.place, record.effective_time):
            return
        if state.append(item_key(event.item), kind, record.effective_time, record.place):
            self._users.put(state)
            self.counts["interactions"] += 1

    def _held(self) -> Offsets:
        return positions_in(self._store.offsets(), self._generation)

    def _flush(self, name: str, at: int) -> None:
        """Write what changed with the offset. Raises StoreError where somebody else has moved it."""
        found = self._held()
        if found.get(name, 0) != self._done.get(name, 0):
            raise StoreError(
                "somebody else writes user states at the same time", value=found,
                hint="stop the rankers of this store, then call it again: it goes on from what is written",
            )  # fmt: skip
        self._users.flush(to_store({name: at}, self._generation, self._key))
        self._done[name] = at


def bootstrap_users(
    settings: Settings, url: str, live: EventLog, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Build the feature store of these settings, and `catalogue.db` where there is none, from the archive at `url`.

    Raises LogError, StoreError, ArtifactError with what to do.
    """
    artifact = current_base(settings)
    schema = artifact.schema if settings.schema_file is None else Schema.load(settings.schema_file)
    with closing(ArchiveLog(url)) as archive, closing(open_feature_store(settings)) as store:
        check(archive, live)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with closing(CatalogueStore(settings.data_dir / "catalogue.db", artifact.sha256)) as items:
            new = not items.load()[1]
            catalogue = Catalogue(schema, settings.max_items) if new else None
            found = UserRebuild(archive, store, schema, settings, catalogue, ids_seen(live, settings)).run(progress)
            if catalogue is not None:
                _save(items, catalogue, archive)
        return {**found, "items": None if catalogue is None else len(catalogue)}


def _save(items: CatalogueStore, catalogue: Catalogue, archive: ArchiveLog) -> None:
    ends = archive.manifest.offsets
    offsets = {name: ends[name] for name in partitions_in("event", ends)}
    stored = to_store(offsets, 0, log_key(archive, "event"))
    items.save(catalogue.changed_chunks(), stored, np.arange(len(catalogue), dtype=np.int64))
