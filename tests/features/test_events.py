"""The dialect: what is taken, how it is stored, and that nothing but InvalidEvent is ever raised."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import event_parser
from features.errors import InvalidEvent
from features.event_parser import parse_event, split_body
from features.events import event_hash, event_key, event_kind, from_bytes, to_bytes

NOW = 1_769_860_800_000
CLICK = {"id": "e", "timestamp": NOW, "event": "interaction", "type": "click", "item": "i"}

GOLDEN = [
    (
        '{"id":7,"timestamp":"2026-01-31T12:00:00.001Z","event":"interaction","type":"click","item":85123,'
        '"user":"anna","ranking":"r1","fields":[{"name":"price","value":2.5},{"name":"tags","value":["a","b"]}],'
        '"more":1}',
        b'{"event":"interaction","id":"7","timestamp":1769860800001,"type":"click","item":"85123","user":"anna",'
        b'"ranking":"r1","fields":{"price":2.5,"tags":["a","b"]}}',
        0x3441533E912F92FE,
        "anna",
    ),
    (
        '{"id":"r1","timestamp":1769860800000.9,"event":"ranking","user":"anna","session":"s","items":["a",'
        '{"id":2,"position":5,"slot":"pinned","fields":{"bm25":1}},{"id":"c","position":null}],'
        '"fields":{"query":"red"}}',
        b'{"event":"ranking","id":"r1","timestamp":1769860800000,"items":[{"id":"a","position":1},{"id":"2",'
        b'"position":5,"slot":"pinned","fields":{"bm25":1}},{"id":"c","position":3}],"user":"anna","session":"s",'
        b'"fields":{"query":"red"}}',
        0x14699F8D96AFD6D1,
        "anna",
    ),
    (
        '{"id":"i1","timestamp":"1","event":"item","item":"a","fields":{"title":"Lämp","old":null},"available":false}',
        '{"event":"item","id":"i1","timestamp":1,"item":"a","fields":{"title":"Lämp","old":null},"available":false}'
        .encode(),
        0xBE73517F1D562D9,
        "a",
    ),
    (
        '{"id":"u1","timestamp":1,"event":"user","user":"a","op":"delete"}',
        b'{"event":"user","id":"u1","timestamp":1,"user":"a","op":"delete"}',
        0x7820272824C77BC7,
        "a",
    ),
    (
        '{"id":"d1","timestamp":1,"event":"identify","user":"a","anonymous":"s"}',
        b'{"event":"identify","id":"d1","timestamp":1,"anonymous":"s","user":"a"}',
        0x7A9DCEC769CCCF7B,
        "a",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "stored", "hashed", "key"), GOLDEN)
def test_golden_stored_form(sent: str, stored: bytes, hashed: int, key: str) -> None:
    event = parse_event(sent, now_ms=NOW)
    assert to_bytes(event) == stored
    assert from_bytes(stored) == event == parse_event(sent.encode()) == parse_event(json.loads(sent))
    assert parse_event(stored) == event
    assert (event_hash(event), event_key(event)) == (hashed, key)
    assert event_kind(event) == json.loads(sent)["event"]


@pytest.mark.parametrize(
    ("sent", "ms"),
    [
        (NOW, NOW), (f"{NOW}", NOW), (f"{NOW}.9", NOW), (NOW + 0.5, NOW), (0, 0), ("0" * 20 + f"{NOW}", NOW),
        ("2026-01-31T12:00:00Z", NOW), ("2026-01-31T13:00:00+01:00", NOW), ("2023-11-14T22:13:20.001Z", 1700000000001),
        ("1970-01-01T00:00:00.0019Z", 1),
    ],
)  # fmt: skip
def test_times(sent: Any, ms: int) -> None:
    assert parse_event({**CLICK, "timestamp": sent}).timestamp == ms


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"timestamp": None}, "timestamp"),
    ({"timestamp": True}, "timestamp"),
    ({"timestamp": -1}, "timestamp"),
    ({"timestamp": float("nan")}, "timestamp"),
    ({"timestamp": 1e300}, "timestamp"),
    ({"timestamp": "2026-01-31T12:00:00"}, "timestamp"),
    ({"timestamp": "9" * 5_000}, "timestamp"),
    ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp"),
    ({"timestamp": NOW + 3_600_001}, "timestamp"),
    ({"id": ""}, "id"),
    ({"id": "x" * 257}, "id"),
    ({"id": "\ud800"}, "id"),
    ({"id": 10**5_000}, "id"),
    ({"id": 1.0}, "id"),
    ({"item": None}, "item"),
    ({"event": "Interaction"}, "event"),
    ({"event": ["item"]}, "event"),
    ({"tenant": "other"}, "tenant"),
    ({"fields": 3}, "fields"),
    ({"fields": [{"name": "a"}]}, "fields[0]"),
    ({"fields": {"a": None}}, "fields.a"),
    ({"fields": {"a": {"b": 1}}}, "fields.a"),
    ({"fields": {"a": [1, "b"]}}, "fields.a"),
    ({"fields": {"a": [True]}}, "fields.a"),
    ({"fields": {"a": 1 << 63}}, "fields.a"),
    ({"fields": {"a": "\ud800"}}, "fields.a"),
    ({"fields": {1: 2}}, "fields"),
    ({"fields": [{"name": "a", "value": 1}] * 1_001}, "fields"),
    ({"event": "ranking", "items": []}, "items"),
    ({"event": "ranking", "items": [{"id": "a", "position": 0}]}, "items[0].position"),
    ({"event": "ranking", "items": ["a", {"id": "b", "slot": "x"}]}, "items[1].slot"),
    ({"event": "ranking", "items": ["a", 1.5]}, "items[1]"),
    ({"event": "item", "op": "drop"}, "op"),
    ({"event": "item", "available": 1}, "available"),
    ({"event": "item", "op": "replace", "fields": {"a": None}}, "fields.a"),
]


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_refusals_name_field_and_value(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidEvent) as refused:
        parse_event({**CLICK, **change}, now_ms=NOW)
    assert refused.value.field == field
    assert len(str(refused.value)) < 1_000
    json.dumps(refused.value.as_dict()).encode()


def test_an_hour_ahead_is_taken_and_replays_do_not_look_at_the_clock() -> None:
    assert parse_event({**CLICK, "timestamp": NOW + 3_600_000}, now_ms=NOW)
    assert parse_event({**CLICK, "timestamp": NOW + 3_600_001}, now_ms=None)


@pytest.mark.parametrize("form", [lambda event: event, lambda event: json.dumps(event).encode()])
def test_an_event_has_a_largest_size_however_it_comes(form: Any) -> None:
    parse_event(form({**CLICK, "fields": {"note": "x" * (event_parser.MAX_EVENT_BYTES - 1_000)}}))
    with pytest.raises(InvalidEvent, match="at most 262144 bytes"):
        parse_event(form({**CLICK, "fields": {"note": "x" * event_parser.MAX_EVENT_BYTES}}))


def test_depth_does_no_harm() -> None:
    deep = b'{"id":"e","timestamp":1,"event":"interaction","type":"c","item":"i","fields":{"a":%s}}'
    for depth in (500, 1_010, 100_000):
        with pytest.raises(InvalidEvent):
            parse_event(deep % (b"[" * depth + b"]" * depth))
        with pytest.raises(InvalidEvent):
            from_bytes(deep % (b"[" * depth + b"]" * depth))


def test_bodies() -> None:
    one = json.dumps(CLICK).encode()
    assert split_body(one) == [CLICK]
    assert split_body(b" [%s, %s] " % (one, one)) == [CLICK, CLICK]
    found = split_body(one + b"\r\n\n{broken\n" + one + b"\n[1]\n")
    assert [isinstance(entry, InvalidEvent) for entry in found] == [False, True, False, True]
    assert isinstance(split_body(b"[3]")[0], InvalidEvent)
    for body in (b"", b"  \n", b"{", b"[{]", b"\xff"):
        with pytest.raises(InvalidEvent):
            split_body(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
ID = st.text(min_size=1, max_size=12) | st.integers(0, 1 << 63)
VALUE = (
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.lists(st.text(max_size=4), max_size=3)
    | st.lists(st.integers(-9, 9) | st.floats(-9, 9), max_size=3)
)  # fmt: skip
FIELDS = st.dictionaries(st.text(max_size=6), VALUE, max_size=3)
ODD = {
    name: JSON | usual
    for name, usual in {
        "id": ID, "timestamp": st.integers(0, NOW), "event": st.sampled_from(list(event_parser._BUILDERS)), "item": ID,
        "user": ID, "type": ID, "items": st.lists(ID, max_size=3), "fields": FIELDS, "op": st.just("patch"),
        "session": ID, "anonymous": ID, "ranking": ID, "tenant": st.just("default"), "available": st.booleans(),
    }.items()
}  # fmt: skip


def only_invalid_event(raw: Any) -> None:
    try:
        event = parse_event(raw, now_ms=NOW)
    except InvalidEvent as error:
        json.dumps(error.as_dict()).encode()
    else:
        assert from_bytes(to_bytes(event)) == event


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=ODD))
def test_any_object_is_taken_or_refused(raw: dict[str, Any]) -> None:
    only_invalid_event(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    only_invalid_event(body)
    for read in (split_body, from_bytes):
        with contextlib.suppress(InvalidEvent):
            read(body)


SHOWN = st.fixed_dictionaries(
    {"id": ID},
    optional={
        "position": st.integers(1, 99),
        "slot": st.sampled_from(["organic", "sponsored"]),
        "fields": FIELDS,
    },
)
COMMON = {"id": ID, "timestamp": st.integers(0, NOW)}
ACTOR = {"user": ID, "session": ID, "fields": FIELDS}
GOOD = st.one_of(
    st.fixed_dictionaries(
        {**COMMON, "event": st.just("interaction"), "type": ID, "item": ID}, optional={**ACTOR, "ranking": ID}
    ),
    st.fixed_dictionaries(
        {**COMMON, "event": st.just("ranking"), "items": st.lists(SHOWN, min_size=1, max_size=4)},
        optional=ACTOR,
    ),
    st.fixed_dictionaries(
        {**COMMON, "event": st.just("item"), "item": ID},
        optional={
            "op": st.sampled_from(["patch", "replace", "delete"]),
            "fields": FIELDS,
            "available": st.booleans(),
        },
    ),
    st.fixed_dictionaries({**COMMON, "event": st.just("identify"), "user": ID, "anonymous": ID}),
)


@settings(max_examples=200, deadline=None)
@given(GOOD)
def test_parsed_stored_and_read_back_is_the_same(raw: dict[str, Any]) -> None:
    event = parse_event(raw, now_ms=NOW)
    stored = to_bytes(event)
    assert from_bytes(stored) == event
    assert to_bytes(from_bytes(stored)) == stored
    assert parse_event(stored) == event
    as_list = [{"name": name, "value": value} for name, value in raw.get("fields", {}).items()]
    assert parse_event({**raw, "fields": as_list}) == event
