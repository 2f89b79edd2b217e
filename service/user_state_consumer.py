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
from features.keys import actor_key, item_key
from features.records import Record, Stream
from features.schema import Schema
from service.background import Background
from service.catalogue_store import CatalogueStore
from service.item_encoder import ItemEncoder
from service.memory import trim
from service.metrics import Metrics
from service.progress import Progress
from service.shared_users import SharedUserStates

log = logging.getLogger(__name__)

STREAM: Stream = "event"
OFFSET = "event/0"
Neighbour = Literal["log", "state"]
POLL_SECONDS = 0.025
FLUSH_MS = 500
SAVE_MS = 5_000
MANY = 50_000
"""Events read since the last time from which on a backlog was long, and memory is given back."""
_BATCH = 2_000
_SLICE = 32
_MANY_DIRTY = 5_000


class UserStateConsumer(Background):
    """Applies the event stream from the older of both stores' offsets."""

    def __init__(
        self,
        event_log: EventLog,
        schema: Schema,
        users: SharedUserStates,
        catalogue: Catalogue,
        store: CatalogueStore | None,
        encoder: ItemEncoder | None,
        offsets: tuple[int | None, int],
        lock: threading.Lock,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        """offsets: (users, catalogue) read through so far; None: the store of user states did not say."""
        self._log, self._schema, self._users, self._catalogue = event_log, schema, users, catalogue
        self._store, self._encoder = store, encoder
        self._users_from, self._items_from = offsets[0] or 0, offsets[1]
        self._unasked = offsets[0] is None
        self._lock, self._metrics, self._clock = lock, metrics, clock
        self.progress = Progress()
        self._position = self._items_from if self._unasked else min(self._users_from, self._items_from)
        self.progress.advance(0 if self._unasked else self._position)
        self._through = 0
        self._relieved_at = self._position
        self._deleted: list[tuple[str, str, int]] = []
        self._flushed_at = self._saved_at = clock()
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
            records = self._log.read(STREAM, self._position, _BATCH)
            for start in range(0, len(records), _SLICE):
                with self._lock:
                    for record in records[start : start + _SLICE]:
                        self._apply(record)
                self.progress.advance(self._position)
            self._blank_deleted()
            if len(records) < _BATCH:
                self._through = began
            if self._encoder is not None and self._catalogue.version != self._encoded_version:
                self._encoded_version = self._catalogue.version
                self._encoder.wake()
            caught_up = len(records) < _BATCH and self._position - self._relieved_at >= MANY
            self._write(force=caught_up)
            if caught_up:
                self._relieve()
        except OffsetLost as error:
            self._skip_lost(error)
            return 1
        except WentBack as error:
            self._go_back(error)
            return 1
        except (LogError, StoreError) as error:
            self._fail(error)
            return 0
        if self.failing:
            log.warning("user state is read again")
            self.failing = None
        return len(records)

    def _ask(self) -> None:
        """Where to begin, of a store of user states that did not answer before. Raises StoreError."""
        self._users_from = self._users.store.offsets().get(OFFSET, 0)
        self._position = min(self._users_from, self._items_from)
        self._unasked = False

    def _fail(self, error: ReplError) -> None:
        if not self.failing:
            log.error("user state cannot be kept up to date", extra={"reason": error.message})
        self.failing = "log" if isinstance(error, LogError) else "state"
        self._metrics.failures.labels(self.failing).inc()

    def _go_back(self, error: WentBack) -> None:
        """The store lost its last writes: read on from what it holds. States in memory know how far they are."""
        log.error("user states were lost and are read again", extra={"reason": error.message})
        self._metrics.failures.labels("state").inc()
        try:
            position = self._users.store.offsets().get(OFFSET, 0)
        except StoreError as down:
            self._fail(down)
            return
        self._items_from = max(self._items_from, self._position)
        self._users_from = position
        self._position = min(position, self._position)
        self._users.release(self._lock)

    def _skip_lost(self, error: OffsetLost) -> None:
        """Retention took records that were never read: go on with the oldest there is."""
        first = self._log.start_offsets().get(OFFSET, self._position + 1)
        log.error("records were gone before they were read", extra={"from": self._position, "to": first})
        self._metrics.failures.labels("log").inc()
        self._position = max(first, self._position + 1)

    def _apply(self, record: Record) -> None:
        offset = record.offset
        try:
            if record.kind == "interaction":
                self._interaction(record)
            elif record.kind == "item" and offset >= self._items_from:
                event = events.from_bytes(record.body)
                if isinstance(event, events.ItemEvent):
                    self._catalogue.apply(event)
            elif record.kind == "user" and offset >= self._users_from:
                event = events.from_bytes(record.body)
                if isinstance(event, events.UserEvent) and event.op == "delete":
                    self._users.delete(actor_key(event.user, None))
                    if self._users.writes:
                        self._deleted.append((record.tenant, event.user, offset))
            if self._users.writes:
                self._metrics.consumed.labels(record.kind).inc()
        except ReplError as error:
            if isinstance(error, StoreError | LogError):
                raise
            self._metrics.failures.labels("event").inc()
            if self._users.writes:
                dead_letter(self._log, OFFSET, offset, error.message, record.body, record.tenant, self._clock())
            log.error("an event could not be applied", extra={"offset": offset, "reason": error.message})
        self._position = offset + 1

    def _blank_deleted(self) -> None:
        """Blank the records of users whose deletion was just read: again after a kill, until offsets are written."""
        while self._deleted:
            count = self._log.blank_user(*self._deleted[0])
            self._deleted.pop(0)
            log.info("a user was deleted", extra={"records": count})

    def _interaction(self, record: Record) -> None:
        event = events.from_bytes(record.body)
        if not isinstance(event, events.InteractionEvent):
            return
        if record.offset >= self._items_from:
            self._catalogue.intern(event.item)
        kind = self._schema.behaviour(event.type)
        key = actor_key(event.user, event.session)
        if key == 0 or kind < 0 or record.offset < self._users_from:
            return
        state = self._users.get_or_new(key)
        if state.append(item_key(event.item), kind, record.effective_time, record.offset):
            self._users.put(state)

    def _write(self, force: bool) -> None:
        if self._unasked:  # nothing was read
            return
        now = self._clock()
        if force or self._users.dirty >= _MANY_DIRTY or now - self._flushed_at >= FLUSH_MS:
            if self._users.dirty or (force and self._position != self._users_from):
                self._users.flush_beside(self._lock, {OFFSET: self._position})
            self._flushed_at = now
        due = force or now - self._saved_at >= SAVE_MS
        if due and self._store is not None and self._catalogue.version != self._saved_version:
            self._save()
            self._saved_at = now

    def _relieve(self) -> None:
        """After a long backlog: its users, who asked for nothing, leave memory again."""
        self._relieved_at = self._position
        self._users.release(self._lock)
        trim()

    def _save(self) -> None:
        assert self._store is not None
        with self._lock:
            version, position = self._catalogue.version, self._position
            chunks = self._catalogue.changed_chunks()
            waiting = self._encoder.collect() if self._encoder is not None else self._catalogue.changed_rows()
        self._store.save(chunks, {OFFSET: position}, waiting.astype("int64"))
        self._catalogue.mark_clean()  # only this thread changes the catalogue
        self._saved_version = version
        if self._encoder is not None:
            self._encoder.wake()
