"""What callers send: decoded, or refused with field, value and hint."""

import json

import msgspec
import pytest

from features.errors import InvalidRequest, TooLarge
from service.requests import (
    EmbeddingsRequest,
    RankRequest,
    RetrieveRequest,
    candidate_ids,
    check_query,
    decode,
    field_map,
)


def rank(**members: object) -> RankRequest:
    return decode(json.dumps({"items": ["a"], **members}).encode(), RankRequest)


@pytest.mark.parametrize(
    ("body", "field", "value", "hint"),
    [
        (b"", None, None, "one JSON object"),
        (b"[]", None, None, "docs/http.md"),
        (b'{"items": ["a"]', None, None, "one JSON object"),
        (b'\xff{"items": []}', None, None, "one JSON object"),
        (b"{}", "items", None, "send 'items'"),
        (b'{"items": ["a"], "topk": 3}', "topk", None, "did you mean 'top_k'?"),
        (b'{"items": ["a"], "top_k": 0}', "top_k", "0", "docs/http.md"),
        (b'{"items": ["a"], "top_k": "3"}', "top_k", "3", "docs/http.md"),
        (b'{"items": ["a", true]}', "items[1]", "True", "docs/http.md"),
        (b'{"items": ["a", {"id": null}]}', "items[1].id", None, "docs/http.md"),
        (b'{"items": ["a", {"ide": "x"}]}', "items[1].ide", None, "did you mean 'id'?"),
        (b'{"items": "abc"}', "items", "abc", "docs/http.md"),
        (b'{"items": ["a"], "user": 1.5}', "user", "1.5", "docs/http.md"),
        (
            b'{"items": ["a"], "filter": [{"field": "p", "op": "like"}]}',
            "filter[0].op",
            "like",
            "docs/http.md",
        ),
        (b'{"items": ["a"], "wait_ms": -1}', "wait_ms", "-1", "docs/http.md"),
        (b'{"items": ["a"], "format": "xml"}', "format", "xml", "docs/http.md"),
        (b'{"items": ["a"], "fields": {"x": {"y": 1}}}', "fields[...]", "{'x': {'y': 1}}", "docs/http.md"),
    ],
)
def test_a_bad_body_is_refused_with_place_value_and_hint(
    body: bytes, field: str, value: str, hint: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body, RankRequest)
    assert (refused.value.field, refused.value.value) == (field, value)
    assert hint in (refused.value.hint or "")


def test_integers_are_ids_and_repeats_stay() -> None:
    ask = rank(items=[1, "1", {"id": 2, "fields": [{"name": "days", "value": 3}]}, "x"])
    ids, fields = candidate_ids(ask, 10)
    assert ids == ["1", "1", "2", "x"]
    assert fields == {"2": {"days": 3}}


def test_id_lengths_are_bytes() -> None:
    assert candidate_ids(rank(items=["é" * 128]), 10)[0] == ["é" * 128]
    for bad in ("", "é" * 129, "a" * 257):
        with pytest.raises(InvalidRequest, match="1 to 256 bytes") as refused:
            candidate_ids(rank(items=["ok", bad]), 10)
        assert refused.value.field == "items[1]"


def test_no_candidates_and_too_many() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        candidate_ids(rank(items=[]), 3)
    with pytest.raises(TooLarge, match="4 candidates, the limit is 3"):
        candidate_ids(rank(items=list("abcd")), 3)


def test_both_forms_of_fields() -> None:
    assert field_map({"a": 1}) == {"a": 1}
    assert field_map(rank(fields=[{"name": "a", "value": [1, 2]}]).fields) == {"a": [1, 2]}
    assert field_map(None) == {}


def test_blank_queries_are_none_and_long_ones_refused() -> None:
    assert check_query("  ") is None
    assert check_query("red") == "red"
    with pytest.raises(InvalidRequest, match="1000 characters"):
        check_query("x" * 1_001)


def test_every_request_form_has_a_schema() -> None:
    for kind in (RankRequest, RetrieveRequest, EmbeddingsRequest):
        assert msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]


def test_conditions_have_a_bound() -> None:
    one = b'{"field": "price", "op": "lt", "value": 1}'
    body = b'{"items": ["a"], "filter": [%s]}'
    assert len(decode(body % b",".join([one] * 100), RankRequest).filter) == 100
    with pytest.raises(InvalidRequest) as refused:
        decode(body % b",".join([one] * 101), RankRequest)
    assert refused.value.field == "filter"
