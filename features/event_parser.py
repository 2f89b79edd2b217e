"""The one parser of the event dialect (docs/formats.md §1): what anybody sends, checked and normalised.

`parse_event` refuses with field, value and what to do. It knows no log and no HTTP; the typed events and their
stored form are features/events.py's.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from features.errors import InvalidEvent
from features.events import (
    Event,
    Fields,
    IdentifyEvent,
    InteractionEvent,
    ItemEvent,
    RankingEvent,
    ShownItem,
    UserEvent,
    to_bytes,
)

MAX_ID_BYTES = 256
MAX_EVENT_BYTES = 256 << 10
MAX_SHOWN = 5_000
MAX_FIELDS = 1_000
MAX_AHEAD_MS = 3_600_000
_LAST_MS = 253_402_300_799_999  # end of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LONGEST_TIME = 40
_ZONE_HINT = "send milliseconds since 1970, or ISO-8601 with a zone such as 2026-01-31T12:00:00Z"


def parse_event(
    raw: bytes | str | dict[str, Any], *, tenant: str = "default", now_ms: int | None = None
) -> Event:
    """One event of the dialect, normalised.

    `now_ms` (the receiving clock) refuses timestamps more than an hour ahead; None does not (replay, files).
    At most 256 KiB, as sent and as stored. Raises InvalidEvent with field, value and what to do; nothing else,
    whatever is sent.
    """
    if not isinstance(raw, dict):
        raw = _load(raw)
    kind = raw.get("event")
    build = _BUILDERS.get(kind) if isinstance(kind, str) else None
    if build is None:
        hint = f"one of {', '.join(_BUILDERS)}"
        raise InvalidEvent("unknown event", field="event", value=_shown_value(kind), hint=hint)
    named = raw.get("tenant")
    if named is not None and named != tenant:
        raise InvalidEvent(
            "another tenant",
            field="tenant",
            value=_shown_value(named),
            hint=f"this service holds the tenant {tenant!r}",
        )
    event = build(raw, _id(raw, "id"), _timestamp(raw.get("timestamp"), now_ms), tenant)
    _check_size(len(to_bytes(event)))
    return event


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise InvalidEvent(f"an event has at most {MAX_EVENT_BYTES} bytes", value=size, hint="split it")


def split_body(body: bytes) -> list[dict[str, Any] | InvalidEvent]:
    """The events of a request or file part: one object, an array, or JSON lines; a broken one as its error.

    Raises InvalidEvent where the body as a whole is not JSON.
    """
    text = body.strip()
    if not text:
        raise InvalidEvent("no event", hint="send one JSON object, an array, or one object a line")
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        lines = text.splitlines()
        if len(lines) == 1 or text[:1] == b"[":
            raise InvalidEvent(f"not JSON: {error}", value=_cut(text), hint="see docs/events.md") from error
        return [_or_error(line) for line in lines if line.strip()]
    if isinstance(whole, list):
        return [_object(entry) for entry in whole]
    return [_object(whole)]


def _or_error(line: bytes) -> dict[str, Any] | InvalidEvent:
    try:
        return _load(line)
    except InvalidEvent as error:
        return error


def _object(entry: Any) -> dict[str, Any] | InvalidEvent:
    return (
        entry
        if isinstance(entry, dict)
        else InvalidEvent("an event is a JSON object", value=_shown_value(entry))
    )


def _cut(text: bytes | str) -> str:
    shown = text[:200] if isinstance(text, str) else text[:200].decode("utf-8", "replace")
    return shown.encode("utf-8", "replace").decode()


def _shown_value(value: Any) -> str | None:
    """A value for an error message: short, whatever its size and depth; None for nothing."""
    if value is None:
        return None
    try:
        return _cut(value if isinstance(value, str) else reprlib.repr(value))
    except ValueError:  # an int of more digits than Python prints
        return f"{type(value).__name__} of more than 4,300 digits"


def _load(raw: bytes | str) -> dict[str, Any]:
    _check_size(len(raw))
    try:
        entry = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error}", value=_cut(raw), hint="one JSON object a line") from error
    found = _object(entry)
    if isinstance(found, InvalidEvent):
        raise found
    return found


def _text_id(value: Any, field: str) -> str:
    if type(value) is int and abs(value) < 1 << 64:
        value = str(value)
    if type(value) is not str:
        hint = "send a string of 1 to 256 bytes"
        raise InvalidEvent("an ID is a string", field=field, value=_shown_value(value), hint=hint)
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise InvalidEvent("an ID must be valid UTF-8", field=field, hint="no lone surrogates") from error
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidEvent(
            f"an ID has 1 to 256 bytes, not {size}", field=field, value=_cut(value), hint="shorten or hash it"
        )
    return value


def _id(raw: dict[str, Any], name: str, path: str = "") -> str:
    value = raw.get(name)
    if value is None:
        raise InvalidEvent(
            f"{path}{name} is missing", field=path + name, hint="every event of this kind needs it"
        )
    return _text_id(value, path + name)


def _optional_id(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return None if value is None else _text_id(value, name)


def _timestamp(value: Any, now_ms: int | None) -> int:
    ms = _milliseconds(value)
    if not 0 <= ms <= _LAST_MS:
        raise InvalidEvent(
            "timestamp out of range", field="timestamp", value=_shown_value(value), hint=_ZONE_HINT
        )
    if now_ms is not None and ms > now_ms + MAX_AHEAD_MS:
        raise InvalidEvent(
            "timestamp is more than an hour ahead of this clock",
            field="timestamp",
            value=_shown_value(value),
            hint=f"check the sender's clock (here it is {now_ms}) and the unit: milliseconds",
        )
    return ms


def _milliseconds(value: Any) -> int:
    if type(value) is int:
        return value
    if value is None:
        raise InvalidEvent("timestamp is missing", field="timestamp", hint=_ZONE_HINT)
    try:
        if type(value) is float:
            return math.floor(value)
        if type(value) is str and value.isascii():
            return _from_text(value)
    except (ValueError, OverflowError) as error:
        raise InvalidEvent(
            f"not a time: {_cut(str(error))}", field="timestamp", value=_shown_value(value), hint=_ZONE_HINT
        ) from error
    raise InvalidEvent("not a time", field="timestamp", value=_shown_value(value), hint=_ZONE_HINT)


def _from_text(value: str) -> int:
    if len(value) > _LONGEST_TIME:
        raise ValueError(f"longer than {_LONGEST_TIME} characters")
    if value[:1].isdigit() and value.replace(".", "", 1).isdigit():
        return int(value.partition(".")[0])
    when = datetime.fromisoformat(value)
    if when.tzinfo is None:
        raise ValueError("no zone given")
    return (when - _EPOCH) // _MS


def _fields(raw: dict[str, Any], path: str = "", *, nulls: bool = False) -> Fields:
    given = raw.get("fields")
    if given is None:
        return {}
    if not isinstance(given, list | dict):
        raise InvalidEvent(
            "fields is a list of {name, value}", field=f"{path}fields", value=_shown_value(given)
        )
    if len(given) > MAX_FIELDS:
        raise InvalidEvent(f"at most {MAX_FIELDS} fields", field=f"{path}fields", value=len(given))
    if isinstance(given, list):
        given = dict(_pair(entry, f"{path}fields[{i}]") for i, entry in enumerate(given))
    for name, value in given.items():
        if type(name) is not str or not _encodes(name):
            raise InvalidEvent("a field's name is a string", field=f"{path}fields", value=_shown_value(name))
        if not (_is_value(value) or (nulls and value is None)):
            raise InvalidEvent(
                "a field's value is a bool, string, number, list of strings or list of numbers",
                field=f"{path}fields.{_cut(name)}",
                value=_shown_value(value),
                hint="null removes a field in a patch" if value is None else None,
            )
    return given


def _pair(entry: Any, path: str) -> tuple[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "value" not in entry:
        raise InvalidEvent("a field is {name, value}", field=path, value=_shown_value(entry))
    return entry["name"], entry["value"]


def _is_value(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return _encodes(value)
    if kind is float:
        return math.isfinite(value)
    if kind is int:
        return bool(-(1 << 63) <= value < 1 << 63)
    if kind is list:
        return all(type(v) is str and _is_value(v) for v in value) or all(
            type(v) in (int, float) and _is_value(v) for v in value
        )
    return value is True or value is False


def _encodes(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _choice(raw: dict[str, Any], name: str, known: tuple[str, ...], path: str = "") -> Any:
    value = raw.get(name)
    if value is None:
        return known[0]
    if value not in known:
        raise InvalidEvent(
            f"unknown {name}", field=path + name, value=_shown_value(value), hint=f"one of {', '.join(known)}"
        )
    return value


def _item(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> ItemEvent:
    available = raw.get("available")
    if available is not None and type(available) is not bool:
        raise InvalidEvent("available is true or false", field="available", value=_shown_value(available))
    op = _choice(raw, "op", ("patch", "replace", "delete"))
    fields = _fields(raw, nulls=op == "patch")
    return ItemEvent(
        id=id,
        timestamp=timestamp,
        tenant=tenant,
        item=_id(raw, "item"),
        op=op,
        fields=fields,
        available=available,
    )


def _user(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> UserEvent:
    op = _choice(raw, "op", ("patch", "replace", "delete"))
    fields = _fields(raw, nulls=op == "patch")
    return UserEvent(id=id, timestamp=timestamp, tenant=tenant, user=_id(raw, "user"), op=op, fields=fields)


def _identify(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> IdentifyEvent:
    return IdentifyEvent(
        id=id, timestamp=timestamp, tenant=tenant, anonymous=_id(raw, "anonymous"), user=_id(raw, "user")
    )


def _shown(entry: Any, place: int) -> ShownItem:
    path = f"items[{place}]."
    if isinstance(entry, str | int) and not isinstance(entry, bool):
        entry = {"id": entry}
    if not isinstance(entry, dict):
        raise InvalidEvent(
            "a shown item is {id, position?, slot?, fields?}", field=path[:-1], value=_shown_value(entry)
        )
    position = entry.get("position")
    position = place + 1 if position is None else position
    if type(position) is not int or not 1 <= position <= 1_000_000:
        raise InvalidEvent(
            "a position is a whole number from 1", field=path + "position", value=_shown_value(position)
        )
    slot = _choice(entry, "slot", ("organic", "pinned", "sponsored"), path)
    return ShownItem(id=_id(entry, "id", path), position=position, slot=slot, fields=_fields(entry, path))


def _ranking(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> RankingEvent:
    items = raw.get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_SHOWN:
        size = len(items) if isinstance(items, list) else None
        raise InvalidEvent(
            f"items is a list of 1 to {MAX_SHOWN} shown items",
            field="items",
            value=size,
            hint="send what was shown, in order",
        )
    return RankingEvent(
        id=id,
        timestamp=timestamp,
        tenant=tenant,
        items=tuple(_shown(entry, place) for place, entry in enumerate(items)),
        user=_optional_id(raw, "user"),
        session=_optional_id(raw, "session"),
        fields=_fields(raw),
    )


def _interaction(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> InteractionEvent:
    return InteractionEvent(
        id=id,
        timestamp=timestamp,
        tenant=tenant,
        type=_id(raw, "type"),
        item=_id(raw, "item"),
        user=_optional_id(raw, "user"),
        session=_optional_id(raw, "session"),
        ranking=_optional_id(raw, "ranking"),
        fields=_fields(raw),
    )


_BUILDERS: dict[str, Callable[[dict[str, Any], str, int, str], Event]] = {
    "item": _item,
    "user": _user,
    "identify": _identify,
    "ranking": _ranking,
    "interaction": _interaction,
}
