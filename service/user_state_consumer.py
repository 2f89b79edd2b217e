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

from features.catalogue import Catalogue
from features.errors import LogError, OffsetLost, ReplError, StoreError, WentBack
from features.event_log import EventLog
from features.hash_window import HashWindow
from features.records import Many, Offsets, marked, partitions_in
from features.schema import Schema
from service.background import Background
from service.catalogue_store import CatalogueStore
from service.encoders import Encoders
from service.event_applying import STREAM, Applying
from service.log_positions import LOG, generation_in, log_key, positions_in, to_store
from service.memory import trim
from service.metrics import Metrics
from service.progress import Progress
from service.shared_users import SharedUserStates

log = logging.getLogger(__name__)

Neighbour = Literal["log", "state"]
POLL_SECONDS = 0.025
TAIL_SECONDS = 0.2
"""Longest wait of a log that is told of appends."""
DISCOVER_MS = 30_000
"""Time between two looks for new partitions."""
FLUSH_MS = 500
SAVE_MS = 5_000
LOOK_MS = 1_000
"""Between two looks at whether the store of user states went back, where nothing is written."""
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
        encoder: Encoders | None,
        offsets: tuple[Offsets | None, Offsets | None],
        lock: threading.Lock,
        metrics: Metrics,
        clock: Callable[[], int],
        seen: HashWindow | None = None,
    ) -> None:
        """offsets: (users, catalogue) as stored (`log_positions.py`); None for users: their store did not say; for the
        catalogue: another process fills it. seen: ids that counted (the log looks: None)."""
        self._log, self._users, self._catalogue = event_log, users, catalogue
        self._store, self._encoder = store, encoder
        self._applying = Applying(event_log, schema, users, catalogue, metrics, clock, seen)
        self._users_stored, self._items_stored = offsets[0] or {}, offsets[1]
        self._unasked = offsets[0] is None
        self._log_key: str | None = None
        self._generation = 0
        self._lock, self._metrics, self._clock = lock, metrics, clock
        self.progress = Progress()
        self._positions: Offsets = {}
        self._discovered_at: int | None = None
        self._through = 0
        self._since_relief = 0
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
            self._applying.blank_deleted()
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
                first = self._applying.first_of(name, starts[name])
                self._applying.warm(name, first, starts[name])
                self._positions[name] = first
        self.progress.advance(self._positions)
        self._discovered_at = now

    def _identify(self) -> None:
        """See which log this is; one that is not that of the stored offsets is read from its start, and told."""
        key = log_key(self._log, STREAM)
        if key == self._log_key:
            return
        held = self._users_stored if self._log_key is None else self._stored(self._positions)
        generation = generation_in(held, key)
        if key not in held and any(name.startswith(LOG) for name in held):
            log.error("this is another log than that of the user states: it is read from its start")
            self._metrics.failures.labels("log").inc()
        self._applying.users_from = positions_in(held, generation)
        if self._items_stored is not None:
            of_items = generation_in(self._items_stored, key)
            self._applying.items_from = positions_in(self._items_stored, of_items)
        self._log_key, self._generation, self._positions = key, generation, {}

    def _stored(self, positions: Offsets) -> Offsets:
        return to_store(positions, self._generation, self._log_key or "")

    def _take(self, found: Many) -> None:
        """Apply what was read, in slices, so that requests get in between."""
        for name, records in found.records.items():
            for start in range(0, len(records), _SLICE):
                part = records[start : start + _SLICE]
                with self._lock:
                    for record in marked(part, self._generation):
                        self._applying.apply(record, name)
                self._positions[name] = part[-1].offset + 1
                self.progress.advance({name: self._positions[name]})
        self._positions.update(found.reached)
        self.progress.advance(found.reached)

    def _ask(self) -> None:
        """Where to begin, of a store of user states that did not answer before. Raises StoreError."""
        self._users_stored = self._users.store.offsets()
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
        items = self._applying.items_from
        if items is not None:
            self._applying.items_from = {name: max(at, items.get(name, 0)) for name, at in self._positions.items()}
        self._applying.users_from = positions_in(held, self._generation)
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

    def _write(self, force: bool) -> None:
        if self._unasked:  # nothing was read
            return
        now = self._clock()
        if force or self._users.dirty >= _MANY_DIRTY or now - self._flushed_at >= FLUSH_MS:
            if self._users.dirty or (force and self._positions != self._applying.users_from):
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
