"""Several tenants in one ranker: whose a request is, that nothing of one touches another, and what they share."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from features.errors import SettingsError
from features.realtime import RealtimeConfig
from service.app import bind, run_in_thread
from service.settings import Settings, load_settings
from service.tenant_settings import one_tenant, tenant_settings
from service.tenants import Tenants
from service.testkit import BASE, ManualClock
from tests.conftest import fresh_tenant
from tests.service.test_api_keys import make

ITEMS = [f"i{k}" for k in range(6)]


class Shops:
    """Tenants a and b on one port; `settings`: more of the process, `a` and `b`: of each."""

    def __init__(self, data_dir: Path, a: dict | None = None, b: dict | None = None, **settings: Any) -> None:
        self.clock = ManualClock()
        both = {"a": a or {}, "b": b or {}}
        usual = {"base_dir": BASE, "max_items": 20_000, "control_share": 0.0, "wait_ms": 2_000}
        self.settings = Settings(data_dir=data_dir, **{**usual, "tenants": both, **settings})
        small = RealtimeConfig(max_items=20_000, max_categories=4_096, max_lists=20_000)
        self.tenants = Tenants(self.settings, clock=self.clock, realtime=small)
        self.admin_key = (data_dir / "admin.key").read_text().strip()
        self._socket = bind("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.server, self._thread = run_in_thread(self.tenants, self._socket)

    def open(self) -> None:
        self.tenants.start()
        self.tenants.wait(60)

    def call(
        self, method: str, path: str, body: Any = None, tenant: str | None = None, key: str | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {} if tenant is None else {"X-Tenant": tenant}
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        is_json = (answer.getheader("content-type") or "").startswith("application/json")
        return answer.status, json.loads(content) if is_json else content.decode()

    def events(self, tenant: str, *events: dict[str, Any], key: str | None = None) -> str:
        stamped = [{"id": f"{tenant}-{k}", "timestamp": self.clock.now, **event} for k, event in enumerate(events)]
        status, answer = self.call("POST", "/v1/events", stamped, tenant, key)
        assert (status, answer["accepted"]) == (200, len(events)), answer
        found: str = answer["token"]
        return found

    def end(self) -> None:
        self.server.should_exit = True
        self._thread.join(10)
        self.tenants.stop()
        self._socket.close()


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Any]:
    made: list[Shops] = []

    def make_shops(**settings: Any) -> Shops:
        made.append(Shops(tmp_path / f"data-{len(made)}", **settings))
        made[-1].open()
        return made[-1]

    yield make_shops
    for one in made:
        one.end()


def item(name: str, title: str) -> dict[str, Any]:
    return {"event": "item", "item": name, "fields": {"title": title}}


def click(user: str, name: str) -> dict[str, Any]:
    return {"event": "interaction", "type": "click", "user": user, "item": name}


def own_clicks(shop: Shops, tenant: str, after: str | None) -> float:
    ask = {"items": ITEMS, "user": "anna", "explain": True, "after": after}
    status, answer = shop.call("POST", "/v1/rank", ask, tenant)
    assert (status, answer["stale"]) == (200, False), answer
    terms = [term for part in answer["explain"] for term in part["terms"] if term["name"] == "rt.own.click"]
    return sum(float(term["value"]) for term in terms)


def test_nothing_of_one_tenant_touches_another(shops) -> None:
    shop = shops()
    a = shop.events("a", *(item(name, f"red lamp {name}") for name in ITEMS), click("anna", "i3"))
    b = shop.events("b", item("only-b", "blue chair"))
    assert own_clicks(shop, "a", a) > 0, "events and ranking"
    assert own_clicks(shop, "b", b) == 0, "the same user of another tenant did nothing"
    for tenant, count in (("a", 6), ("b", 1)):
        found = shop.call("GET", "/v1/status", None, tenant)[1]
        assert (found["items"], found["events"]["accepted"]) == (count, count + (tenant == "a"))
        listed = shop.call("GET", "/v1/items?ids=i1&ids=only-b", None, tenant)[1]["items"]
        assert [entry["id"] for entry in listed] == [{"a": "i1", "b": "only-b"}[tenant]]
        status, answer = shop.call("POST", "/v1/retrieve", {"top_k": 10}, tenant)
        assert status == 200
        assert set(answer["ids"]) == (set(ITEMS) if tenant == "a" else {"only-b"})
    again = shop.call("POST", "/v1/events", [{"id": "a-0", "timestamp": shop.clock.now, **item("z", "z")}], "b")[1]
    assert again["accepted"] == 1, "an id counts once for each tenant"
    foreign = {"id": "x", "timestamp": shop.clock.now, "tenant": "b", **item("z", "z")}
    status, answer = shop.call("POST", "/v1/events", [foreign], "a")
    assert status == 422, "an event says its own tenant, and this is not it"
    places = [service.settings.data_dir for service in shop.tenants.services.values()]
    assert len({place.resolve() for place in places}) == 2
    assert all((place / "log.db").exists() or list(place.glob("log*")) for place in places)


def test_versions_and_weights_are_each_tenants_own(shops) -> None:
    from service.weight_store import Version, encode_weights

    shop = shops()
    service = shop.tenants.services["a"]
    heads = [row.copy() for row in service.running.replica.prior]
    heads[0][0] += 1.0
    base = service.running.engine.artifact.sha256
    version = Version(1, base, "push", 1, encode_weights(*heads), {}, shop.clock.now, shop.clock.now, None, "t", 1)
    service.store.commit(version, b"")
    assert [found["v"] for found in shop.call("GET", "/v1/versions", None, "a")[1]["versions"]] == [1]
    assert shop.call("GET", "/v1/versions", None, "b")[1]["versions"] == []
    assert shop.call("GET", "/v1/versions/1", None, "a")[0] == 200
    assert shop.call("GET", "/v1/versions/1", None, "b")[0] == 404
    pin = ("POST", "/v1/versions/1/pin", {"wait_ms": 0})
    assert shop.call(*pin, "a", shop.admin_key)[0] == 202
    assert shop.call(*pin, "b", shop.admin_key)[0] == 404
    ends = {name: part.log.end_offsets().get("control/0", 0) for name, part in shop.tenants.services.items()}
    assert ends == {"a": 1, "b": 0}


def test_metrics_carry_the_tenant_and_a_key_sees_its_own(shops, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = {name: make(path, "read", "write", tenant=name) for name in ("a", "b")}
    everybody = make(path, "read")
    shop = shops(keys_file=path)
    shop.events("a", *(item(name, "lamp") for name in ITEMS), key=key["a"])
    pages = {who: shop.call("GET", "/metrics", None, key=token)[1] for who, token in {**key, "all": everybody}.items()}
    accepted = re.compile(r'repl_events_total\{outcome="accepted",tenant="(\w+)"\} (\S+)')
    assert dict(accepted.findall(pages["all"])) == {"a": "6.0"}
    assert dict(accepted.findall(pages["a"])) == {"a": "6.0"}
    assert accepted.findall(pages["b"]) == []
    assert set(re.findall(r'tenant="([^"]*)"', pages["all"])) == {"a", "b", "-"}
    assert set(re.findall(r'tenant="([^"]*)"', pages["b"])) == {"b"}
    assert pages["all"].count("# TYPE repl_events_total counter") == 1
    assert shop.call("GET", "/metrics")[0] == 401


CALLS = [
    ("POST", "/v1/rank", {"items": ["i1"]}),
    ("POST", "/v1/retrieve", {}),
    ("POST", "/v1/events", [{"id": "e", "timestamp": 1_767_225_600_000, "event": "item", "item": "i"}]),
    ("POST", "/v1/embeddings", {"items": ["i1"]}),
    ("GET", "/v1/items?ids=i1", None),
    ("GET", "/v1/status", None),
    ("GET", "/v1/versions", None),
    ("GET", "/v1/versions/1", None),
    ("POST", "/v1/versions/1/pin", {}),
    ("POST", "/v1/versions/1/rollback", {}),
    ("POST", "/v1/mode", {"mode": "rank"}),
]


def test_a_key_of_one_tenant_is_refused_for_the_other(shops, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    of_a, of_all, gone = make(path, "admin", tenant="a"), make(path, "admin"), make(path, "admin", tenant="c")
    shop = shops(keys_file=path)
    before = {name: part.log.end_offsets() for name, part in shop.tenants.services.items()}

    def ranked() -> str:
        page = shop.tenants.services["b"].metrics.page().decode()
        return next(line for line in page.splitlines() if line.startswith("repl_candidates_total"))

    candidates = ranked()
    for call in CALLS:
        refused, answer = shop.call(*call, "b", of_a)
        assert (refused, answer["error"]["code"]) == (403, "forbidden"), call
        assert shop.call(*call, "b")[0] == 401, call
        assert shop.call(*call, "nobody")[0] == 401, "who has no key does not learn which tenants there are"
        assert shop.call(*call, "nobody", of_all)[0] == 422
        assert shop.call(*call, None, gone)[0] == 422
    assert {name: part.log.end_offsets() for name, part in shop.tenants.services.items()} == before
    assert ranked() == candidates, "nothing was ranked for it"
    for call in CALLS:
        assert shop.call(*call, None, of_a)[0] in (200, 202, 404), call
        assert shop.call(*call, "a", of_a)[0] in (200, 202, 404), call
        assert shop.call(*call, "b", of_all)[0] in (200, 202, 404), call


def test_a_call_that_names_no_tenant(shops) -> None:
    shop = shops()
    status, answer = shop.call("POST", "/v1/rank", {"items": ["i1"]})
    assert (status, answer["error"]["field"]) == (422, "X-Tenant")
    assert "request_id" in answer
    assert shop.call("GET", "/openapi.json")[0] == shop.call("GET", "/docs")[0] == 200
    usual = shops(tenant="b")
    usual.events("b", item("only-b", "chair"))
    assert usual.call("GET", "/v1/items?ids=only-b")[1]["items"][0]["id"] == "only-b"


def test_each_tenant_has_its_own_settings_and_rate(shops) -> None:
    shop = shops(a={"max_candidates": 2, "requests_per_second": 0.01, "burst_seconds": 400}, b={"page": False})
    assert shop.call("POST", "/v1/rank", {"items": ITEMS}, "a")[0] == 413
    assert shop.call("POST", "/v1/rank", {"items": ITEMS}, "b")[0] == 200
    assert [shop.call("POST", "/v1/rank", {"items": ["i1"]}, "a")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert shop.call("POST", "/v1/rank", {"items": ["i1"]}, "b")[0] == 200
    page = shop.call("GET", "/metrics")[1]
    assert 'repl_rate_limited_total{by="tenant",kind="requests",tenant="a"} 1.0' in page
    assert not re.search(r'repl_rate_limited_total\{[^}]*tenant="b"', page)


def test_one_that_cannot_be_loaded_does_not_take_the_others_along(shops, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    shop = shops(b={"base_dir": broken})
    status, answer = shop.call("GET", "/health/ready")
    assert (status, answer["status"]) == (200, "ok")
    assert answer["reasons"][0].startswith("tenant b: ")
    assert shop.call("POST", "/v1/rank", {"items": ["i1"]}, "a")[0] == 200
    assert shop.call("POST", "/v1/rank", {"items": ["i1"]}, "b")[0] == 503
    assert not shop.tenants.failed


def test_where_none_can_be_loaded_the_process_ends(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    shop = Shops(tmp_path / "data", base_dir=broken)
    with pytest.raises(Exception, match=r"manifest"):
        shop.open()
    assert shop.tenants.failed
    shop._thread.join(5)
    assert not shop._thread.is_alive(), "the server leaves"
    shop.end()


def test_keys_in_redis_begin_with_the_tenants_name(shops, redis_url: str) -> None:
    import redis

    names = [fresh_tenant(), fresh_tenant()]
    both = {name: {} for name in names}
    shop = shops(tenants=both, user_states_url=redis_url, weights_url=redis_url)
    tokens = {name: shop.events(name, *(item(i, "lamp") for i in ITEMS)) for name in names}
    clicks = shop.events(names[0], {"id": "c", **click("anna", "i3")})
    assert own_clicks(shop, names[0], clicks) > 0
    assert own_clicks(shop, names[1], tokens[names[1]]) == 0
    shop.tenants.services[names[0]].running.consumer.stop()  # writes what it holds
    client = redis.Redis.from_url(redis_url)
    assert list(client.scan_iter(f"repl:{{{names[0]}}}:u:*", count=1_000))  # type: ignore[arg-type]
    assert not list(client.scan_iter(f"repl:{{{names[1]}}}:u:*", count=1_000))  # type: ignore[arg-type]
    client.close()


def test_each_tenant_has_topics_of_its_own_on_kafka(shops, kafka_url: str, tmp_path: Path) -> None:
    from features.event_log import make_kafka_topics
    from service.tenant_settings import settings_by_tenant

    prefix = fresh_tenant()
    planned = Settings(data_dir=tmp_path, log_url=f"{kafka_url}/{prefix}", tenants={"a": {}, "b": {}})
    for own in settings_by_tenant(planned).values():
        make_kafka_topics(own, 2, 1)
    shop = shops(log_url=planned.log_url)
    a = shop.events("a", *(item(name, "red lamp") for name in ITEMS), click("anna", "i3"))
    b = shop.events("b", item("only-b", "blue chair"))
    assert own_clicks(shop, "a", a) > 0
    assert own_clicks(shop, "b", b) == 0
    sizes = {name: part.log.end_offsets() for name, part in shop.tenants.services.items()}
    found = {name: sum(end for at, end in ends.items() if at.startswith("event/")) for name, ends in sizes.items()}
    assert found == {"a": 7, "b": 1}
    assert shop.tenants.services["a"].log.address.topic("event") == f"{prefix}.a.events"


def test_settings_of_a_tenant(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'hold_ms = 7\nlog_url = "kafka://h:9092/shop?timeout_ms=2000"\ntenant = "b"\n'
        '[tenants.a]\nhold_ms = 9\nobjective = "purchase"\n[tenants.b]\nlog_url = "kafka://h:9092/other"\n'
    )
    settings, _ = load_settings(file, data_dir=tmp_path)
    a, b = tenant_settings(settings, "a"), one_tenant(settings)
    assert (a.tenant, a.hold_ms, a.objective, a.data_dir) == ("a", 9, "purchase", tmp_path / "tenants" / "a")
    assert a.log_url == "kafka://h:9092/shop.a?timeout_ms=2000"
    assert (b.tenant, b.hold_ms, b.log_url) == ("b", 7, "kafka://h:9092/other")
    assert not a.tenants


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[tenants.A]", "tenants"),
        ('[tenants."../x"]', "tenants"),
        ("[tenants.a]\nport = 1", "tenants.a.port"),
        ("[tenants.a]\nhold = 1", "tenants.a.hold"),
        ("[tenants.a]\nhold_ms = -1", "tenants.a.hold_ms"),
        ('[tenants.a]\nobjective = "x"', "objective"),
        ('[tenants.a]\ndata_dir = "x"\n[tenants.b]\ndata_dir = "./x"', "tenants.b.data_dir"),
        ('[tenants.a]\nlog_url = "kafka://h:1/x"\n[tenants.b]\nlog_url = "kafka://h:1/x?tls=true"',
         "tenants.b.log_url"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(tmp_path: Path, text: str, field: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(tmp_path / "settings.toml", data_dir=tmp_path)
    assert refused.value.field == field


def test_who_works_on_one_tenant_must_name_it(tmp_path: Path) -> None:
    (tmp_path / "repl-ranker.toml").write_text("[tenants.a]\n[tenants.b]\n")
    settings, _ = load_settings(data_dir=tmp_path)
    with pytest.raises(SettingsError, match="there are a, b"):
        one_tenant(settings)


def test_secrets_of_a_tenant_are_not_shown(tmp_path: Path) -> None:
    word = "a-word-nobody-sees"
    settings = Settings(tenants={"a": {"log_password": word, "weights_url": f"redis://:{word}@h:1/0"}})
    assert word not in repr(settings) + settings.model_dump_json() + repr(tenant_settings(settings, "a"))
