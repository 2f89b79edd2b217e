"""Reads the log's events into user states and the catalogue, as soon as they are there. It learns and counts nothing.

One thread. It is woken by appends of this process and looks by itself for those of others. What it has applied is
visible to the next request; it is written to `state.db` and `catalogue.db` a little later, each with the offset it was
read through, so that a kill only makes it read again.

It runs in the ranker, where it keeps both, or the catalogue alone; and beside it (`states.py`), where it keeps the user
states of its share of the partitions and writes them at once, for they are served from there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal, Protocol

from features.catalogue import Catalogue
from features.errors import LogError, OffsetLost, ReplError, StoreError, WentBack
from features.event_log import EventLog
from features.hash_window import HashWindow
from features.records import Many, Offsets, marked, partitions_in
from features.schema import Schema
from service.background import Background
from service.catalogue_saving import CatalogueSaver
from service.catalogue_store import CatalogueStore
from service.event_applying import STREAM, Applying
from service.log_positions import LOG, generation_in, log_key, positions_in, to_store
from service.memory import trim
from service.metrics import Metrics
from service.progress import Progress
from service.shared_users import SharedUserStates
from service.user_state_saving import UserStateSaver

if TYPE_CHECKING:
    from service.encoders import Encoders

log = logging.getLogger(__name__)

Neighbour = Literal["log", "state"]
POLL_SECONDS = 0.025
TAIL_SECONDS = 0.2
"""Longest wait of a log that is told of appends."""
DISCOVER_MS = 30_000
"""Time between two looks for new partitions."""
MANY = 50_000
"""Events read since the last time from which on a backlog was long, and memory is given back."""
_BATCH = 2_000
_SLICE = 32


class Share(Protocol):
    """Which partitions are this process's; may change at any time."""

    @property
    def mine(self) -> frozenset[str]:
        """Names of partitions to read."""

    def know(self, names: Collection[str]) -> None:
        """All partitions that there are."""

    def reads(self, names: Collection[str]) -> None:
        """These are read now. What was read of all others is written: others may have them."""


class Told(Protocol):
    """Who waits in this process for user states that another one keeps."""

    def seen(self, now: int, positions: Offsets) -> None:
        """At `now` (ms) the log ended before these offsets."""


class UserStateConsumer(Background):
    """Applies the event stream from the older of both stores' offsets."""

    def __init__(
        self,
        event_log: EventLog,
        schema: Schema,
        users: SharedUserStates | None,
        catalogue: Catalogue | None,
        store: CatalogueStore | None,
        encoder: Encoders | None,
        offsets: tuple[Offsets | None, Offsets | None],
        lock: threading.Lock,
        metrics: Metrics,
        clock: Callable[[], int],
        seen: HashWindow | None = None,
        *,
        share: Share | None = None,
        told: Told | None = None,
    ) -> None:
        """users: None where another process keeps them. offsets: (users, catalogue) as stored (`log_positions.py`);
        None for users: their store did not say; for the catalogue: another process fills it. seen: ids that counted
        (the log looks: None). share: the partitions to read (None: all); told: who waits for states kept elsewhere."""
        self._log, self._users = event_log, users
        self._saver = CatalogueSaver(catalogue, store, encoder, lock, clock())
        self._user_saver = UserStateSaver(users, lock, clock(), at_once=share is not None)
        self._applying = Applying(event_log, schema, users, catalogue, metrics, clock, seen)
        self._users_stored, self._items_stored = offsets[0] or {}, offsets[1]
        if users is None:
            self._users_stored = offsets[1] or {}
        self._unasked = users is not None and offsets[0] is None
        self._share, self._told = share, told
        self._mine: frozenset[str] = frozenset()
        self.log_key: str | None = None
        """The log that is read, as stored beside offsets (`log_positions.py`); None before it was asked."""
        self._generation = 0
        self._lock, self._metrics, self._clock = lock, metrics, clock
        self.progress = Progress()
        self._positions: Offsets = {}
        self._discovered_at: int | None = None
        self._through = 0
        self._since_relief = 0
        self.failing: Neighbour | None = None
        """What does not answer at the moment: the log, or the files of user state and catalogue."""
        self.stepped = time.monotonic()
        """When the last step ended, well or not."""
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
            count = self.step()
            self.stepped = time.monotonic()
            if not count:
                self._wake.wait(0.3 if self.failing else POLL_SECONDS)
                self._wake.clear()

    def step(self) -> int:
        """Read and apply one batch; returns how many records there were. Failures are counted and tried again."""
        try:
            began = self._clock()
            if self._unasked:
                self._ask()
            if self._users is not None and (self._users.unreachable or self.failing == "state"):
                self._users.probe()
            self._hand_over(began)
            self._discover(began)
            found = self._log.tail(self._positions, _BATCH, TAIL_SECONDS)
            count = sum(map(len, found.records.values()))
            self._take(found)
            self._tell(found, began)
            self._applying.blank_deleted()
            self._saver.encode()
            self._since_relief += count
            caught_up = found.whole and self._since_relief >= MANY
            self._write(force=caught_up, whole=found.whole)
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

    def _tell(self, found: Many, began: int) -> None:
        """Tell who measures, and who waits, what was read since `began` (ms)."""
        for records in found.records.values() if self._through else ():  # it had caught up before: this is news
            if self._told is None:
                self._metrics.delays.applied(records, self._clock())
            else:
                self._metrics.delays.read(records)
        if found.whole:
            self._through = began
            if self._told is not None:
                self._told.seen(began, dict(self._positions))

    def _hand_over(self, now: int) -> None:
        """Write and leave the partitions that are another's now; begin with those that are ours, where the store stands
        and with the states that it holds. Raises StoreError, LogError."""
        if self._share is None or self._users is None:
            return
        mine = self._share.mine
        if mine == self._mine == self._positions.keys():
            self._share.reads(mine)
            return
        self._write(force=True)
        self._user_saver.release()
        left = self._positions.keys() - mine
        self._positions = {name: at for name, at in self._positions.items() if name in mine}
        self._share.reads(self._positions)
        self._ask()
        self._applying.users_from = positions_in(self._users_stored, self._generation)
        self._mine, self._discovered_at = mine, None
        self._discover(now)
        log.info("partitions of user states", extra={"partitions": sorted(self._positions), "left": sorted(left)})

    def _discover(self, now: int) -> None:
        """Begin to follow partitions that were not there before. Raises LogError."""
        if self._discovered_at is not None and 0 <= now - self._discovered_at < DISCOVER_MS:
            return
        self._identify()
        starts = self._log.start_offsets()
        every = partitions_in(STREAM, starts)
        if self._share is not None:
            self._share.know(every)
            every = self._taken(every)
        for name in every:
            if name not in self._positions:
                self._positions[name] = self._begin(name, starts[name])
        self.progress.advance(self._positions)
        self._discovered_at = now

    def _taken(self, every: list[str]) -> list[str]:
        """Of these partitions the ones that this process has taken over (`_hand_over`)."""
        return [name for name in every if name in self._mine]

    def _begin(self, name: str, start: int) -> int:
        """Where to begin with a partition that begins at `start`. Raises LogError."""
        first = self._applying.first_of(name, start)
        if first is None:
            return self._log.end_offsets()[name]
        self._applying.warm(name, first, start)
        return first

    def _identify(self) -> None:
        """See which log this is; one that is not that of the stored offsets is read from its start, and told."""
        key = log_key(self._log, STREAM)
        if key == self.log_key:
            return
        held = self._users_stored if self.log_key is None else self._stored(self._positions)
        generation = generation_in(held, key)
        if key not in held and any(name.startswith(LOG) for name in held):
            log.error("this is another log than that of the user states: it is read from its start")
            self._metrics.failures.labels("log").inc()
        self._applying.users_from = positions_in(held, generation)
        if self._items_stored is not None:
            of_items = generation_in(self._items_stored, key)
            self._applying.items_from = positions_in(self._items_stored, of_items)
        self.log_key, self._generation, self._positions = key, generation, {}
        self.progress.restart({})
        self._user_saver.written = self._applying.users_from

    def _stored(self, positions: Offsets) -> Offsets:
        return to_store(positions, self._generation, self.log_key or "")

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
        """Where the store of user states stands. Raises StoreError."""
        assert self._users is not None
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
        assert self._users is not None
        try:
            self._ask()
        except StoreError as down:
            self._fail(down)
            return
        items = self._applying.items_from
        if items is not None:
            self._applying.items_from = {name: max(at, items.get(name, 0)) for name, at in self._positions.items()}
        self._applying.users_from = positions_in(self._users_stored, self._generation)
        self._user_saver.written = self._applying.users_from
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

    def _write(self, *, force: bool, whole: bool = False) -> None:
        """Write what has changed where it is time; whole: nothing was left to read. Raises StoreError."""
        if self._unasked:  # nothing was read
            return
        now, stored = self._clock(), self._stored(self._positions)
        self._user_saver.save(self._positions, stored, now, force=force, whole=whole)
        self._saver.save(stored, now, force=force)

    def _relieve(self) -> None:
        """After a long backlog: its users, who asked for nothing, leave memory again."""
        self._since_relief = 0
        self._user_saver.release()
        trim()
