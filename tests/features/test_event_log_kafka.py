"""The log on Kafka where it differs from the embedded one: partitions, lost offsets, foreign records, brokers that are
not there, not ours, or killed. Against a real broker.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from deploy.local.servers import Kafka, ServerError
from features.errors import LogError, OffsetLost, SettingsError
from features.event_log import make_kafka_topics, open_log
from features.event_log_kafka import KafkaEventLog, make_topics
from features.event_log_kafka_pool import Budget
from features.event_log_kafka_topics import DAY_MS, TopicPlan, topic_plans
from features.event_log_kafka_url import KafkaAddress, parse_address
from features.records import NewRecord, Record, Stream, encode_token, partition_and_offset
from service.settings import Settings
from tests.conftest import KAFKA_USERS, unavailable

SECONDS = 3.0  # timeout_ms below
PARTITIONS = 3
# kafka-python leaves the socket of a connection that was refused to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Clients that failed or were closed leave nothing running; sockets of refused connections go with the garbage."""
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 5
    while more := [one.name for one in threading.enumerate() if one not in before and one.is_alive()]:
        assert time.monotonic() < until, more
        time.sleep(0.02)
    gc.collect()


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    """A prefix of its own, with topics."""
    found = parse_address(f"{kafka_url}/{uuid.uuid4().hex}?timeout_ms=8000")
    make_topics(found, topic_plans(PARTITIONS))
    return found


@pytest.fixture
def log(address: KafkaAddress) -> Iterator[KafkaEventLog]:
    with closing(KafkaEventLog(address)) as found:
        yield found


@pytest.fixture
def sender(address: KafkaAddress) -> Iterator[Callable[..., None]]:
    """An ordinary client."""
    producer = KafkaProducer(bootstrap_servers=list(address.servers))

    def send(stream: Stream, value: bytes | None, **more: Any) -> None:
        producer.send(address.topic(stream), value, **more).get(10)

    yield send
    producer.close()


def record(n: int, key: str = "u") -> NewRecord:
    return NewRecord("interaction", "default", n, key, b'{"n":%d}' % n)


def everything(log: KafkaEventLog, stream: Stream = "event") -> list[Record]:
    """All records, partition by partition, in small batches."""
    found: list[Record] = []
    for partition in range(log.identity().partitions[stream]):
        at = log.start_offsets()[f"{stream}/{partition}"]
        while part := log.read(stream, at, 1_000, partition):
            found += part
            at = part[-1].offset + 1
    return found


def test_keys_choose_the_partition_and_keep_their_order(log: KafkaEventLog) -> None:
    places = log.append("event", [record(n, f"u{n % 10}") for n in range(300)])
    by_key: dict[str, list[int]] = defaultdict(list)
    where: dict[str, set[int]] = defaultdict(set)
    for one in everything(log):
        by_key[one.key].append(one.timestamp)
        where[one.key].add(one.partition)
        assert places[one.timestamp] == one.place
    assert all(times == sorted(times) for times in by_key.values())
    assert all(len(partitions) == 1 for partitions in where.values())
    assert len({partition_and_offset(at or 0)[0] for at in places}) == PARTITIONS
    ends = log.end_offsets()
    assert sum(ends[f"event/{n}"] for n in range(PARTITIONS)) == 300
    assert (ends["cut/0"], ends["control/0"]) == (0, 0)
    assert encode_token({name: at for name, at in ends.items() if name.startswith("event/")})
    log.append("cut", [record(n, f"u{n}") for n in range(9)])
    assert [one.timestamp for one in log.read("cut", 0)] == list(range(9))


def test_several_partitions_are_read_at_once(log: KafkaEventLog) -> None:
    log.append("event", [record(n, f"u{n % 10}") for n in range(5_000)])
    ends = {name: at for name, at in log.end_offsets().items() if name.startswith("event/")}
    whole = log.read_many(dict.fromkeys(ends, 0), ends, 100_000)
    assert sorted(one.timestamp for part in whole.records.values() for one in part) == list(range(5_000))
    assert whole.reached == ends
    some = log.read_many(dict.fromkeys(ends, 10), ends, 600)
    assert all(some.records[name][0].offset == 10 for name in ends)
    assert all(some.reached[name] == some.records[name][-1].offset + 1 for name in ends)
    assert log.read_many(ends, ends, 600).reached == {}
    at, got = dict.fromkeys(ends, 0), 0
    while not (part := log.tail(at, 2_000, 0.2)).whole:
        at, got = at | part.reached, got + sum(map(len, part.records.values()))
    assert got + sum(map(len, part.records.values())) == 5_000
    late = threading.Timer(0.1, log.append, ("event", [record(7_777, "late")]))
    late.start()
    assert [one.timestamp for one in next(iter(log.tail(ends, 10, 5.0).records.values()))] == [7_777]
    late.join()
    with pytest.raises(OffsetLost, match="ends at offset"):
        log.tail({"event/0": 10_000}, 10, 1.0)


def test_many_threads_append_and_read_at_once(log: KafkaEventLog) -> None:
    told: dict[int, int | None] = {}

    def work(name: int) -> None:
        for n in range(10):
            told[100 * name + n] = log.append("event", [record(100 * name + n, f"u{name}")])[0]
            log.read("event", 0, partition=name % PARTITIONS)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.timestamp: one.place for one in everything(log)} == told


def test_lost_offsets_are_told_and_never_jumped_over(log: KafkaEventLog, address: KafkaAddress) -> None:
    log.append("control", [record(n) for n in range(10)])
    admin = KafkaAdminClient(bootstrap_servers=list(address.servers))
    admin.delete_records({TopicPartition(address.topic("control"), 0): 4})
    admin.close()
    assert log.start_offsets()["control/0"] == 4
    with pytest.raises(OffsetLost, match="control/0 begins at offset 4: what lies before has expired"):
        log.read("control", 3)
    assert log.get("control", 3) is None
    assert [one.offset for one in log.read("control", 4)] == list(range(4, 10))
    assert log.read("control", 10) == []
    with pytest.raises(OffsetLost, match=r"control/0 ends at offset 10.*made again"):
        log.read("control", 11)


def test_a_topic_that_was_made_again_has_another_id(log: KafkaEventLog, address: KafkaAddress) -> None:
    before = log.identity()
    admin = KafkaAdminClient(bootstrap_servers=list(address.servers))
    admin.delete_topics([address.topic("cut")])
    until = time.monotonic() + 10
    while address.topic("cut") in admin.list_topics():
        assert time.monotonic() < until
        time.sleep(0.05)
    admin.close()
    with pytest.raises(LogError, match=r"no topic .*\.cut .*make them: repl-ranker topics"):
        log.identity()
    assert make_topics(address, topic_plans(PARTITIONS)) == [f"{address.topic('cut')}: made, 1 partitions"]
    after = log.identity()
    assert (before.cluster, before.partitions) == (after.cluster, after.partitions)
    assert {name for name in before.topics if before.topics[name] != after.topics[name]} == {"cut"}


def test_a_ranker_whose_clock_is_ahead_moves_no_window_of_the_others(address: KafkaAddress) -> None:
    hour = 3_600_000
    with closing(KafkaEventLog(address, lambda: int(time.time() * 1_000) + hour)) as ahead:
        then = int(time.time() * 1_000) + hour
        (at,) = ahead.append("event", [NewRecord("interaction", "default", then, "u", b"{}")])
        assert at is not None
        found = ahead.get("event", *reversed(partition_and_offset(at)))
    assert found is not None
    assert found.append_time < time.time() * 1_000 + hour / 2, "at most the broker's"
    assert found.effective_time == found.append_time


def test_an_event_of_an_ordinary_client_is_an_event(log: KafkaEventLog, sender: Callable[..., None]) -> None:
    plain = b'{"id":"1","timestamp":"2026-01-31T12:00:00Z","event":"interaction","type":"click","item":7,"user":"anna"}'
    began = time.time() * 1_000
    sender("event", plain, key=b"anna", timestamp_ms=int(began) + 3_000_000)
    (one,) = everything(log)
    assert (one.kind, one.tenant, one.key, one.timestamp) == ("interaction", "default", "anna", 1_769_860_800_000)
    assert not one.imported
    assert began - 1_000 <= one.append_time <= time.time() * 1_000 + 1_000, "the broker's clock, not the client's"
    assert msgspec.json.decode(one.body)["item"] == "7"


def test_what_cannot_be_decoded_is_told_in_its_place(log: KafkaEventLog, sender: Callable[..., None]) -> None:
    ours = [("v", b"1"), ("kind", b"cut"), ("tenant", b"t"), ("timestamp", b"1"), ("append_time", b"2")]
    log.append("cut", [record(1)])
    sender("cut", b"\xffno record")
    sender("cut", b"{}", headers=[*ours, ("stream", b"control")])
    sender("cut", b"{}", headers=ours)
    sender("cut", b"{}", headers=[*ours[:3], ("timestamp", b"soon"), *ours[4:], ("stream", b"cut")])
    sender("cut", None, key=b"k", headers=[*ours, ("stream", b"cut")])
    log.append("cut", [record(2)])
    found = log.read("cut", 0)
    assert [one.offset for one in found] == list(range(7))
    assert [one.kind for one in found] == ["interaction", *["unreadable"] * 5, "interaction"]
    bodies = [msgspec.json.decode(one.body) for one in found[1:6]]
    assert bodies[0] == {
        "source": "cut/0", "offset": 1, "reason": "no headers of a record", "raw": "\ufffdno record"
    }  # fmt: skip
    reasons = [body["reason"] for body in bodies[1:]]
    assert [word in reason for word, reason in zip(("'control'", "stream", "soon", "no content"), reasons, strict=True)]
    sender("event", b'{"id": "1", "event": "dance"}')
    assert "unknown event" in msgspec.json.decode(everything(log)[0].body)["reason"]


def test_a_newer_format_is_refused_by_number_and_not_skipped(log: KafkaEventLog, sender: Callable[..., None]) -> None:
    log.append("cut", [record(1)])
    sender("cut", b"{}", headers=[("v", b"2")])
    assert [one.offset for one in log.read("cut", 0)] == [0]
    with pytest.raises(LogError, match="cut/0 has a record of format version 2 at offset 1; this code reads 1"):
        log.read("cut", 1)


def test_topics_are_made_once_and_differences_are_told(kafka_url: str) -> None:
    address = parse_address(f"{kafka_url}/{uuid.uuid4().hex}")
    plans = topic_plans(2, changes={"control": TopicPlan(9, None, compact=True)})
    assert len(make_topics(address, plans)) == 5
    assert make_topics(address, plans) == []
    longer = make_topics(address, topic_plans(4, event_retention_ms=100 * DAY_MS))
    assert f"{address.topic('event')}: partitions is 2, planned 4" in longer
    assert f"{address.topic('event')}: retention.ms is {90 * DAY_MS}, planned {100 * DAY_MS}" in longer
    assert f"{address.topic('control')}: cleanup.policy is compact, planned delete" in longer
    assert not any("control: partitions" in line for line in longer)  # one, whatever was asked for
    assert make_topics(address, plans) == []  # nothing was changed


def test_settings_choose_the_log_and_make_its_topics(kafka_url: str, data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir, log_url=f"{kafka_url}/{uuid.uuid4().hex}", event_retention_days=0.1)
    with pytest.raises(LogError, match=r"no topic .*make them: repl-ranker topics"):
        open_log(settings)
    assert len(make_kafka_topics(settings, 2, 1)) == 5
    with closing(open_log(settings)) as log:
        assert isinstance(log, KafkaEventLog)
        assert "event/1" in log.end_offsets()
    with pytest.raises(LogError, match="closed"):
        log.append("event", [record(1)])
    assert list(data_dir.iterdir()) == []


def test_the_embedded_log_loads_no_client(root: Path, data_dir: Path) -> None:
    code = (
        "import sys, pathlib, features.event_log as e; e.open_log(pathlib.Path(sys.argv[1])).close();"
        "print('kafka' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(data_dir)], cwd=root, capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


@pytest.mark.parametrize(
    ("options", "says"),
    [("", "nobody listens at"), ("&tls=true", "nobody listens at")],
)
def test_a_wrong_port_is_told_in_time(options: str, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(LogError, match=says) as failed:
        KafkaEventLog(parse_address(f"kafka://127.0.0.1:1/shop?timeout_ms=1000{options}"))
    assert failed.value.field == "log_url"
    assert time.monotonic() - began < 5


def test_tls_to_a_plain_port_is_told_in_time(kafka_url: str) -> None:
    began = time.monotonic()
    with pytest.raises(LogError, match=r"somebody listens there, but does not answer us.*tls="):
        KafkaEventLog(parse_address(f"{kafka_url}/shop?timeout_ms=1000&tls=true"))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_user_and_password_let_in(kafka: Kafka, mechanism: str) -> None:
    url = f"kafka://{kafka.sasl_address}/{uuid.uuid4().hex}?timeout_ms=8000&sasl={mechanism}"
    ((user, password),) = KAFKA_USERS.items()
    address = parse_address(url, user, password)
    assert password not in repr(address)
    make_topics(address, topic_plans(1))
    with closing(KafkaEventLog(address)) as log:
        assert log.append("event", [record(1)]) == [0]
        assert log.read("event", 0)[0].timestamp == 1


def test_a_wrong_password_is_told_in_time(kafka: Kafka) -> None:
    url = f"kafka://{kafka.sasl_address}/shop?timeout_ms=1500&sasl=SCRAM-SHA-512"
    with pytest.raises(LogError, match="log_user and log_password"):
        KafkaEventLog(parse_address(url, "anna", "wrong"))


def sent(log: KafkaEventLog, name: str, stop: threading.Event, acked: dict[str, list[int]], errors: list[str]) -> None:
    """A sender as shops are: what was not acknowledged is sent again."""
    at = 0
    while not stop.is_set():
        batch = [record(n, name) for n in range(at, at + 20)]
        try:
            log.append("event", batch)
        except LogError as error:
            errors.append(str(error))
            continue
        acked[name] += [one.timestamp for one in batch]
        at += 20


def test_a_killed_broker_loses_nothing(tmp_path: Path) -> None:
    """kill -9 in the middle of appends: each call ends in time, and the log goes on by itself afterwards."""
    server = Kafka(tmp_path / "kafka")
    try:
        server.start()
    except ServerError as error:
        unavailable(str(error))
    try:
        address = parse_address(f"kafka://{server.address}/crash?timeout_ms={SECONDS * 1000:.0f}")
        make_topics(address, topic_plans(PARTITIONS))
        with closing(KafkaEventLog(address)) as log:
            _crash(server, log)
    finally:
        server.kill()


def _crash(server: Kafka, log: KafkaEventLog) -> None:
    stop, acked, errors = threading.Event(), defaultdict[str, list[int]](list), list[str]()
    names = [f"u{n}" for n in range(6)]
    threads = [threading.Thread(target=sent, args=(log, name, stop, acked, errors)) for name in names]
    for thread in threads:
        thread.start()
    try:
        _kill_and_restart(server, log, names, acked, errors)
    finally:
        stop.set()
        for thread in threads:
            thread.join(4 * SECONDS)
    found: dict[str, list[int]] = defaultdict(list)
    for one in everything(log):
        found[one.key].append(one.timestamp)
    for name in names:
        first = list(dict.fromkeys(found[name]))
        assert first == sorted(first), name  # in order; a batch that was sent again stands there once more
        assert first[: len(acked[name])] == acked[name], name
    assert "acknowledged" in errors[0]


def _kill_and_restart(
    server: Kafka, log: KafkaEventLog, names: list[str], acked: dict[str, list[int]], errors: list[str]
) -> None:
    time.sleep(1.0)
    server.kill()
    before = {name: len(acked[name]) for name in names}
    began = time.monotonic()
    with pytest.raises(LogError, match="nobody listens"):
        log.end_offsets()
    while not errors:  # somebody is told
        assert time.monotonic() - began < 4 * SECONDS
        time.sleep(0.05)
    assert {name: len(acked[name]) for name in names} == before
    server.start()
    deadline = time.monotonic() + 30
    while any(len(acked[name]) <= before[name] + 100 for name in names):
        assert time.monotonic() < deadline, errors[-1]
        time.sleep(0.05)


def test_what_waits_for_the_broker_is_bounded() -> None:
    budget = Budget(100)
    with (
        budget.taken(1_000, 0.1),  # more than there is: all of it
        pytest.raises(LogError, match="wait for the broker already"),
        budget.taken(1, 0.05),
    ):
        pass
    with budget.taken(60, 0.1), budget.taken(40, 0.1):
        pass


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h:1/p", "not a kafka"),
        ("kafka://h/p", "host:port"),
        ("kafka://h:99999/p", "host:port"),
        ("kafka://a:1,b/p", "'b'"),
        ("kafka://h:1", "prefix"),
        ("kafka://h:1/a/b", "prefix"),
        ("kafka://h:1/p?retries=3", "unknown option"),
        ("kafka://h:1/p?tls=yes", "true or false"),
        ("kafka://h:1/p?ca=x.pem", "without tls"),
        ("kafka://h:1/p?sasl=GSSAPI", "one of PLAIN"),
        ("kafka://h:1/p?sasl=PLAIN", "log_user and log_password"),
        ("kafka://h:1/p?timeout_ms=5", "timeout_ms"),
        ("kafka://u:p@h:1/p", "REPL_LOG_PASSWORD"),
    ],
)
def test_a_wrong_url_is_told_by_its_part(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as failed:
        parse_address(url)
    assert failed.value.field == "log_url"


def test_a_user_without_a_mechanism_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match=r"add \?sasl="):
        parse_address("kafka://h:1/p", "anna", "secret")


def test_a_url_says_how_to_be_let_in() -> None:
    found = parse_address(
        "kafka://a:1,[::1]:2/shop.one?tls=true&ca=c.pem&sasl=SCRAM-SHA-512&timeout_ms=2000", "anna", "secret"
    )
    assert found.servers == ("a:1", "[::1]:2")
    assert found.topic("event") == "shop.one.events"
    options = found.client_options()
    assert (options["security_protocol"], options["ssl_cafile"]) == ("SASL_SSL", "c.pem")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("anna", "secret")
    assert options["bootstrap_timeout_ms"] == 2_000
