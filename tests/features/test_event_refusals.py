"""What the event dialect refuses, value by value, and that nothing but InvalidEvent comes of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidEvent
from features.event_parser import parse_event
from features.events import from_bytes, to_bytes

NOW = 1_700_000_000_000
HEAD: dict[str, Any] = {"id": "e1", "timestamp": NOW}
CLICK = {**HEAD, "event": "interaction", "type": "click", "item": "lamp"}


def refused(raw: Any, **options: Any) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as error:
        parse_event(raw, **options)
    assert error.value.message
    orjson.dumps(error.value.as_dict())  # an answer can always carry it
    return error.value


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "A" * 257,
        "品" * 86,
        True,
        1.5,
        1e30,
        [],
        {},
        None,
        "\ud800",
        ["deep"],
        pytest.param(10**5_000, id="huge"),
    ],
)
@pytest.mark.parametrize("name", ["id", "item"])
def test_other_ids_are_refused(name: str, bad: Any) -> None:
    assert refused({**CLICK, name: bad}).field == name


@pytest.mark.parametrize("name", ["user", "session", "ranking"])
def test_optional_ids_may_be_null_and_nothing_else(name: str) -> None:
    assert parse_event({**CLICK, name: None}) == parse_event(CLICK)
    assert refused({**CLICK, name: False}).field == name


@given(st.integers(0, 4_102_444_800_000))
def test_every_millisecond_in_iso_form_is_exact(ms: int) -> None:
    from datetime import UTC, datetime, timedelta

    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    assert parse_event({**CLICK, "timestamp": when.isoformat()}).timestamp == ms


@pytest.mark.parametrize(
    "bad", [None, True, -1, "-1", "", "yesterday", "2023-11-14", "2023-11-14T25:00:00Z", 10**18, 1e300, [NOW],
            float("nan"), float("inf"), "1e3", "٣٣", "9" * 400, "\ud800", pytest.param(10**5_000, id="huge"),
            "0001-01-01T00:00:00+23:59"]
)  # fmt: skip
def test_other_times_are_refused(bad: Any) -> None:
    error = refused({**CLICK, "timestamp": bad})
    assert error.field == "timestamp"
    assert "zone" in (error.hint or "")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {"a": 1}, [["a"]], ["a", 1], [True], [None], [float("-inf")], "\udfff",
              1 << 63, None, pytest.param(10**5_000, id="huge")]
)  # fmt: skip
def test_other_field_values_are_refused(value: Any) -> None:
    assert (refused({**CLICK, "fields": {"n": value}}).field or "").startswith("fields")


@pytest.mark.parametrize(
    "fields",
    [
        "x",
        1,
        [1],
        [{"name": 1, "value": 2}],
        [{"name": "n"}],
        [["n", 1]],
        {"\ud800": 1},
        {str(i): 1 for i in range(1_001)},
        [{"name": "n", "value": 1}] * 1_001,
    ],
)
def test_other_forms_of_fields_are_refused(fields: Any) -> None:
    assert (refused({**CLICK, "fields": fields}).field or "").startswith("fields")


def test_null_removes_a_field_in_a_patch_only() -> None:
    patch = {**HEAD, "event": "item", "item": "lamp", "fields": {"price": None}}
    event = parse_event(patch)
    assert event.fields == {"price": None}  # type: ignore[union-attr]
    assert from_bytes(to_bytes(event)) == event
    assert refused({**patch, "op": "replace"}).field == "fields.price"


@pytest.mark.parametrize(
    ("change", "field"),
    [({"event": "buy"}, "event"), ({"event": ["x"]}, "event"), ({"event": None}, "event"), ({"tenant": "b"}, "tenant"),
     ({"tenant": 3}, "tenant"), ({"type": None}, "type"), ({"type": ""}, "type")],
)  # fmt: skip
def test_members_that_are_refused(change: dict[str, Any], field: str) -> None:
    assert refused({**CLICK, **change}).field == field


@pytest.mark.parametrize(
    ("items", "field"),
    [(None, "items"), ([], "items"), ("a", "items"), ([1.5], "items[0]"), (["a", {"id": ""}], "items[1].id"),
     ([{"id": "a", "position": 0}], "items[0].position"), ([{"id": "a", "position": "1"}], "items[0].position"),
     ([{"id": "a", "slot": "top"}], "items[0].slot"), (["a"] * 5_001, "items"), ([{}], "items[0].id"),
     ([{"id": "a", "fields": {"n": {}}}], "items[0].fields.n")],
)  # fmt: skip
def test_rankings_that_are_refused(items: Any, field: str) -> None:
    assert refused({**HEAD, "event": "ranking", "items": items}).field == field


def test_a_ranking_of_5000_is_taken() -> None:
    event = parse_event({**HEAD, "event": "ranking", "items": [f"i{k}" for k in range(5_000)]})
    assert [shown.position for shown in event.items] == list(range(1, 5_001))  # type: ignore[union-attr]


@pytest.mark.parametrize("op", ["upsert", 1, ["patch"]])
def test_other_ops_are_refused(op: Any) -> None:
    error = refused({**HEAD, "event": "item", "item": "lamp", "op": op})
    assert error.field == "op"
    assert "patch" in (error.hint or "")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"null", b"[]", b"\xff", b'"x"', b"{}{}", b'{"id":NaN}', b'{"id":1e999}', b'{"id":"\\ud800"}',
            b"\xef\xbb\xbf{}", b"[" * 100_000, "\ud800", b'{"a":' * 1_000 + b"1" + b"}" * 1_000]
)  # fmt: skip
def test_what_is_no_object_is_refused(raw: Any) -> None:
    refused(raw)


DEEP: Any = []
for _ in range(1_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "name", ["id", "timestamp", "event", "tenant", "item", "user", "fields", "type", "ranking"]
)
def test_depth_does_not_hurt(name: str) -> None:
    refused({**CLICK, name: DEEP})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = [
    "id",
    "timestamp",
    "event",
    "tenant",
    "item",
    "user",
    "session",
    "ranking",
    "type",
    "op",
    "fields",
    "items",
    "available",
    "anonymous",
]
KINDS = ["item", "user", "identify", "ranking", "interaction"]


@settings(max_examples=500)
@given(
    st.fixed_dictionaries({"event": st.sampled_from(KINDS)}, optional=dict.fromkeys(NAMES[3:], JSON)),
    st.data(),
)
def test_a_half_right_event_is_an_event_or_refused(raw: dict[str, Any], data: st.DataObject) -> None:
    whole = {**HEAD, "item": "i", "user": "u", "anonymous": "a", "type": "t", "items": ["a"], **raw}
    for name in data.draw(st.sets(st.sampled_from(NAMES), max_size=2)):
        whole[name] = data.draw(JSON)
    try:
        event = parse_event(whole)
    except InvalidEvent as error:
        orjson.dumps(error.as_dict())
    else:
        assert from_bytes(to_bytes(event)) == event
