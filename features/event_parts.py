"""The parts that events are made of, checked: ids, times, fields and choices, and a value as a message may show it.

Each refuses with field, value and what to do (InvalidEvent), whatever is sent. Which event has which parts is
features/event_parser.py's.
"""

from __future__ import annotations

import math
import reprlib
from datetime import UTC, datetime, timedelta
from typing import Any

from features.errors import InvalidEvent
from features.events import Fields

MAX_ID_BYTES = 256
MAX_FIELDS = 1_000
MAX_AHEAD_MS = 3_600_000
_LAST_MS = 253_402_300_799_999  # end of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LONGEST_TIME = 40
_ZONE_HINT = "send milliseconds since 1970, or ISO-8601 with a zone such as 2026-01-31T12:00:00Z"


def cut(text: bytes | str) -> str:
    """The beginning of what was sent, as text that can be sent back."""
    shown = text[:200] if isinstance(text, str) else text[:200].decode("utf-8", "replace")
    return shown.encode("utf-8", "replace").decode()


def shown_value(value: Any) -> str | None:
    """A value for an error message: short, whatever its size and depth; None for nothing."""
    if value is None:
        return None
    try:
        return cut(value if isinstance(value, str) else reprlib.repr(value))
    except ValueError:  # an int of more digits than Python prints
        return f"{type(value).__name__} of more than 4,300 digits"


def text_id(value: Any, field: str) -> str:
    """An ID as text of 1 to 256 bytes of UTF-8; an integer is its decimal text."""
    if type(value) is int and abs(value) < 1 << 64:
        value = str(value)
    if type(value) is not str:
        hint = "send a string of 1 to 256 bytes"
        raise InvalidEvent("an ID is a string", field=field, value=shown_value(value), hint=hint)
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise InvalidEvent("an ID must be valid UTF-8", field=field, hint="no lone surrogates") from error
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidEvent(
            f"an ID has 1 to 256 bytes, not {size}", field=field, value=cut(value), hint="shorten or hash it"
        )
    return value


def required_id(raw: dict[str, Any], name: str, path: str = "") -> str:
    """The ID of this name, which must be there; `path` stands before the name in a message."""
    value = raw.get(name)
    if value is None:
        raise InvalidEvent(
            f"{path}{name} is missing", field=path + name, hint="every event of this kind needs it"
        )
    return text_id(value, path + name)


def optional_id(raw: dict[str, Any], name: str) -> str | None:
    """The ID of this name, None where there is none."""
    value = raw.get(name)
    return None if value is None else text_id(value, name)


def timestamp_of(value: Any, now_ms: int | None) -> int:
    """Milliseconds since 1970 of a number, decimal text or ISO-8601 with a zone; at most an hour past `now_ms`."""
    ms = _milliseconds(value)
    if not 0 <= ms <= _LAST_MS:
        raise InvalidEvent(
            "timestamp out of range", field="timestamp", value=shown_value(value), hint=_ZONE_HINT
        )
    if now_ms is not None and ms > now_ms + MAX_AHEAD_MS:
        raise InvalidEvent(
            "timestamp is more than an hour ahead of this clock",
            field="timestamp",
            value=shown_value(value),
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
            f"not a time: {cut(str(error))}", field="timestamp", value=shown_value(value), hint=_ZONE_HINT
        ) from error
    raise InvalidEvent("not a time", field="timestamp", value=shown_value(value), hint=_ZONE_HINT)


def _from_text(value: str) -> int:
    if len(value) > _LONGEST_TIME:
        raise ValueError(f"longer than {_LONGEST_TIME} characters")
    if value[:1].isdigit() and value.replace(".", "", 1).isdigit():
        return int(value.partition(".")[0])
    when = datetime.fromisoformat(value)
    if when.tzinfo is None:
        raise ValueError("no zone given")
    return (when - _EPOCH) // _MS


def fields_of(raw: dict[str, Any], path: str = "", *, nulls: bool = False) -> Fields:
    """`fields` as a dict, from a list of {name, value} or an object; `nulls`: None may stand for a value."""
    given = raw.get("fields")
    if given is None:
        return {}
    if not isinstance(given, list | dict):
        raise InvalidEvent(
            "fields is a list of {name, value}", field=f"{path}fields", value=shown_value(given)
        )
    if len(given) > MAX_FIELDS:
        raise InvalidEvent(f"at most {MAX_FIELDS} fields", field=f"{path}fields", value=len(given))
    if isinstance(given, list):
        given = dict(_pair(entry, f"{path}fields[{i}]") for i, entry in enumerate(given))
    for name, value in given.items():
        if type(name) is not str or not _encodes(name):
            raise InvalidEvent("a field's name is a string", field=f"{path}fields", value=shown_value(name))
        if not (_is_value(value) or (nulls and value is None)):
            raise InvalidEvent(
                "a field's value is a bool, string, number, list of strings or list of numbers",
                field=f"{path}fields.{cut(name)}",
                value=shown_value(value),
                hint="null removes a field in a patch" if value is None else None,
            )
    return given


def _pair(entry: Any, path: str) -> tuple[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "value" not in entry:
        raise InvalidEvent("a field is {name, value}", field=path, value=shown_value(entry))
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


def choice(raw: dict[str, Any], name: str, known: tuple[str, ...], path: str = "") -> Any:
    """The member of this name, one of `known`; the first where there is none."""
    value = raw.get(name)
    if value is None:
        return known[0]
    if value not in known:
        raise InvalidEvent(
            f"unknown {name}", field=path + name, value=shown_value(value), hint=f"one of {', '.join(known)}"
        )
    return value
