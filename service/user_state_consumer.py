"""Reads the log's events into user states and the catalogue, as soon as they are there. It learns and counts nothing.

One thread. It is woken by appends of this process and looks by itself for those of others. What it has applied is
visible to the next request; it is written to `state.db` and `catalogue.db` a little later, each with the offset it was
read through, so that a kill only makes it read again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from features import events
from features.catalogue import Catalogue
from features.errors import LogError, OffsetLost, ReplError, StoreError, WentBack
from features.event_log import EventLog, dead_letter
from features.hash_window import HashWindow
from features.keys import actor_key, item_key
from features.records import Many, Offsets, Record, Stream, marked, partitions_in, split_key
from features.schema import Schema
from service.background import Background
from service.catalogue_store import CatalogueStore
from service.encoders import Encoders
from service.log_positions import LOG, generation_in, log_key, positions_in, to_store
from service.memory import trim
from service.metrics import Metrics
from service.progress import Progress
from service.settings import Settings
from service.shared_users import SharedUserStates

log = logging.getLogger(__name__)

STREAM: Stream = "event"
Neighbour = Literal["log", "state"]
POLL_SECONDS = 0.025
TAIL_SECONDS = 0.2
"""Longest wait of a log that is told of appends."""
DISCOVER_MS = 30_000
"""Time between two looks for new partitions."""
WARM_IDS = 20_000
"""Records of each partition read again at start, to know the ids of what lies just before."""
FLUSH_MS = 500
SAVE_MS = 5_000
LOOK_MS = 1_000
"""Between two looks at whether the store of user states went back, where nothing is written."""
MANY = 50_000
"""Events read since the last time from which on a backlog was long, and memory is given back."""
_BATCH = 2_000
_SLICE = 32
_MANY_DIRTY = 5_000


def ids_seen(event_log: EventLog, settings: Settings) -> HashWindow | None:
    """The window of event ids that user states need, where the log itself lets an id be there twice."""
    if "ids-once" in event_log.promises:
        return None
    return HashWindow(settings.dedup_ids, int(settings.dedup_hours * 3_600_000))


class UserStateConsumer(Background):
    """Applies the event stream from the older of both stores' offsets."""

    def __init__(
        self,
        event_log: EventLog,
        schema: Schema,
        users: SharedUserStates,
        catalogue: Catalogue,
        store: CatalogueStore | None,
        encoder: Encoders | None,
        offsets: tuple[Offsets | None, Offsets | None],
        lock: threading.Lock,
        metrics: Metrics,
        clock: Callable[[], int],
        seen: HashWindow | None = None,
    ) -> None:
        """offsets: (users, catalogue) as stored (`log_positions.py`); None for users: their store did not say; for the
        catalogue: another process fills it. seen: ids that counted (the log looks: None)."""
        self._log, self._schema, self._users, self._catalogue = event_log, schema, users, catalogue
        self._store, self._encoder = store, encoder
        self._users_from, self._items_stored = offsets[0] or {}, offsets[1]
        self._unasked = offsets[0] is None
        self._items_from: Offsets = {}
        self._log_key: str | None = None
        self._generation = 0
        self._lock, self._metrics, self._clock = lock, metrics, clock
        self.progress = Progress()
        self._positions: Offsets = {}
        self._discovered_at: int | None = None
        self._seen = seen
        self._through = 0
        self._since_relief = 0
        self._deleted: list[tuple[str, str, int]] = []
        self._flushed_at = self._saved_at = self._looked_at = clock()
        self._saved_version = self._encoded_version = catalogue.version
        self.failing: Neighbour | None = None
        """What does not answer at the moment: the log, or the files of user state and catalogue."""
        super().__init__("user-state", 30.0)

    @property
    def through(self) -> int:
        """The last time (ms) at which nothing was left to read."""
        return self._through

    def wake(self) -> None:
        """Something was appended."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread and write what has changed."""
        super().stop()
        try:
            self._write(force=True)
        except StoreError as error:  # nothing is lost: the next start reads on from what is written
            log.error("what was read last could not be written", extra={"reason": error.message})

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self.step():
                self._wake.wait(0.3 if self.failing else POLL_SECONDS)
                self._wake.clear()

    def step(self) -> int:
        """Read and apply one batch; returns how many records there were. Failures are counted and tried again."""
        try:
            began = self._clock()
            if self._unasked:
                self._ask()
            if self._users.unreachable or self.failing == "state":
                self._users.probe()
            self._discover(began)
            found = self._log.tail(self._positions, _BATCH, TAIL_SECONDS)
            count = sum(map(len, found.records.values()))
            self._take(found)
            if self._through:  # it had caught up before: what was read is news
                for records in found.records.values():
                    self._metrics.delays.applied(records, self._clock())
            self._blank_deleted()
            if found.whole:
                self._through = began
            if self._encoder is not None and self._catalogue.version != self._encoded_version:
                self._encoded_version = self._catalogue.version
                self._encoder.wake()
            self._since_relief += count
            caught_up = found.whole and self._since_relief >= MANY
            self._write(force=caught_up)
            if caught_up:
                self._relieve()
        except OffsetLost as error:
            return self._skip_lost(error)
        except WentBack as error:
            self._go_back(error)
            return 1
        except (LogError, StoreError) as error:
            self._fail(error)
            return 0
        if self.failing:
            log.warning("user state is read again")
            self.failing = None
        return count

    def _discover(self, now: int) -> None:
        """Begin to follow partitions that were not there before. Raises LogError."""
        if self._discovered_at is not None and 0 <= now - self._discovered_at < DISCOVER_MS:
            return
        self._identify()
        starts = self._log.start_offsets()
        for name in partitions_in(STREAM, starts):
            if name not in self._positions:
                readers = [self._users_from] if self._items_stored is None else [self._users_from, self._items_from]
                first = min(one.get(name, starts[name]) for one in readers)
                self._warm(name, first, starts[name])
                self._positions[name] = first
        self.progress.advance(self._positions)
        self._discovered_at = now

    def _identify(self) -> None:
        """See which log this is; one that is not that of the stored offsets is read from its start, and told."""
        key = log_key(self._log, STREAM)
        if key == self._log_key:
            return
        held = self._users_from if self._log_key is None else self._stored(self._positions)
        generation = generation_in(held, key)
        if key not in held and any(name.startswith(LOG) for name in held):
            log.error("this is another log than that of the user states: it is read from its start")
            self._metrics.failures.labels("log").inc()
        self._users_from = positions_in(held, generation)
        if self._items_stored is not None:
            self._items_from = positions_in(self._items_stored, generation_in(self._items_stored, key))
        self._log_key, self._generation, self._positions = key, generation, {}

    def _stored(self, positions: Offsets) -> Offsets:
        return to_store(positions, self._generation, self._log_key or "")

    def _warm(self, name: str, position: int, first: int) -> None:
        """Learn the ids of what was read before, so that one that is repeated after a restart counts once."""
        at, partition = max(first, position - WARM_IDS), split_key(name)[1]
        while self._seen is not None and at < position:
            records = self._log.read(STREAM, at, min(_BATCH, position - at), partition)
            if not records:
                return
            for record in records:
                if record.kind == "interaction":
                    event = events.from_bytes(record.body)
                    self._seen.add(events.event_hash(event), record.place, record.effective_time)
            at = records[-1].offset + 1

    def _take(self, found: Many) -> None:
        """Apply what was read, in slices, so that requests get in between."""
        for name, records in found.records.items():
            for start in range(0, len(records), _SLICE):
                part = records[start : start + _SLICE]
                with self._lock:
                    for record in marked(part, self._generation):
                        self._apply(record, name)
                self._positions[name] = part[-1].offset + 1
                self.progress.advance({name: self._positions[name]})
        self._positions.update(found.reached)
        self.progress.advance(found.reached)

    def _ask(self) -> None:
        """Where to begin, of a store of user states that did not answer before. Raises StoreError."""
        self._users_from = self._users.store.offsets()
        self._unasked = False

    def _fail(self, error: ReplError) -> None:
        if not self.failing:
            log.error("user state cannot be kept up to date", extra={"reason": error.message})
        self.failing = "log" if isinstance(error, LogError) else "state"
        self._metrics.failures.labels(self.failing).inc()

    def _go_back(self, error: WentBack) -> None:
        """The store lost its last writes: read on from what it holds, with the states it holds. Those in memory go, the
        unwritten ones too: one may have been read from the store after the loss, and lack what was lost."""
        log.error("user states were lost and are read again", extra={"reason": error.message})
        self._metrics.failures.labels("state").inc()
        try:
            held = self._users.store.offsets()
        except StoreError as down:
            self._fail(down)
            return
        self._items_from = {
            name: max(at, self._items_from.get(name, 0)) for name, at in self._positions.items()
        }
        self._users_from = positions_in(held, self._generation)
        self._positions, self._discovered_at = {}, None
        self._users.drop(self._lock)

    def _skip_lost(self, error: OffsetLost) -> int:
        """Retention took records that were never read: go on with the oldest there is; in how many partitions. In none:
        the log ends before what was read, so it may be another one: that is looked at."""
        try:
            starts = self._log.start_offsets()
        except LogError as down:
            self._fail(down)
            return 0
        lost = [name for name, at in self._positions.items() if at < starts.get(name, 0)]
        for name in lost:
            extra = {"from": self._positions[name], "to": starts[name]}
            log.error("records were gone before they were read", extra=extra)
            self._metrics.failures.labels("log").inc()
            self._positions[name] = starts[name]
        if not lost:
            self._discovered_at = None
            self._fail(error)
        return len(lost)

    def _apply(self, record: Record, name: str) -> None:
        offset = record.offset
        try:
            if record.kind == "interaction":
                self._interaction(record, name)
            elif record.kind == "item" and self._is_for_items(offset, name):
                event = events.from_bytes(record.body)
                if isinstance(event, events.ItemEvent):
                    self._catalogue.apply(event)
            elif record.kind == "user" and offset >= self._users_from.get(name, 0):
                event = events.from_bytes(record.body)
                if isinstance(event, events.UserEvent) and event.op == "delete":
                    self._users.forget(actor_key(event.user, None), record.place)
                    if self._users.writes:
                        self._deleted.append((record.tenant, event.user, record.place))
            if self._users.writes:
                self._metrics.consumed.labels(record.kind).inc()
        except ReplError as error:
            if isinstance(error, StoreError | LogError):
                raise
            self._metrics.failures.labels("event").inc()
            if self._users.writes:
                dead_letter(self._log, name, offset, error.message, record.body, record.tenant, self._clock())
            log.error("an event could not be applied", extra={"offset": offset, "reason": error.message})

    def _blank_deleted(self) -> None:
        """Blank the records of users whose deletion was just read: again after a kill, until offsets are written."""
        while self._deleted:
            count = self._log.blank_user(*self._deleted[0])
            self._deleted.pop(0)
            log.info("a user was deleted", extra={"records": count})

    def _is_for_items(self, offset: int, name: str) -> bool:
        """Whether the catalogue here takes what this record says of items, and has not yet."""
        return self._items_stored is not None and offset >= self._items_from.get(name, 0)

    def _interaction(self, record: Record, name: str) -> None:
        event = events.from_bytes(record.body)
        if not isinstance(event, events.InteractionEvent):
            return
        if self._is_for_items(record.offset, name):
            self._catalogue.intern(event.item)
        kind = self._schema.behaviour(event.type)
        key = actor_key(event.user, event.session)
        if key == 0 or kind < 0:
            return
        first = self._first(event, record)  # also of what only the catalogue still has to read: a copy may follow
        if not first or record.offset < self._users_from.get(name, 0):
            return
        state = self._users.get_or_new(key)
        if state.append(item_key(event.item), kind, record.effective_time, record.place):
            self._users.put(state)

    def _first(self, event: events.Event, record: Record) -> bool:
        """Is this the first copy of an event? The same record, read again after a failure or a loss, is."""
        if self._seen is None:
            return True
        key = events.event_hash(event)
        return self._seen.add(key, record.place, record.effective_time) or self._seen.get(key) == record.place

    def _write(self, force: bool) -> None:
        if self._unasked:  # nothing was read
            return
        now = self._clock()
        if force or self._users.dirty >= _MANY_DIRTY or now - self._flushed_at >= FLUSH_MS:
            if self._users.dirty or (force and self._positions != self._users_from):
                self._users.flush_beside(self._lock, self._stored(self._positions))
                self._looked_at = now
            elif now - self._looked_at >= LOOK_MS:
                self._users.probe()  # a store that lost some says so, also where nothing is written
                self._looked_at = now
            self._flushed_at = now
        due = force or now - self._saved_at >= SAVE_MS
        if due and self._store is not None and self._catalogue.version != self._saved_version:
            self._save()
            self._saved_at = now

    def _relieve(self) -> None:
        """After a long backlog: its users, who asked for nothing, leave memory again."""
        self._since_relief = 0
        self._users.release(self._lock)
        trim()

    def _save(self) -> None:
        assert self._store is not None
        with self._lock:
            version, positions = self._catalogue.version, dict(self._positions)
            chunks = self._catalogue.changed_chunks()
            waiting = self._encoder.collect() if self._encoder is not None else self._catalogue.changed_rows()
        self._store.save(chunks, self._stored(positions), waiting.astype("int64"))
        self._catalogue.mark_clean()  # only this thread changes the catalogue
        self._saved_version = version
        if self._encoder is not None:
            self._encoder.wake()
