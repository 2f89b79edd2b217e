"""What a caller may send by mistake or on purpose: an answer that says what is wrong, never a 500."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from service.testkit import ManualClock, ReplService

DEEP = b"[" * 5_000 + b"]" * 5_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplService]:
    service = ReplService(tmp_path_factory.mktemp("abuse"), ManualClock())
    service.events(*(service.item(f"i{k}", title=f"red lamp {k}", price=k + 0.5) for k in range(20)))
    service.settle()
    yield service
    service.stop()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"items": 5, "x": ', "items"),
        (b'{"items": ["a", true], "user', "items[1]"),
        (b'{"items": ' + DEEP + b"}", "items[0]"),
        (b'{"items": 5, "x": ' + DEEP + b"}", "items"),
        (b'{"items": ["a"], "fields": {"a": 1e999}}', "fields[...]"),
        (b'{"items": [' + b"9" * 5_000 + b"]}", "items[0]"),
    ],
)
def test_a_body_wrong_in_two_ways_is_refused_by_its_first(shop: ReplService, body: bytes, field: str) -> None:
    status, answer = shop.call("POST", "/v1/rank", body)
    assert status == 422, answer
    assert answer["error"]["field"] == field


def test_a_number_beyond_every_float(shop: ReplService) -> None:
    huge = int("9" * 400)
    for name in ("delivery_days", "stock", "price"):
        fields = {name: huge}
        assert shop.rank([{"id": "i1", "fields": fields}], fields=fields)["ids"] == ["i1"]
    for op, found in (("lt", ["i1"]), ("gt", [])):
        assert shop.rank(["i1"], filter=[{"field": "price", "op": op, "value": huge}])["ids"] == found
    assert shop.rank(["i1"], filter=[{"field": "price", "op": "gt", "value": -huge}])["ids"] == ["i1"]


@pytest.mark.parametrize("price", ["inf", "1e999", 1e300, -1e300, "nan"])
def test_a_price_that_is_none_leaves_scores_finite(shop: ReplService, price: float | str) -> None:
    taken = shop.events(shop.item("odd", title="red lamp", price=price))
    answer = shop.rank(["odd", "i1", "never seen"], objective="revenue", after=taken["token"])
    assert all(isinstance(score, float) for score in answer["scores"])
    assert answer["ids"][0] == "i1"


@pytest.mark.parametrize("path", ["/v1/versions?before=", "/v1/versions?limit=", "/v1/versions/"])
def test_a_number_of_five_thousand_digits_in_an_address(shop: ReplService, path: str) -> None:
    status, answer = shop.call("GET", path + "9" * 5_000)
    assert (status, answer["error"]["code"]) == (422, "invalid_request")


def test_a_parameter_refused_by_the_framework_has_our_shape(shop: ReplService) -> None:
    status, answer = shop.call("POST", "/v1/events?atomic=maybe", shop.click("anna", "i1"))
    assert (status, answer["error"]["field"]) == (422, "atomic")
    assert answer["request_id"]


def test_a_file_of_the_page_with_an_impossible_name(shop: ReplService) -> None:
    for name in ("a" * 300 + ".js", "%00.js", "..%2fhttp.py"):
        assert shop.call("GET", f"/page/{name}")[0] == 404


DISGUISED = "localhost:x@evil.example"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Origin", "http://["),
        ("Origin", f"http://{DISGUISED}"),
        ("Origin", "null"),
        ("Host", DISGUISED),
        ("Host", "[::1]evil.example"),
    ],
)
def test_addresses_that_only_look_like_this_machine(shop: ReplService, name: str, value: str) -> None:
    status, answer = shop.call("GET", "/health/live", headers={name: value})
    assert (status, answer["error"]["field"]) == (403, name)


@pytest.mark.parametrize("value", ["http://[::1]:8080", "http://LOCALHOST:3000", "https://127.0.0.1"])
def test_addresses_of_this_machine(shop: ReplService, value: str) -> None:
    assert shop.call("GET", "/health/live", headers={"Origin": value})[0] == 200


def test_a_caller_that_hangs_up_within_its_body(shop: ReplService, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shop.port)) as caller:
        caller.sendall(head + b'{"items": [')
        time.sleep(0.05)
    counted = 'repl_http_answers_total{route="/v1/rank",status="400"} 1.0'
    until = time.monotonic() + 5
    while counted not in shop.call("GET", "/metrics")[1]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
