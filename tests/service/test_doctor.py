"""`repl-ranker doctor` against real servers: what is well, doubtful, broken, with the next step; it leaves nothing."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.local.servers import Kafka, ServerError
from features.event_log import dead_letter, make_kafka_topics, open_log
from features.events import InteractionEvent
from features.records import event_record
from service.cli import app
from service.doctor import Finding, clock_finding, examine
from service.doctor_settings import rules
from service.processes import this_process
from service.settings import SecretUrl, Settings
from service.testkit import BASE, ReplService
from service.weight_redis_lease import RedisLease
from service.weight_store import Heartbeat, open_weight_store
from tests.conftest import KAFKA_USERS, unavailable
from tests.redis_server import RedisServer
from tests.redis_several import Cluster, tenant_on
from tests.service.test_compare_versions import version

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def found(settings: Settings, part: str = "", verdict: str = "") -> list[Finding]:
    """The findings of a part with a verdict; all of them where empty."""
    return [one for one in examine(settings, part or None) if verdict in ("", one.verdict)]


def said(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def at(data_dir: Path, **more: Any) -> Settings:
    return Settings(data_dir=data_dir, base_dir=BASE, **more)


# this machine


def test_an_empty_place_is_doubtful_not_broken_and_stays_empty(tmp_path: Path) -> None:
    place = tmp_path / "data"
    done = CliRunner().invoke(app, ["doctor", "--data-dir", str(place), "--json"])
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["ok"]) == (0, True), answer
    assert not place.exists()
    parts = {one["part"] for one in answer["findings"]}
    assert parts == {"settings", "disk", "base", "kafka", "weights", "user states", "log", "versions"}
    assert all(one["next"] for one in answer["findings"] if one["verdict"] != "PASS")


def test_every_tenant_is_looked_at(data_dir: Path) -> None:
    (data_dir / "repl-ranker.toml").write_text('[tenants.lamps]\n[tenants.chairs]\nbase_dir = "/not/there"\n')
    done = CliRunner().invoke(app, ["doctor", "--data-dir", str(data_dir)])
    assert done.exit_code == 1
    lamps, chairs = done.stdout.split("tenant chairs\n")
    assert lamps.startswith("tenant lamps\n")
    assert ("FAIL" in lamps, "FAIL  base" in chairs) == (False, True)
    answer = json.loads(CliRunner().invoke(app, ["doctor", "--data-dir", str(data_dir), "--json"]).stdout)
    assert {one["tenant"] for one in answer["findings"] if one["verdict"] == "FAIL"} == {"chairs"}


def test_a_changed_byte_of_the_base_is_broken(tmp_path: Path, data_dir: Path) -> None:
    copy = shutil.copytree(BASE, tmp_path / "base")
    path = copy / "fine.onnx"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    words = ["doctor", "--data-dir", str(data_dir), "--config", str(tmp_path / "c.toml")]
    (tmp_path / "c.toml").write_text(f'base_dir = "{copy}"\n')
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "FAIL  base          base model file fine.onnx has sha256" in done.stdout
    assert "→ restore the directory" in done.stdout


def test_another_schema_is_broken(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "schema.yml"
    path.write_text("schema: 1\nfields: [{name: margin, role: numeric}]\n")
    (broken,) = found(at(data_dir, schema_file=path), "base", "FAIL")
    assert "fingerprint" in broken.what
    assert "unset schema_file" in broken.next


def test_more_inputs_than_a_record_holds_are_doubtful(data_dir: Path) -> None:
    assert "room for about" in said(found(at(data_dir, log_items=200), "base", "WARN"))
    assert found(at(data_dir), "base", "WARN") == []


def test_a_place_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (broken,) = found(at(tmp_path / "file" / "data"), "disk", "FAIL")
    assert "cannot be written" in broken.what


CONTRADICTIONS: list[dict[str, Any]] = [
    {"click_window_ms": 10_000},
    {"purchase_window_ms": 60_000},
    {"checkpoint_every_ms": 1_000, "publish_every_ms": 2_000},
    {"hold_ms": 600_000},
    {"versions_all_minutes": 1_000, "versions_minutely_hours": 2},
    {"versions_minutely_hours": 1_000},
    {"event_retention_days": 1},
    {"log_items": 0},
    {"host": "0.0.0.0", "log_url": "kafka://h:1/x"},
    {"weights_url": SecretUrl("redis://h")},
    {"user_states_url": SecretUrl("redis://h")},
    {"user_states_url": SecretUrl("redis://h"), "weights_url": SecretUrl("redis://h"), "redis_timeout_ms": 9_000},
    {"user_states_url": SecretUrl("redis://h"), "weights_url": SecretUrl("redis://h"), "user_state_ttl_days": 7},
]


@pytest.mark.parametrize(("place", "settings"), list(enumerate(CONTRADICTIONS)))
def test_settings_that_contradict_each_other(place: int, settings: dict[str, Any]) -> None:
    usual = rules(Settings())
    assert len(usual) == len(CONTRADICTIONS)
    assert not any(rule.broken for rule in usual)
    rule = rules(Settings(**settings))[place]
    assert rule.broken, rule.names
    assert rule.next
    assert set(rule.names) <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(0, "PASS"), (-900, "PASS"), (5_000, "WARN"), (-5_000, "WARN"), (70_000, "FAIL")]
)
def test_clocks(ahead: int, verdict: str) -> None:
    assert clock_finding("log", "a clock", ahead).verdict == verdict
    assert (clock_finding("log", "a clock", ahead).next == "") is (verdict == "PASS")


def click(k: int) -> Any:
    return event_record(InteractionEvent(id=f"e{k}", timestamp=1, type="click", item="a", user=f"u{k}"))


@pytest.mark.parametrize(("ahead", "verdict"), [(0, "PASS"), (20_000, "WARN"), (3_600_000, "FAIL")])
def test_records_of_a_clock_that_is_ahead(data_dir: Path, ahead: int, verdict: str) -> None:
    settings = at(data_dir)
    with closing(open_log(settings, lambda: time.time_ns() // 1_000_000 + ahead)) as log:
        log.append("event", [click(1)])
        if ahead:
            dead_letter(log, "event/0", 0, "no event", b"?", "default", 1)
    findings = found(settings, "log")
    assert any(one.verdict == verdict and "newest record" in one.what for one in findings), said(findings)
    assert ("1 dead letters" in said(findings)) is bool(ahead)


def test_versions_of_another_base_a_hold_and_a_silent_trainer(data_dir: Path) -> None:
    settings = at(data_dir)
    with closing(open_weight_store(settings)) as store:
        assert "no version yet" in said(found(settings, "versions", "WARN"))
        store.commit(version(1, [1.0], [1.0]), b"")
        now = time.time_ns() // 1_000_000
        store.beat(Heartbeat(now, now, now - 60_000))
        text = said(found(settings, "versions", "WARN"))
        assert "of base abababababab" in text
        assert "heartbeat was 60 s ago" in text
        store.beat(Heartbeat(now, now, now))
        assert "heartbeat was 0" in said(found(settings, "versions", "PASS"))


def test_a_shop_that_runs_is_not_disturbed(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(*(shop.item(f"i{k}", title=f"red lamp {k}") for k in range(5)))
    shop.publish(click={"rt.own.click": 8.0})
    shop.service.store.beat(Heartbeat(shop.clock.now, shop.clock.now, time.time_ns() // 1_000_000))
    shop.settle()
    findings = found(shop.settings)
    assert {one.verdict for one in findings if one.part in ("settings", "log", "versions")} == {"PASS"}, said(findings)
    assert "5 events were ever appended" in said(findings)
    assert "the newest version is 1" in said(findings)
    token = shop.events(shop.click("anna", "i3"))["token"]
    answer = shop.rank([f"i{k}" for k in range(5)], user="anna", after=token)
    assert (answer["ids"][0], answer["stale"]) == ("i3", False)


# Redis


@pytest.fixture
def redis_of(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    made: list[RedisServer] = []

    def make(*options: str, password: str | None = None) -> RedisServer:
        made.append(RedisServer(tmp_path / f"redis-{len(made)}", *options, password=password))
        return made[-1]

    yield make
    for server in made:
        server.kill()


def test_a_redis_as_it_should_be(redis_of: Callable[..., RedisServer], data_dir: Path) -> None:
    server = redis_of("--appendonly", "yes", "--maxmemory", "100mb", password="secret")
    settings = at(data_dir, weights_url=SecretUrl(server.url), user_states_url=SecretUrl(server.url))
    findings = found(settings, "weights")
    assert [one.verdict for one in findings] == ["PASS"] * 7, said(findings)
    assert "secret" not in said(found(settings))
    assert "is the Redis of weights_url" in said(found(settings, "user states"))
    with closing(redis.Redis.from_url(server.url)) as client:
        assert client.dbsize() == 0


def test_who_trains_is_said(redis_of: Callable[..., RedisServer], data_dir: Path) -> None:
    server = redis_of()
    settings = at(data_dir, weights_url=SecretUrl(server.url))
    assert "is at work as its trainer" not in said(found(settings, "weights"))
    lease = RedisLease(server.url, settings.tenant, 2_000)
    assert lease.take(force=False)
    assert f"{this_process()} (host, process) is at work as its trainer" in said(found(settings, "weights", "PASS"))
    lease.stop()


def test_wrong_password_and_nobody_there(redis_of: Callable[..., RedisServer], data_dir: Path) -> None:
    server = redis_of(password="secret")
    wrong = at(data_dir, weights_url=SecretUrl(server.url.replace("secret", "guess")))
    (broken,) = found(wrong, "weights")
    assert (broken.verdict, broken.next) == ("FAIL", "check user and password in its URL")
    server.kill()
    (broken,) = found(at(data_dir, user_states_url=SecretUrl(server.url)), "user states")
    assert "is it running" in broken.next


@pytest.mark.parametrize(
    ("options", "verdict", "says"),
    [
        (("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"), "FAIL", "throws keys away"),
        (("--maxmemory", "50mb", "--maxmemory-policy", "volatile-lru"), "WARN", "they have a time to live"),
        (("--maxmemory-policy", "allkeys-random"), "WARN", "keys of ours go"),
        ((), "WARN", "no maxmemory"),
        ((), "WARN", "a crash takes everything"),
        (("--appendonly", "yes", "--appendfsync", "no"), "WARN", "appendfsync no"),
        ((), "WARN", "88%"),
        ((), "FAIL", "97%"),
    ],
)
def test_what_a_redis_may_have_wrong(
    redis_of: Callable[..., RedisServer], data_dir: Path, options: tuple[str, ...], verdict: str, says: str
) -> None:
    server = redis_of(*options)
    if says.endswith("%"):
        with closing(redis.Redis.from_url(server.url)) as client:
            for k in range(800):  # small ones: the buffer of a large one counts as used for a while
                client.set(f"ballast{k}", b"x" * 50_000)
            share = int(says[:-1]) / 100
            client.config_set("maxmemory", int(client.info("memory")["used_memory"] / share))
    findings = found(at(data_dir, weights_url=SecretUrl(server.url)), "weights")
    hits = [one for one in findings if says in one.what and one.verdict == verdict]
    assert len(hits) == 1, said(findings)
    assert hits[0].next


def test_a_user_who_may_only_read_and_a_replica(redis_of: Callable[..., RedisServer], data_dir: Path) -> None:
    server, other = redis_of(), redis_of()
    with closing(redis.Redis.from_url(server.url)) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~repl:*", "&repl:*", "+@read", "+@connection")
    url = server.url.replace("redis://", "redis://reader:pw@")
    findings = found(at(data_dir, weights_url=SecretUrl(url)), "weights")
    assert "cannot look at it" in said([one for one in findings if one.verdict == "FAIL"]), "TIME is refused"
    with closing(redis.Redis.from_url(server.url)) as client:
        client.execute_command("ACL", "SETUSER", "reader", "+time", "+ping")
    findings = found(at(data_dir, weights_url=SecretUrl(url)), "weights")
    assert "INFO is refused" in said(findings)
    broken = [one.what for one in findings if one.verdict == "FAIL"]
    assert [what.partition(" in redis")[0] for what in broken] == [
        "cannot write a key", "cannot write in a transaction", "cannot delete a key", "cannot announce a version",
    ]  # fmt: skip
    assert all("ACL user" in one.next for one in findings if one.verdict == "FAIL")
    with closing(redis.Redis.from_url(other.url)) as client:
        client.replicaof("127.0.0.1", server.port)
        while client.info("replication")["master_link_status"] != "up":
            time.sleep(0.05)
    findings = found(at(data_dir, weights_url=SecretUrl(other.url)), "weights", "FAIL")
    assert "it is a replica" in said(findings)


def test_every_node_of_a_cluster_is_judged(redis_cluster: Cluster, data_dir: Path) -> None:
    settings = at(data_dir, weights_url=SecretUrl(redis_cluster.url), tenant=tenant_on())
    findings = found(settings, "weights")
    assert "FAIL" not in [one.verdict for one in findings], said(findings)
    for server in redis_cluster.servers:
        assert f":{server.port}" in said(findings)
    with closing(redis_cluster.node(2)) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", 100 << 20)
        try:
            (broken,) = found(settings, "weights", "FAIL")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 0)
    assert broken.what == f"node 127.0.0.1:{redis_cluster.servers[2].port}: it throws keys away when it is full"


def test_primary_replica_and_sentinels_are_judged(redis_sentinel_url: str, data_dir: Path) -> None:
    findings = found(at(data_dir, user_states_url=SecretUrl(redis_sentinel_url)), "user states")
    assert "FAIL" not in [one.verdict for one in findings], said(findings)
    assert "enough sentinels agree on 'shop'" in said(findings)
    assert "replica 127.0.0.1:" in said(findings)
    assert "name all (three or more)" in said(findings)
    assert "word-of" not in said(findings)
    wrong = redis_sentinel_url.replace("/shop", "/other")
    (broken,) = found(at(data_dir, user_states_url=SecretUrl(wrong)), "user states")
    assert "No such master" in broken.what
    wrong = redis_sentinel_url.replace("sentinel_password=", "sentinel_password=x")
    (broken,) = found(at(data_dir, user_states_url=SecretUrl(wrong)), "user states")
    assert "WRONGPASS" in broken.what or "invalid" in broken.what


# Kafka


class Guarded(Kafka):
    """A broker that asks for rights: everything for who comes without a name, nothing for the others."""

    def _properties(self, data: Path) -> str:
        rights = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        return f"{super()._properties(data)}\nauthorizer.class.name={rights}\nsuper.users=User:ANONYMOUS\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = Guarded(tmp_path_factory.mktemp("guarded"), users=KAFKA_USERS)
    try:
        server.start()
    except ServerError as error:
        unavailable(str(error))
    yield server
    server.kill()


def of_kafka(data_dir: Path, url: str, prefix: str, **more: Any) -> Settings:
    return at(data_dir, log_url=f"{url}/{prefix}?timeout_ms=2000{more.pop('query', '')}", **more)


def test_topics_as_planned_missing_and_different(kafka_url: str, data_dir: Path) -> None:
    prefix = uuid.uuid4().hex
    settings = of_kafka(data_dir, kafka_url, prefix)
    findings = found(settings, "kafka", "FAIL")
    assert [one.what for one in findings] == [
        f"{prefix}.{name} is missing" for name in ("events", "served", "dead-letter", "cut", "control")
    ]
    assert {one.next for one in findings} == {"make it: repl-ranker topics"}
    make_kafka_topics(settings, 3, 1)
    assert found(settings, "kafka", "FAIL") + found(settings, "kafka", "WARN") == []
    assert f"{prefix}.events: 3 partitions" in said(found(settings, "kafka"))
    with closing(open_log(settings)) as log:
        log.append("event", [click(k) for k in range(9)])
    assert "newest record agrees" in said(found(settings, "log", "PASS"))
    admin = KafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    admin.delete_topics([f"{prefix}.cut"])
    while any(one["name"] == f"{prefix}.cut" and one["partitions"] for one in admin.describe_topics([f"{prefix}.cut"])):
        time.sleep(0.1)
    admin.close()
    changed = of_kafka(data_dir, kafka_url, prefix, event_retention_days=33)
    findings = found(changed, "kafka")
    assert [one.what for one in findings if one.verdict == "FAIL"] == [f"{prefix}.cut is missing"]
    warned = said([one for one in findings if one.verdict == "WARN"])
    assert f"{prefix}.events: retention.ms is 7776000000, planned 2851200000" in warned


def test_nobody_there(data_dir: Path) -> None:
    (broken,) = found(of_kafka(data_dir, "kafka://127.0.0.1:1", "x"), "kafka")
    assert broken.verdict == "FAIL"
    assert "nobody listens" in broken.next


def test_wrong_password_and_missing_rights(guarded: Guarded, data_dir: Path) -> None:
    prefix, sasl = uuid.uuid4().hex, f"kafka://{guarded.sasl_address}"
    make_kafka_topics(of_kafka(data_dir, f"kafka://{guarded.address}", prefix), 2, 1)
    asked = {"query": "&sasl=SCRAM-SHA-256", "log_user": "anna"}
    wrong = of_kafka(data_dir, sasl, prefix, **asked, log_password=SecretStr("guess"))
    (broken,) = found(wrong, "kafka")
    assert broken.verdict == "FAIL"
    assert "log_password" in broken.next
    settings = of_kafka(data_dir, sasl, prefix, **asked, log_password=SecretStr(KAFKA_USERS["anna"]))
    findings = found(settings, "kafka", "FAIL")
    assert findings[0].what == f"{prefix}.events: we may not describe it"
    assert len(findings) == 5
    admin = KafkaAdminClient(bootstrap_servers=guarded.address)
    topics = [f"{prefix}.{name}" for name in ("events", "served", "dead-letter", "cut", "control")]
    rights = [(name, "READ") for name in topics] + [(name, "WRITE") for name in topics if not name.endswith("events")]
    admin.create_acls([
        ACL("User:anna", "*", ACLOperation[right], ACLPermissionType.ALLOW, ResourcePattern(ResourceType.TOPIC, name))
        for name, right in rights
    ])  # fmt: skip
    admin.close()
    until = time.monotonic() + 10
    while len(findings := found(settings, "kafka", "FAIL")) != 1 and time.monotonic() < until:
        time.sleep(0.2)  # rights are known a moment after they are given
    assert [(one.what, one.next) for one in findings] == [
        (f"{prefix}.events: we may not write", f"give the user the ACLs Write on {prefix}.events")
    ]
    assert "not ours to see" in said(found(settings, "kafka", "WARN"))
