"""Takes events from a request body into the log, and counts what became of each. It parses by features/event_parser.py.

received = accepted + duplicate + rejected + dead-lettered + dropped: every event of a body ends in exactly one of
them. A body that is no JSON counts as one. Over HTTP nothing is dead-lettered: the caller is told, and keeps it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from features import event_parser
from features.errors import InvalidEvent, LogError, TooLarge
from features.event_log import EventLog
from features.events import Event
from features.records import Offsets, Stream, encode_token, event_record, partitions_in, through_places
from service.answers import EventsAnswer, Rejected
from service.metrics import Metrics
from service.rate import Rate
from service.settings import Settings

STREAM: Stream = "event"
OUTCOMES = ("received", "accepted", "duplicate", "rejected", "dead-lettered", "dropped")


class Intake:
    """Safe from several threads: the log writes what waits together in one transaction."""

    def __init__(
        self,
        event_log: EventLog,
        settings: Settings,
        clock: Callable[[], int],
        metrics: Metrics,
        on_append: Callable[[], None],
    ) -> None:
        """on_append: called after records were written."""
        self._log, self._clock, self._metrics, self._on_append = event_log, clock, metrics, on_append
        self._tenant, self._most = settings.tenant, settings.max_events_per_call
        self._lock = threading.Lock()
        self._rate = Rate()
        self._totals = dict.fromkeys(OUTCOMES, 0)

    def take(self, body: bytes, atomic: bool) -> tuple[EventsAnswer, bool]:
        """Append the events of a body; (answer, whether the call succeeded).

        It succeeds if any event was taken or known, and, with `atomic`, if none was bad: otherwise nothing is
        taken. Raises InvalidEvent where the body as a whole is not JSON, TooLarge, LogError.
        """
        try:
            entries = event_parser.split_body(body)
        except InvalidEvent:
            self._count(received=1, rejected=1)
            raise
        if len(entries) > self._most:
            self._count(received=len(entries), rejected=len(entries))
            raise TooLarge(
                f"{len(entries)} events, the limit is {self._most}",
                value=len(entries),
                hint="send fewer at once",
            )
        parsed, rejected = self._parse(entries)
        if atomic and rejected:
            self._count(received=len(entries), rejected=len(entries))
            return EventsAnswer(0, 0, rejected, None, reason="atomic: nothing was taken"), False
        try:
            places = self._log.append(STREAM, [event_record(event) for event in parsed]) if parsed else []
        except LogError:  # the caller is told (503) and sends them again
            self._count(received=len(entries), rejected=len(rejected), dropped=len(parsed))
            raise
        taken = [at for at in places if at is not None]
        if taken:
            self._on_append()
        duplicates = len(places) - len(taken)
        self._count(received=len(entries), accepted=len(taken), duplicate=duplicates, rejected=len(rejected))
        if not places:
            return EventsAnswer(0, 0, rejected, None), False
        token = encode_token(self._through(taken))
        reason = None if token else "the events went to more partitions than a token names: send fewer at once"
        return EventsAnswer(len(taken), duplicates, rejected, token, reason=reason), True

    def _through(self, taken: list[int]) -> Offsets:
        """Where the events of a call stand: after them, or, where all were known, after everything there is."""
        if taken:
            return through_places(STREAM, taken)
        ends = self._log.end_offsets()
        return {name: ends[name] for name in partitions_in(STREAM, ends)}

    def _parse(
        self, entries: list[dict[str, object] | InvalidEvent]
    ) -> tuple[list[Event], list[Rejected]]:
        now, parsed, rejected = self._clock(), [], []
        for index, entry in enumerate(entries):
            try:
                if isinstance(entry, InvalidEvent):
                    raise entry
                parsed.append(event_parser.parse_event(entry, tenant=self._tenant, now_ms=now))
            except InvalidEvent as error:
                rejected.append(Rejected(index, error.message, error.field, error.value, error.hint))
        return parsed, rejected

    def _count(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                self._totals[name] += count
                self._metrics.events.labels(name).inc(count)
            self._rate.add(self._clock(), counts.get("accepted", 0))

    def totals(self) -> dict[str, int]:
        """Events over HTTP since this process began, by outcome."""
        with self._lock:
            return dict(self._totals)

    def rate(self) -> float:
        """Events taken a second, over the last ten seconds."""
        with self._lock:
            return self._rate.per_second(self._clock())
