"""The event dialect: what is taken, in which form it is stored, what is refused and how the refusal reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidEvent
from features.events import (
    MAX_EVENT_BYTES,
    Event,
    IdentifyEvent,
    InteractionEvent,
    ItemEvent,
    RankingEvent,
    ShownItem,
    UserEvent,
    event_hash,
    event_key,
    event_kind,
    from_bytes,
    parse_event,
    split_body,
    to_bytes,
)

NOW = 1_700_000_000_000
HEAD: dict[str, Any] = {"id": "e1", "timestamp": NOW}
CLICK = {**HEAD, "event": "interaction", "type": "click", "item": "lamp"}


def refused(raw: Any, **options: Any) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as error:
        parse_event(raw, **options)
    assert error.value.message
    orjson.dumps(error.value.as_dict())  # an answer can always carry it
    return error.value


def test_every_kind() -> None:
    assert parse_event(
        {**HEAD, "event": "item", "item": "lamp", "fields": [{"name": "price", "value": 3}]}
    ) == (ItemEvent(id="e1", timestamp=NOW, item="lamp", fields={"price": 3}))
    assert parse_event({**HEAD, "event": "user", "user": "ann", "op": "delete"}) == (
        UserEvent(id="e1", timestamp=NOW, user="ann", op="delete")
    )
    assert parse_event({**HEAD, "event": "identify", "anonymous": "s", "user": "ann"}) == (
        IdentifyEvent(id="e1", timestamp=NOW, anonymous="s", user="ann")
    )
    items = ["a", {"id": 2}, {"id": "c", "position": 9, "slot": "pinned", "fields": {"bm25": 1.5}}]
    assert parse_event({**HEAD, "event": "ranking", "session": "s", "items": items}) == RankingEvent(
        id="e1", timestamp=NOW, session="s",
        items=(ShownItem("a", 1), ShownItem("2", 2), ShownItem("c", 9, "pinned", {"bm25": 1.5})),
    )  # fmt: skip
    assert parse_event({**CLICK, "user": "ann", "ranking": "r"}) == (
        InteractionEvent(id="e1", timestamp=NOW, type="click", item="lamp", user="ann", ranking="r")
    )


def test_unknown_members_are_ignored_and_the_last_of_two_counts() -> None:
    assert parse_event(orjson.dumps({**CLICK, "colour": {"deep": [1]}})) == parse_event(CLICK)
    twice = b'{"id":"x","id":"e1","timestamp":%d,"event":"interaction","type":"click","item":"lamp"}' % NOW
    assert parse_event(twice) == parse_event(CLICK)
    fields = [{"name": "n", "value": 1}, {"name": "n", "value": 2}]
    assert parse_event({**CLICK, "fields": fields}).fields == {"n": 2}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given_id", "stored"),
    [("x", "x"), (17, "17"), (-3, "-3"), ("007", "007"), ("A" * 256, "A" * 256), ("品" * 85, "品" * 85),
     (" a ", " a "), ("e\u0301", "e\u0301"), (18446744073709551615, "18446744073709551615")],
)  # fmt: skip
def test_ids_are_opaque(given_id: Any, stored: str) -> None:
    assert parse_event({**CLICK, "item": given_id}).item == stored  # type: ignore[union-attr]


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


@pytest.mark.parametrize(
    ("sent", "ms"),
    [(NOW, NOW), (str(NOW), NOW), (NOW + 0.9, NOW), ("1700000000000.9", NOW), (0, 0), ("0", 0),
     ("2023-11-14T22:13:20Z", NOW), ("2023-11-14T22:13:20.001Z", NOW + 1), ("2023-11-14T23:13:20+01:00", NOW),
     ("2023-11-14T22:13:20.0019Z", NOW + 1), ("20231114T221320Z", NOW)],
)  # fmt: skip
def test_timestamps(sent: Any, ms: int) -> None:
    assert parse_event({**CLICK, "timestamp": sent}).timestamp == ms


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


def test_a_time_without_zone_says_so() -> None:
    assert "zone" in refused({**CLICK, "timestamp": "2023-11-14T22:13:20"}).message


def test_an_hour_ahead_is_refused_at_acceptance_only() -> None:
    late = {**CLICK, "timestamp": NOW + 3_600_001}
    assert parse_event({**CLICK, "timestamp": NOW + 3_600_000}, now_ms=NOW)
    error = refused(late, now_ms=NOW)
    assert "hour ahead" in error.message
    assert str(NOW) in (error.hint or "")
    event = parse_event(late)
    assert from_bytes(to_bytes(event)) == event


@pytest.mark.parametrize("value", [True, "", "text", 0, -1.5, 1e300, (1 << 63) - 1, [], ["a", "b"], [1, 2.5]])
def test_field_values(value: Any) -> None:
    for fields in ({"n": value}, [{"name": "n", "value": value}]):
        event = parse_event({**CLICK, "fields": fields})
        assert event.fields == {"n": value}  # type: ignore[union-attr]
        assert from_bytes(to_bytes(event)) == event


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


def test_an_event_has_256_kib_at_most() -> None:
    fields = {f"f{i}": "x" * 1_000 for i in range(300)}
    for raw in (orjson.dumps({**CLICK, "fields": fields}), {**CLICK, "fields": fields}):
        assert str(MAX_EVENT_BYTES) in refused(raw).message
    (entry,) = split_body(orjson.dumps([{**CLICK, "fields": fields}]))
    assert isinstance(entry, InvalidEvent) or refused(entry)


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


# one body, many events
def test_a_body_is_one_object_an_array_or_lines() -> None:
    line = orjson.dumps(CLICK)
    assert split_body(line) == [CLICK]
    assert split_body(b" \n" + line + b"\n") == [CLICK]
    assert split_body(b"[" + line + b"," + line + b"]") == [CLICK, CLICK]
    assert split_body(line + b"\n\r\n" + line + b"\r\n") == [CLICK, CLICK]
    assert split_body(b"[]") == []


def test_a_bad_line_keeps_its_place() -> None:
    line = orjson.dumps(CLICK)
    found = split_body(b"\n".join([line, b"{oops", b"[1]", line]))
    assert [isinstance(entry, InvalidEvent) for entry in found] == [False, True, True, False]
    assert [isinstance(entry, InvalidEvent) for entry in split_body(b"[1, null, {}]")] == [True, True, False]
    first_bad = split_body(b"{oops\n" + line)
    assert [isinstance(entry, InvalidEvent) for entry in first_bad] == [True, False]


@pytest.mark.parametrize("body", [b"", b"  \n ", b"{oops", b"[1,", b"\xff\xfe"])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidEvent):
        split_body(body)


# keys
def test_the_partition_key_is_user_then_session_then_item() -> None:
    assert event_key(parse_event({**CLICK, "user": "u", "session": "s"})) == "u"
    assert event_key(parse_event({**CLICK, "session": "s"})) == "s"
    assert event_key(parse_event(CLICK)) == "lamp"
    assert event_key(parse_event({**HEAD, "event": "item", "item": "lamp"})) == "lamp"
    assert event_key(parse_event({**HEAD, "event": "ranking", "items": ["a", "b"]})) == "a"


def test_an_id_counts_once_a_tenant_and_kind() -> None:
    click = parse_event(CLICK)
    assert event_hash(click) == event_hash(parse_event({**CLICK, "item": "other", "timestamp": 5}))
    others = [{**CLICK, "id": "e2"}, {**HEAD, "event": "item", "item": "lamp"}]
    hashes = {
        event_hash(click),
        event_hash(parse_event(CLICK, tenant="b")),
        *map(event_hash, map(parse_event, others)),
    }
    assert len(hashes) == 4
    assert all(0 < value < 1 << 63 for value in hashes)
    assert event_hash(click) == 6178291894332551885, "stored: it must not change"


# properties
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


@settings(max_examples=300)
@given(JSON)
def test_any_value_is_an_event_or_refused(value: Any) -> None:
    with suppress(InvalidEvent, orjson.JSONEncodeError):
        parse_event(value if isinstance(value, dict) else orjson.dumps(value, default=str))


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


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_as_stored_or_sent_are_refused_or_read(raw: bytes) -> None:
    for read in (from_bytes, parse_event, split_body):
        with suppress(InvalidEvent):
            read(raw)  # type: ignore[operator]


IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
VALUES = (
    st.booleans() | st.integers(-(1 << 62), 1 << 62) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20) | st.lists(st.text(st.characters(codec="utf-8")), max_size=3)
)  # fmt: skip
FIELDS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), VALUES, max_size=4)
TIMES = st.integers(0, 253_402_300_799_999)
EVENTS = st.one_of(
    st.builds(ItemEvent, id=IDS, timestamp=TIMES, item=IDS, op=st.sampled_from(["patch", "replace", "delete"]),
              fields=FIELDS, available=st.none() | st.booleans()),
    st.builds(UserEvent, id=IDS, timestamp=TIMES, user=IDS, fields=FIELDS),
    st.builds(IdentifyEvent, id=IDS, timestamp=TIMES, anonymous=IDS, user=IDS),
    st.builds(RankingEvent, id=IDS, timestamp=TIMES, user=st.none() | IDS, fields=FIELDS, items=st.lists(
        st.builds(ShownItem, IDS, st.integers(1, 10**6), st.sampled_from(["organic", "pinned", "sponsored"]), FIELDS),
        min_size=1, max_size=4).map(tuple)),
    st.builds(InteractionEvent, id=IDS, timestamp=TIMES, type=IDS, item=IDS, session=st.none() | IDS, fields=FIELDS),
)  # fmt: skip


@settings(max_examples=300)
@given(EVENTS)
def test_what_is_stored_comes_back(event: Event) -> None:
    body = to_bytes(event)
    assert from_bytes(body) == event
    assert parse_event(body) == event
    assert orjson.loads(body)["event"] == event_kind(event)
