"""What one record of the event stream does to user states and the catalogue, or to that of the two that this process
keeps. It reads no stream and stores nothing: `user_state_consumer.py` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from features import events
from features.catalogue import Catalogue
from features.errors import LogError, ReplError, StoreError
from features.event_log import EventLog, dead_letter
from features.hash_window import HashWindow
from features.keys import actor_key, item_key
from features.records import Offsets, Record, Stream, split_key
from features.schema import Schema
from service.metrics import Metrics
from service.settings import Settings
from service.shared_users import SharedUserStates

log = logging.getLogger(__name__)

STREAM: Stream = "event"
WARM_IDS = 20_000
"""Records of each partition read again at start, to know the ids of what lies just before."""
_BATCH = 2_000


def ids_seen(event_log: EventLog, settings: Settings) -> HashWindow | None:
    """The window of event ids that user states need, where the log itself lets an id be there twice."""
    if "ids-once" in event_log.promises:
        return None
    return HashWindow(settings.dedup_ids, int(settings.dedup_hours * 3_600_000))


class Applying:
    """Applies records to user states and catalogue, each from its own offsets on."""

    def __init__(
        self,
        event_log: EventLog,
        schema: Schema,
        users: SharedUserStates | None,
        catalogue: Catalogue | None,
        metrics: Metrics,
        clock: Callable[[], int],
        seen: HashWindow | None = None,
    ) -> None:
        """users, catalogue: None where another process keeps them. seen: ids that counted (the log looks: None)."""
        self._log, self._schema, self._users, self._catalogue = event_log, schema, users, catalogue
        self._metrics, self._clock, self._seen = metrics, clock, seen
        self._deleted: list[tuple[str, str, int]] = []
        self.users_from: Offsets = {}
        self.items_from: Offsets | None = None
        """From which offsets on a record counts for user states, and for the catalogue (None: another process fills
        it)."""

    @property
    def _tells(self) -> bool:
        """Whether it is this process, of several, that counts and reports what is read."""
        return self.items_from is not None if self._users is None else self._users.writes

    def first_of(self, name: str, start: int) -> int | None:
        """The first offset of a partition that one of the two has to read, None where neither is kept here; start: of
        what nobody has read yet."""
        readers = [self.users_from] if self._users is not None else []
        readers += [self.items_from] if self.items_from is not None else []
        return min((one.get(name, start) for one in readers), default=None)

    def warm(self, name: str, position: int, first: int) -> None:
        """Learn the ids of what was read before, so that one that is repeated after a restart counts once.

        position: where reading begins; first: the oldest offset that there is. Raises LogError."""
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

    def apply(self, record: Record, name: str) -> None:
        """Apply one record of the partition `name`, under the lock. What cannot be read becomes a dead letter.

        Raises StoreError, LogError: the record is then to be applied again."""
        offset = record.offset
        try:
            if record.kind == "interaction":
                self._interaction(record, name)
            elif record.kind == "item":
                self._item(record, name)
            elif record.kind == "user":
                self._user(record, name)
            if self._tells:
                self._metrics.consumed.labels(record.kind).inc()
        except ReplError as error:
            if isinstance(error, StoreError | LogError):
                raise
            self._metrics.failures.labels("event").inc()
            if self._tells:
                dead_letter(self._log, name, offset, error.message, record.body, record.tenant, self._clock())
            log.error("an event could not be applied", extra={"offset": offset, "reason": error.message})

    def blank_deleted(self) -> None:
        """Blank the records of users whose deletion was just read: again after a kill, until offsets are written.

        Raises LogError; the rest is still to be blanked then."""
        while self._deleted:
            count = self._log.blank_user(*self._deleted[0])
            self._deleted.pop(0)
            log.info("a user was deleted", extra={"records": count})

    def _for_items(self, record: Record, name: str) -> Catalogue | None:
        """The catalogue, where it is kept here and has not yet what this record says of items."""
        taken = self.items_from is not None and record.offset >= self.items_from.get(name, 0)
        return self._catalogue if taken else None

    def _item(self, record: Record, name: str) -> None:
        catalogue = self._for_items(record, name)
        event = events.from_bytes(record.body) if catalogue is not None else None
        if catalogue is not None and isinstance(event, events.ItemEvent):
            catalogue.apply(event)

    def _user(self, record: Record, name: str) -> None:
        if self._users is None or record.offset < self.users_from.get(name, 0):
            return
        event = events.from_bytes(record.body)
        if isinstance(event, events.UserEvent) and event.op == "delete":
            self._users.forget(actor_key(event.user, None), record.place)
            if self._users.writes:
                self._deleted.append((record.tenant, event.user, record.place))

    def _interaction(self, record: Record, name: str) -> None:
        catalogue = self._for_items(record, name)
        if self._users is None and catalogue is None:
            return
        event = events.from_bytes(record.body)
        if not isinstance(event, events.InteractionEvent):
            return
        if catalogue is not None:
            catalogue.intern(event.item)
        kind = self._schema.behaviour(event.type)
        key = actor_key(event.user, event.session)
        if self._users is None or key == 0 or kind < 0:
            return
        first = self._first(event, record)  # also of what only the catalogue still has to read: a copy may follow
        if not first or record.offset < self.users_from.get(name, 0):
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
