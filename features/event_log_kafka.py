"""The event log on Apache Kafka: `EventLog` over one topic a stream. The only file that imports kafka-python.

Appends go through one idempotent producer and count once all in-sync replicas have them (acks=all); reading assigns a
partition and seeks, and the broker keeps no offsets of ours. Every call is bounded by the address's `timeout_ms`.

What Kafka cannot keep of the protocol (`promises` is empty; docs/kafka.md says what stands in for each):
- ids are not counted at append: a record may be there twice, and the trainer's window of ids counts it once;
- an append of several records is no transaction: after an error some of them may be on the log;
- `blank_user` overwrites nothing, and `retain` removes nothing: both are the topics' retention.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as failures
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.net.compat import KafkaNetClient

from features import event_log_kafka_kernels
from features.errors import LogError, OffsetLost
from features.event_log import Clock, Promise, system_clock
from features.event_log_kafka_batches import taken_apart
from features.event_log_kafka_errors import hint, said
from features.event_log_kafka_pool import Budget, Readers, chunks
from features.event_log_kafka_reading import Taken, gather, stand, tail
from features.event_log_kafka_records import headers_of, record_of
from features.event_log_kafka_topics import TopicPlan, differences
from features.event_log_kafka_url import SETTING, KafkaAddress
from features.records import STREAMS, Many, NewRecord, Offsets, Record, Stream, offset_key, place, split_key

_MOST_BYTES = 64 << 20
_DESCRIBE_SECONDS = 60.0


@dataclass(frozen=True)
class Identity:
    """Which log this is: a topic that was deleted and made again has another id, and offsets mean nothing there."""

    cluster: str
    topics: Mapping[Stream, str]
    partitions: Mapping[Stream, int]


class KafkaEventLog:
    """`EventLog` on the topics of a prefix. Usable from several threads. See the module's docstring."""

    promises: frozenset[Promise] = frozenset()

    def __init__(self, address: KafkaAddress, clock: Clock = system_clock, tenant: str = "default") -> None:
        """Look for the topics. `tenant` is that of events that ordinary clients sent. Raises LogError."""
        self.address, self._clock, self._tenant = address, clock, tenant
        self._options = address.client_options()
        self._streams = {topic: stream for stream, topic in address.topics().items()}
        self._seconds = address.timeout_ms / 1_000
        self._lock = threading.Lock()
        self._waiting = Budget()
        self._producer: Any = None
        self._readers = Readers(self._make_reader)
        self._closed = False
        self._identity, self._looked_at = self.identity(), time.monotonic()
        event_log_kafka_kernels.warm()  # now, not when the first record comes

    def identity(self) -> Identity:
        """Cluster, topic ids and partitions as the broker tells them now. Raises LogError where a topic is missing."""
        with _explained(self.address, "cannot be reached"), _admin(self.address) as admin:
            cluster = str(admin.describe_cluster()["cluster_id"])
            topics = {one["name"]: one for one in admin.describe_topics(list(self.address.topics().values()))}
        found = {stream: topics.get(name, {}) for stream, name in self.address.topics().items()}
        missing = [self.address.topic(stream) for stream, topic in found.items() if not topic.get("partitions")]
        if missing:
            refused = failures.TopicAuthorizationFailedError.errno
            denied = [name for name in missing if topics.get(name, {}).get("error_code") == refused]
            text = "does not let us describe" if denied else "has no topic"
            advice = "give the user the ACLs Describe, Read, Write" if denied else "make them: repl-ranker topics"
            raise LogError(
                f"the log {text} {', '.join(denied or missing)}",
                field=SETTING,
                value=self.address.shown,
                hint=advice,
            )
        return Identity(
            cluster,
            {stream: str(topic["topic_id"]) for stream, topic in found.items()},
            {stream: len(topic["partitions"]) for stream, topic in found.items()},
        )

    def append(self, stream: Stream, records: Sequence[NewRecord]) -> list[int | None]:
        """See `EventLog.append`; no place is None.

        Returns once every record is acknowledged by all in-sync replicas. After a LogError some may be on the log.
        """
        found: list[int | None] = []
        with _explained(self.address, "cannot be written"):
            for part, size in chunks(records):
                with self._waiting.taken(size, self._seconds):
                    found += self._send(stream, part)
        return found

    def _send(self, stream: Stream, records: Sequence[NewRecord]) -> list[int]:
        topic, now, producer = self.address.topic(stream), self._clock(), self._open_producer()
        all_headers = [headers_of(stream, record, now) for record in records]
        waiting = [
            producer.send(topic, record.body, record.key.encode() or None, headers, timestamp_ms=now)
            for record, headers in zip(records, all_headers, strict=True)
        ]
        deadline = time.monotonic() + 2 * self._seconds  # the producer itself gives up after half of it
        error: Exception | None = None
        for one in waiting:
            try:
                one.get(max(0.0, deadline - time.monotonic()))
            except failures.KafkaError as failed:
                error = error or failed
        if error is None:
            return [place(one.value.partition, one.value.offset) for one in waiting]
        if not isinstance(error, _OF_THE_RECORD):
            self._drop_producer(producer)
        lost = sum(not one.succeeded() for one in waiting)
        raise LogError(
            f"{lost} of {len(records)} records were not acknowledged by {self.address.shown}: {said(error)}",
            field=SETTING,
            value=self.address.shown,
            hint=f"{hint(error, self.address)} Then send them again: what was written already counts once, by its id",
        ) from error

    def _drop_producer(self, producer: Any) -> None:
        """After a batch was given up the client's sequence of batches has a gap, which it may never get over (seen with
        3.0.12): the next append starts with a new one. What others wait for in the old one fails, unacknowledged.
        """
        with self._lock:
            ours = self._producer is producer
            if ours:
                self._producer = None
        if ours:
            _end(producer, 0.0)

    def _open_producer(self) -> Any:
        with self._lock:
            if self._closed:
                raise LogError("the log is closed")
            if self._producer is None:
                self._producer = _made(
                    KafkaProducer,
                    **self._options,
                    enable_idempotence=True,
                    acks="all",
                    delivery_timeout_ms=self.address.timeout_ms,
                    max_block_ms=self.address.timeout_ms,
                    batch_size=256 << 10,
                    allow_auto_create_topics=False,
                    metrics_enabled=False,
                )
            return self._producer

    def read(
        self, stream: Stream, start: int, limit: int = 10_000, partition: int = 0, max_bytes: int = _MOST_BYTES
    ) -> list[Record]:
        """See `EventLog.read`. Raises OffsetLost also past the end: then this is not the log that `start` is of.

        A message that is no record is returned as one of kind `unreadable`. Offsets have holes where topics are
        compacted or written in transactions.
        """
        if partition >= self._partitions()[stream]:
            return []
        at = TopicPartition(self.address.topic(stream), partition)
        with _explained(self.address, "cannot be read"), self._standing({at: start}) as reader:
            end = self._ask(reader.end_offsets, [at])[at]
            if start >= end:
                self._check_range(reader, at, start)
                return []
            taken = gather(reader, {at: end}, limit, max_bytes, self._seconds, self._record)
            return taken.records.get(at, [])

    def read_many(self, start: Offsets, until: Offsets, limit: int = 10_000) -> Many:
        """See `EventLog.read_many`: of all partitions at once. `limit` is not exact."""
        ends = {self._at(name): until.get(name, 0) for name, at in start.items() if at < until.get(name, 0)}
        if not ends:
            return Many({}, {})
        starts = {at: start[self._name(at)] for at in ends}
        with _explained(self.address, "cannot be read"), self._standing(starts) as reader:
            return self._many(gather(reader, ends, limit, _MOST_BYTES, self._seconds, self._record))

    def tail(self, start: Offsets, limit: int, wait: float) -> Many:
        """See `EventLog.tail`: the broker answers as soon as something is appended."""
        starts = {self._at(name): at for name, at in start.items()}
        if not starts:
            return Many({}, {})
        with _explained(self.address, "cannot be read"), self._standing(starts) as reader:
            return self._many(tail(reader, list(starts), limit, wait, self._record))

    @contextmanager
    def _standing(self, starts: Mapping[TopicPartition, int]) -> Iterator[Any]:
        """A consumer that goes on from these offsets. Raises OffsetLost where they cannot be read."""
        with self._readers.one(tuple(starts)) as reader:
            stand(reader, starts)
            try:
                yield reader
            except (failures.OffsetOutOfRangeError, failures.LogTruncationError):
                for at, start in starts.items():
                    self._check_range(reader, at, start)
                raise

    def _record(self, at: TopicPartition, message: Any) -> Record:
        return record_of(self._streams[at.topic], message, self._tenant)

    def _many(self, taken: Taken) -> Many:
        records = {self._name(at): found for at, found in taken.records.items() if found}
        return Many(records, {self._name(at): offset for at, offset in taken.reached.items()}, taken.whole)

    def _at(self, name: str) -> TopicPartition:
        stream, partition = split_key(name)
        return TopicPartition(self.address.topic(stream), partition)

    def _name(self, at: TopicPartition) -> str:
        return offset_key(self._streams[at.topic], at.partition)

    def _check_range(self, reader: Any, at: TopicPartition, start: int) -> None:
        first, end = (self._ask(ask, [at])[at] for ask in (reader.beginning_offsets, reader.end_offsets))
        if first <= start <= end:
            return
        name = self._name(at)
        why = f"begins at offset {first}: what lies before has expired" if start < first else f"ends at offset {end}"
        raise OffsetLost(
            f"{name} {why}",
            field="offset",
            value=start,
            hint="resume from the first offset, or later" if start < first
            else "was the topic made again, or is this another cluster? Compare its topic id with the one recorded",
        )  # fmt: skip

    def get(self, stream: Stream, offset: int, partition: int = 0) -> Record | None:
        """See `EventLog.get`."""
        try:
            found = self.read(stream, offset, 1, partition)
        except OffsetLost:
            return None
        return found[0] if found and found[0].offset == offset else None

    def end_offsets(self) -> Offsets:
        """See `EventLog.end_offsets`: of every partition, without transactions that are still open."""
        with _explained(self.address, "cannot be read"), self._readers.one(None) as reader:
            return self._named(self._ask(reader.end_offsets, self._all()))

    def start_offsets(self) -> Offsets:
        """See `EventLog.start_offsets`."""
        with _explained(self.address, "cannot be read"), self._readers.one(None) as reader:
            return self._named(self._ask(reader.beginning_offsets, self._all()))

    def _ask(self, offsets: Any, at: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Offsets of all of `at`: the client leaves out those whose leader it does not know yet, and learns it."""
        until = time.monotonic() + self._seconds
        while True:
            try:
                found: dict[TopicPartition, int] = offsets(at, self.address.timeout_ms)
                return found
            except KeyError as missing:
                if time.monotonic() > until:
                    raise failures.KafkaTimeoutError(f"no broker leads {missing}") from missing
            time.sleep(0.02)

    def _partitions(self) -> Mapping[Stream, int]:
        """Partitions of each stream; looked up anew once a minute, because topics may be given more."""
        if time.monotonic() - self._looked_at > _DESCRIBE_SECONDS:
            self._identity, self._looked_at = self.identity(), time.monotonic()
        return self._identity.partitions

    def _all(self) -> list[TopicPartition]:
        counts = self._partitions()
        return [TopicPartition(self.address.topic(one), n) for one in STREAMS for n in range(counts[one])]

    def _named(self, offsets: Mapping[TopicPartition, int]) -> Offsets:
        return {self._name(at): offset for at, offset in offsets.items()}

    def blank_user(self, tenant: str, user: str, before: int | None = None) -> int:
        """Not promised: a topic cannot be overwritten. Returns 0; her content goes with the topics' retention.

        Her deletion is itself a record, and state that is rebuilt from the log meets it.
        """
        return 0

    def retain(self, now: int, keep: Offsets) -> Mapping[str, int]:
        """Not promised: the broker drops by the topics' retention, and knows no `keep`. Returns nothing."""
        return {}

    def sync(self) -> None:
        """Nothing is left to do: an append returns when all in-sync replicas have it, which is what a power loss of
        one machine leaves. (With one replica, what the broker's system has not written yet is lost with the power.)
        """

    def close(self) -> None:
        """End the clients. What was acknowledged is on the log; an append under way may fail."""
        with self._lock:
            producer, self._producer, closed, self._closed = self._producer, None, self._closed, True
        if closed:
            return
        self._readers.close()
        if producer is not None:
            _end(producer, self._seconds)

    def _make_reader(self) -> Any:
        made = _made(
            KafkaConsumer,
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            fetch_max_bytes=16 << 20,
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=200,
            metrics_enabled=False,
        )
        return taken_apart(made)


def make_topics(address: KafkaAddress, plans: Mapping[Stream, TopicPlan], replication: int = 1) -> list[str]:
    """Make the topics that are missing; a line for each that was made and each difference of one that is there.

    Nothing that exists is changed: partitions move keys, and retention is the owner's. Raises LogError.
    """
    names = {address.topic(stream): plans[stream] for stream in STREAMS if stream in plans}
    with _explained(address, "cannot be set up"), _admin(address) as admin:
        there = {one["name"]: one for one in admin.describe_topics(list(names)) if one["partitions"]}
        missing = {
            name: {"num_partitions": plan.partitions, "replication_factor": replication,
                   "configs": plan.configs(replication)}
            for name, plan in names.items() if name not in there
        }  # fmt: skip
        if missing:
            admin.create_topics(missing, timeout_ms=address.timeout_ms, wait_for_metadata=True)
        lines = [f"{name}: made, {names[name].partitions} partitions" for name in missing]
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
        configs = admin.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
    for name, topic in sorted(there.items()):
        values = {key: one["value"] for key, one in configs.get(name, {}).items()}
        parts = topic["partitions"]
        lines += differences(name, names[name], replication, len(parts), len(parts[0]["replica_nodes"]), values)
    return lines


_OF_THE_RECORD = (
    failures.MessageSizeTooLargeError,
    failures.RecordListTooLargeError,
    failures.InvalidTimestampError,
    failures.AuthorizationError,
)


def _end(producer: Any, seconds: float) -> None:
    """Close a producer. Its own close waits for every record first, and fails and stays open where one never comes."""
    try:
        producer.flush(seconds)
    except failures.KafkaError:
        producer._sender.force_close()
    with suppress(failures.KafkaError):
        producer.close(timeout=2.0)


def _made(kind: Any, **options: Any) -> Any:
    """A client of kafka-python, without the thread and the sockets that its constructor leaves where it fails."""
    nets: list[Any] = []

    def net(**config: Any) -> Any:
        nets.append(KafkaNetClient(**config))
        return nets[-1]

    try:
        return kind(**options, kafka_client=net)
    except BaseException:
        for one in nets:
            with suppress(Exception):
                one.close()
        raise


@contextmanager
def _admin(address: KafkaAddress) -> Iterator[Any]:
    client = _made(KafkaAdminClient, **address.client_options())
    try:
        yield client
    finally:
        with suppress(failures.KafkaError):
            client.close()


@contextmanager
def _explained(address: KafkaAddress, what: str) -> Iterator[None]:
    """The client's errors as LogError: what, where, what to do."""
    try:
        yield
    except (failures.KafkaError, OSError) as error:  # among OSError: TimeoutError of `gather`
        raise LogError(
            f"the log {what}: {said(error)}", field=SETTING, value=address.shown, hint=hint(error, address)
        ) from error
