"""The event log: the protocol, and which implementation a URL names. It knows no event and no client.

Whatever is accepted, served or cut is a record of a stream; consumers keep their own offsets. The embedded log lies in
`features/event_log_file.py`, its twin on Kafka in `features/event_log_kafka.py`; the scheme of `log_url` chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from features.errors import LogError, SettingsError
from features.records import Many, NewRecord, Offsets, Record, Stream

if TYPE_CHECKING:
    from features.event_log_kafka_url import KafkaAddress

Clock = Callable[[], int]

Promise = Literal["one-transaction", "ids-once", "blanks-users", "retains"]
"""What not every log can keep. one-transaction: an append writes all its records or none. ids-once: an event id
counts once, at append. blanks-users: `blank_user` overwrites. retains: `retain` removes, never at or past `keep`."""

EVERY_PROMISE: frozenset[Promise] = frozenset(("one-transaction", "ids-once", "blanks-users", "retains"))


def system_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Secret(Protocol):
    """A value that is not shown."""

    def get_secret_value(self) -> str: ...


class LogSettings(Protocol):
    """The settings that a log reads (`service/settings.py`)."""

    @property
    def log_url(self) -> str | None: ...
    @property
    def log_user(self) -> str | None: ...
    @property
    def log_password(self) -> Secret | None: ...
    @property
    def tenant(self) -> str: ...
    @property
    def data_dir(self) -> Path: ...
    @property
    def durable(self) -> str: ...
    @property
    def event_retention_days(self) -> float: ...
    @property
    def served_retention_hours(self) -> float: ...
    @property
    def log_max_bytes(self) -> int: ...
    @property
    def dedup_hours(self) -> float: ...
    @property
    def dedup_ids(self) -> int: ...
    @property
    def purchase_window_ms(self) -> int: ...


class EventLog(Protocol):
    """Streams of records in partitions; usable from several threads and several processes.

    What is marked [promise] holds where `promises` names it; docs/kafka.md says what stands in for it elsewhere.
    """

    @property
    def promises(self) -> frozenset[Promise]:
        """Which of the promises this log keeps."""

    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        """Append in one transaction [one-transaction] and return once it survives `kill -9`: places (partition and
        offset as one integer, `features/records.py`), None for a duplicate. A record's key chooses its partition.

        A record whose `id_hash` the stream `event` holds already (24 h or 1M ids) is a duplicate [ids-once]. Raises
        LogError.
        """

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = 64 << 20
    ) -> list[Record]:
        """Records from offset `start` on, in order; empty at the end. Raises OffsetLost before the first offset.

        Offsets are dense when appended, not when read: what expired between imports, or was thinned, is a hole that
        reading passes over. `max_bytes` bounds the bodies, roughly: the batch that reaches it is the last.
        """

    def read_many(self, start: Offsets, until: Offsets, limit: int = 10_000) -> Many:
        """Of every partition that `start` names, the records from there on to `until` (or some more), about `limit` of
        one at most, but something of each that has something. Partitions with nothing before `until` are left out.

        Raises OffsetLost as `read`, LogError.
        """

    def tail(self, start: Offsets, limit: int, wait: float) -> Many:
        """What there is now of the partitions that `start` names; at most about `limit` of each.

        Where there is nothing, a log that is told of appends waits for the first, at most `wait` s; the embedded one
        answers at once. Raises as `read_many`.
        """

    def get(self, stream: Stream, offset: int, partition: int = 0) -> Record | None:
        """One record, or None where it is not (any more)."""

    def end_offsets(self) -> Offsets:
        """The offset that the next record of each stream/partition gets."""

    def start_offsets(self) -> Offsets:
        """The lowest offset that can still be read."""

    def blank_user(self, tenant: str, user: str, before: int | None = None) -> int:
        """Replace her records' content (kind `blank`); offsets stay. Returns how many [blanks-users].

        Hers are events before the offset `before` (that of her deletion; None: all) and what was served to her until
        then. Deletions themselves stay readable.
        """

    def retain(self, now: int, keep: Offsets) -> Mapping[str, int]:
        """Drop what is older than retention and thin `served` beyond the size bound, never at or past `keep` [retains].

        A stream that `keep` does not name loses nothing (dead letters: by age). Returns counts: expired_<stream>,
        thinned_served, bytes.
        """

    def sync(self) -> None:
        """Return once everything appended survives a power loss."""

    def close(self) -> None:
        """Release files and threads."""


def open_log(settings: LogSettings | Path, clock: Clock = system_clock) -> EventLog:
    """The log that `log_url` names, else that of the data directory (a path: with default limits).

    Nothing expires within the purchase window, whatever the retention says. Raises LogError or SettingsError with what
    to do.
    """
    from features.event_log_file import EmbeddedEventLog, LogLimits

    if isinstance(settings, Path):
        return EmbeddedEventLog(settings, LogLimits(), clock)
    if settings.log_url:
        address = kafka_address(settings)
        try:
            from features.event_log_kafka import KafkaEventLog
        except ModuleNotFoundError as error:
            raise _no_client(error) from error
        return KafkaEventLog(address, clock, settings.tenant)
    limits = LogLimits(
        fsync=settings.durable == "fsync",
        event_age_ms=max(int(settings.event_retention_days * 86_400_000), settings.purchase_window_ms),
        served_age_ms=max(int(settings.served_retention_hours * 3_600_000), settings.purchase_window_ms),
        max_bytes=settings.log_max_bytes,
        dedup_age_ms=int(settings.dedup_hours * 3_600_000),
        dedup_ids=settings.dedup_ids,
    )
    return EmbeddedEventLog(settings.data_dir, limits, clock)


def kafka_address(settings: LogSettings) -> KafkaAddress:
    """Where `log_url` points to, with user and password. Raises SettingsError for any other scheme than kafka://."""
    from features.event_log_kafka_url import parse_address

    password = settings.log_password.get_secret_value() if settings.log_password is not None else None
    return parse_address(settings.log_url or "", settings.log_user, password)


def make_kafka_topics(settings: LogSettings, partitions: int, replication: int) -> list[str]:
    """Make the missing topics of `log_url` with the settings' retention; a line for each one made and each difference
    of one that is there, which stays as it is. Raises LogError, SettingsError.
    """
    from features.event_log_kafka_topics import topic_plans

    address = kafka_address(settings)
    try:
        from features.event_log_kafka import make_topics
    except ModuleNotFoundError as error:
        raise _no_client(error) from error
    plans = topic_plans(
        partitions,
        event_retention_ms=int(settings.event_retention_days * 86_400_000),
        served_retention_ms=int(settings.served_retention_hours * 3_600_000),
        purchase_window_ms=settings.purchase_window_ms,
    )
    return make_topics(address, plans, replication)


def _no_client(error: ModuleNotFoundError) -> Exception:
    if error.name is None or error.name.split(".")[0] != "kafka":
        return error
    return SettingsError(
        "log_url names Kafka, but its client is not installed", field="log_url",
        hint="install the extra: pip install 'repl-ranker[kafka]'",
    )  # fmt: skip


def dead_letter(
    log: EventLog, source: str, offset: int | None, reason: str, raw: bytes, tenant: str, now: int
) -> None:
    """Put what could not be read on the stream `dead-letter`, with where it came from and why. Raises LogError."""
    import orjson

    body = {
        "source": source,
        "offset": offset,
        "reason": reason[:1_000],
        "raw": raw[:8_192].decode("utf-8", "replace"),
    }
    if not tenant:
        raise LogError("a dead letter needs a tenant")
    log.append("dead-letter", [NewRecord("dead-letter", tenant, now, source, orjson.dumps(body))])
