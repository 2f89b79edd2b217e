"""The service over real HTTP: answers, errors, headers, who may call. Uses the test kit's in-process service."""

from __future__ import annotations

import json
import math

import pytest

from service.testkit import ReplService

COLUMNS = ("scores", "click", "purchase", "ctcvr", "coarse")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory):
    from service.testkit import ManualClock

    service = ReplService(
        tmp_path_factory.mktemp("shop"), ManualClock(), max_candidates=5_000, max_body_bytes=1 << 20
    )
    names = ("lamp", "mug", "clock", "bag")
    service.events(
        *(
            service.item(
                f"i{k}", title=f"red {names[k % 4]} {k}", category=f"c{k % 5}", price=k + 0.5, stock=k % 3
            )
            for k in range(300)
        ),
        *(service.click("anna", f"i{k}") for k in range(20)),
    )
    service.events(
        {"event": "item", "item": "i7", "available": False}, {"event": "item", "item": "i8", "op": "delete"}
    )
    service.settle()
    yield service
    service.stop()


def ids(n: int) -> list[str]:
    return [f"i{k}" for k in range(n) if k not in (7, 8)]


def test_columns_and_rows_say_the_same(shop: ReplService) -> None:
    columns = shop.rank(ids(40), user="anna")
    rows = shop.rank(ids(40), user="anna", format="rows")
    assert sorted(columns["ids"]) == sorted(ids(40))
    assert columns["scores"] == sorted(columns["scores"], reverse=True)
    assert [row["id"] for row in rows["items"]] == columns["ids"]
    for name in COLUMNS[1:]:
        assert [row[name] for row in rows["items"]] == columns[name]
    for click, purchase, both in zip(columns["click"], columns["purchase"], columns["ctcvr"], strict=True):
        assert 0 < click < 1
        assert both == pytest.approx(click * purchase, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 290])
def test_a_score_does_not_depend_on_its_batch(shop: ReplService, n: int) -> None:
    whole = shop.rank(ids(299), user="anna", query="red lamp")
    part = shop.rank(ids(299)[:n], user="anna", query="red lamp")
    score = dict(zip(whole["ids"], whole["scores"], strict=True))
    assert part["scores"] == [score[name] for name in part["ids"]]


def test_same_input_same_bytes(shop: ReplService) -> None:
    body = json.dumps(
        {"items": ids(100), "user": "anna", "query": "mug", "explain": True, "top_k": 20}
    ).encode()
    first, second = (shop.call("POST", "/v1/rank", body)[1] for _ in range(2))
    assert first.pop("request_id") != second.pop("request_id")
    assert json.dumps(first) == json.dumps(second)


def test_repeats_unknown_deleted_and_unavailable(shop: ReplService) -> None:
    answer = shop.rank(["i1", "never seen", "i1", "i7", "i8", 99999], user="nobody")
    assert sorted(answer["ids"]) == ["99999", "i1", "never seen"]
    assert answer["removed"] == {"duplicates": 1, "excluded": 0, "filtered": 0, "unavailable": 2}


def test_nobody_and_a_session_are_fine(shop: ReplService) -> None:
    for who in ({}, {"session": "s1"}, {"user": 17}, {"user": None}):
        assert len(shop.rank(ids(10), **who)["ids"]) == 8


def test_top_k_exclude_filter_and_pre_rank(shop: ReplService) -> None:
    everything = shop.rank(ids(100), user="anna")
    assert shop.rank(ids(100), user="anna", top_k=5)["ids"] == everything["ids"][:5]
    without = shop.rank(ids(100), user="anna", exclude=everything["ids"][:2])
    many = shop.rank(ids(100), user="anna", exclude=[*everything["ids"][:2], *range(9_998)])  # on the worker
    assert (many["ids"], many["scores"]) == (without["ids"], without["scores"])
    status, refused = shop.call("POST", "/v1/rank", {"items": ["i1"], "exclude": list(range(10_001))})
    assert (status, refused["error"]["field"]) == (422, "exclude")
    assert without["ids"] == everything["ids"][2:]
    assert without["removed"]["excluded"] == 2
    cheap = shop.rank(ids(100), filter=[{"field": "price", "op": "lt", "value": 10}])
    assert all(int(name[1:]) < 10 for name in cheap["ids"])
    best = sorted(zip(everything["coarse"], everything["ids"], strict=True), reverse=True)[:10]
    assert sorted(shop.rank(ids(100), user="anna", pre_rank=10)["ids"]) == sorted(name for _, name in best)


@pytest.mark.parametrize(
    ("condition", "keeps"),
    [
        ({"field": "category", "op": "eq", "value": "c1"}, lambda k: k % 5 == 1),
        ({"field": "category", "op": "ne", "value": "c1"}, lambda k: k % 5 != 1),
        ({"field": "category", "op": "in", "value": ["c1", "c2"]}, lambda k: k % 5 in (1, 2)),
        ({"field": "stock", "op": "nin", "value": [0]}, lambda k: k % 3 != 0),
        ({"field": "price", "op": "lte", "value": 20.5}, lambda k: k <= 20),
        ({"field": "price", "op": "gt", "value": 20.5}, lambda k: k > 20),
        ({"field": "price", "op": "gte", "value": 20.5}, lambda k: k >= 20),
        ({"field": "colour", "op": "exists", "value": False}, lambda k: True),
        ({"field": "colour", "op": "exists"}, lambda k: False),
    ],
)
def test_filters(shop: ReplService, condition: dict, keeps) -> None:
    for path, request in (("/v1/rank", {"items": ids(60)}), ("/v1/retrieve", {"top_k": 300})):
        status, answer = shop.call("POST", path, {**request, "filter": [condition]})
        assert status == 200
        wanted = [name for name in (ids(60) if path == "/v1/rank" else ids(300)) if keeps(int(name[1:]))]
        assert sorted(answer["ids"]) == sorted(wanted)


def test_objectives_order_by_their_formula(shop: ReplService) -> None:
    answer = shop.rank(ids(50), user="anna", objective="revenue")
    assert answer["objective"] == "revenue"
    for name, score, ctcvr in zip(answer["ids"], answer["scores"], answer["ctcvr"], strict=True):
        assert score == pytest.approx(math.log(ctcvr) + math.log(int(name[1:]) + 0.5), abs=1e-5)


def test_the_terms_of_explain_add_up_to_the_logit(shop: ReplService) -> None:
    answer = shop.rank(ids(30), user="anna", explain=True)
    assert [part["id"] for part in answer["explain"]] == answer["ids"]
    for part, click in zip(answer["explain"], answer["click"], strict=True):
        total = 0.0
        for term in part["terms"]:
            total += term["contribution"]
            if term["value"] is not None:
                assert term["contribution"] == term["value"] * term["weight"]
        assert total == part["logit"]
        assert click == pytest.approx(1 / (1 + math.exp(-part["logit"])), rel=1e-6)


def test_retrieve_matches_words_and_ranks_like_rank(shop: ReplService) -> None:
    answer = shop.retrieve(user="anna", query="red clock", top_k=300)
    assert sorted(answer["ids"]) == sorted(f"i{k}" for k in range(300) if k % 4 == 2)
    assert shop.retrieve(user="anna", query="clock nonsense", top_k=300)["ids"]
    assert len(shop.retrieve(user="anna", query="red clock", top_k=300, match="none")["ids"]) == 298
    again = shop.rank(answer["ids"], user="anna", query="red clock")
    score = dict(zip(again["ids"], again["scores"], strict=True))
    assert answer["scores"] == [score[name] for name in answer["ids"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("POST", "/v1/rank", {"items": []}, 422, "invalid_request", "items"),
        ("POST", "/v1/rank", b"{", 422, "invalid_request", None),
        ("POST", "/v1/rank", {"items": ["a"] * 5_001}, 413, "too_large", "items"),
        ("POST", "/v1/rank", b'{"items": ["' + b"a" * (1 << 20) + b'"]}', 413, "too_large", None),
        ("POST", "/v1/rank", {"items": ["a"], "objective": "x"}, 422, "invalid_request", "objective"),
        ("POST", "/v1/rank", {"items": ["a"], "after": "%%%"}, 422, "invalid_input", "after"),
        ("POST", "/v1/rank", {"items": ["a"], "filter": [{"field": "p", "op": "lt", "value": "x"}]}, 422,
         "invalid_request", "filter[0].value"),
        ("POST", "/v1/retrieve", {"top_k": 0}, 422, "invalid_request", "top_k"),
        ("POST", "/v1/embeddings", {}, 422, "invalid_request", None),
        ("POST", "/v1/events", b"nonsense", 422, "invalid_event", None),
        ("GET", "/v1/versions/7", None, 404, "unknown_version", None),
        ("GET", "/v1/versions/x", None, 422, "invalid_request", "v"),
        ("GET", "/v1/versions?limit=0", None, 422, "invalid_request", "limit"),
        ("POST", "/v1/versions/1/pin", None, 401, "unauthorised", None),
        ("GET", "/v1/items", None, 422, "invalid_request", "ids"),
        ("GET", "/v1/rank", None, 405, "method_not_allowed", None),
        ("GET", "/nothing", None, 404, "not_found", None),
        ("GET", "/page/../app.py", None, 404, "not_found", None),
    ],
)  # fmt: skip
def test_every_error_has_the_one_shape(shop, method, path, body, status, code, field) -> None:
    found, answer = shop.call(method, path, body)
    assert found == status, answer
    assert set(answer) == {"error", "request_id"}
    assert answer["error"]["code"] == code
    assert answer["error"].get("field") == field
    assert answer["error"]["message"]


def test_foreign_hosts_and_origins_are_refused(shop: ReplService) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        status, answer = shop.call("POST", "/v1/rank", {"items": ["a"]}, headers)
        assert (status, answer["error"]["code"]) == (403, "forbidden")


def test_events_say_what_became_of_each(shop: ReplService) -> None:
    good = {"id": "e1", "timestamp": shop.clock.now, "event": "interaction", "type": "click", "item": "i1"}
    bad = {**good, "id": "e2", "type": ""}
    late = {**good, "id": "e3", "timestamp": shop.clock.now + 3_700_000}
    lines = "\n".join(json.dumps(event) for event in (good, bad, good, late)).encode()
    status, answer = shop.call("POST", "/v1/events", lines)
    assert (status, answer["accepted"], answer["duplicates"]) == (200, 1, 1)
    assert [(part["index"], part["field"]) for part in answer["rejected"]] == [(1, "type"), (3, "timestamp")]
    status, answer = shop.call("POST", "/v1/events?atomic=true", [{**good, "id": "e4"}, bad])
    assert (status, answer["accepted"], answer["token"]) == (422, 0, None)
    status, answer = shop.call("POST", "/v1/events", [bad])
    assert (status, answer["accepted"]) == (422, 0)
    status, answer = shop.call("POST", "/v1/events", good)
    assert (status, answer["duplicates"]) == (200, 1)
    assert answer["token"]
    counts = shop.call("GET", "/v1/status")[1]["events"]
    assert counts["received"] == counts["accepted"] + counts["duplicate"] + counts["rejected"]


def test_a_token_that_is_not_reached_makes_the_answer_stale(shop: ReplService) -> None:
    from features.records import encode_token

    ahead = shop.service.log.end_offsets()["event/0"] + 5
    answer = shop.rank(["i1"], user="anna", after=encode_token({"event/0": ahead}), wait_ms=30)
    assert answer["stale"] is True
    assert shop.rank(["i1"], user="anna")["stale"] is False


def test_embeddings_and_items(shop: ReplService) -> None:
    asked = {"users": ["anna", "nobody"], "items": ["i1", "unknown"], "queries": ["red lamp", "???"]}
    status, answer = shop.call("POST", "/v1/embeddings", asked)
    assert status == 200
    for kind, names in asked.items():
        found = answer[kind]
        assert found["ids"] == names
        assert found["known"] == [True, False]
        assert [len(row) for row in found["coarse"]] == [32, 32]
        assert [len(row) for row in found["tower"]] == [64, 64]
    answer = shop.call("GET", "/v1/items?ids=i1&ids=unknown&ids=i7")[1]
    assert [(item["id"], item["available"]) for item in answer["items"]] == [("i1", True), ("i7", False)]
    assert answer["items"][0]["fields"]["title"] == "red mug 1"


def test_health_metrics_status_and_page(shop: ReplService) -> None:
    assert shop.call("GET", "/health/live") == (200, {"status": "ok"})
    assert shop.call("GET", "/health/ready") == (200, {"status": "ok"})
    text = shop.call("GET", "/metrics")[1]
    for name in ("repl_candidates_total", "repl_served_records_total", "repl_age_seconds", "repl_items 30"):
        assert name in text
    status = shop.call("GET", "/v1/status")[1]
    assert status["objectives"] == ["click", "purchase", "revenue"]
    assert status["served"]["dropped"] == 0
    code, page = shop.call("GET", "/")
    assert code == 200
    assert "<html" in page
    assert shop.call("GET", "/page/page.js")[0] == 200
    for path in ("/docs", "/docs/docs.js", "/docs/docs.css"):
        code, text = shop.call("GET", path)
        assert code == 200
        assert "https://" not in text
