"""The one parser of the event dialect (docs/formats.md §1): what anybody sends, checked and normalised.

`parse_event` refuses with field, value and what to do. It knows no log and no HTTP; the typed events and their
stored form are features/events.py's, the parts of an event features/event_parts.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from features.errors import InvalidEvent
from features.event_parts import choice, cut, fields_of, optional_id, required_id, shown_value, timestamp_of
from features.events import (
    Event,
    IdentifyEvent,
    InteractionEvent,
    ItemEvent,
    RankingEvent,
    ShownItem,
    UserEvent,
    to_bytes,
)

MAX_EVENT_BYTES = 256 << 10
MAX_SHOWN = 5_000


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
        raise InvalidEvent("unknown event", field="event", value=shown_value(kind), hint=hint)
    named = raw.get("tenant")
    if named is not None and named != tenant:
        raise InvalidEvent(
            "another tenant",
            field="tenant",
            value=shown_value(named),
            hint=f"this service holds the tenant {tenant!r}",
        )
    event = build(raw, required_id(raw, "id"), timestamp_of(raw.get("timestamp"), now_ms), tenant)
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
            raise InvalidEvent(f"not JSON: {error}", value=cut(text), hint="see docs/events.md") from error
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
        else InvalidEvent("an event is a JSON object", value=shown_value(entry))
    )


def _load(raw: bytes | str) -> dict[str, Any]:
    _check_size(len(raw))
    try:
        entry = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error}", value=cut(raw), hint="one JSON object a line") from error
    found = _object(entry)
    if isinstance(found, InvalidEvent):
        raise found
    return found


def _item(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> ItemEvent:
    available = raw.get("available")
    if available is not None and type(available) is not bool:
        raise InvalidEvent("available is true or false", field="available", value=shown_value(available))
    op = choice(raw, "op", ("patch", "replace", "delete"))
    fields = fields_of(raw, nulls=op == "patch")
    return ItemEvent(
        id=id,
        timestamp=timestamp,
        tenant=tenant,
        item=required_id(raw, "item"),
        op=op,
        fields=fields,
        available=available,
    )


def _user(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> UserEvent:
    op = choice(raw, "op", ("patch", "replace", "delete"))
    fields = fields_of(raw, nulls=op == "patch")
    return UserEvent(id=id, timestamp=timestamp, tenant=tenant, user=required_id(raw, "user"), op=op, fields=fields)


def _identify(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> IdentifyEvent:
    return IdentifyEvent(
        id=id,
        timestamp=timestamp,
        tenant=tenant,
        anonymous=required_id(raw, "anonymous"),
        user=required_id(raw, "user"),
    )


def _shown(entry: Any, place: int) -> ShownItem:
    path = f"items[{place}]."
    if isinstance(entry, str | int) and not isinstance(entry, bool):
        entry = {"id": entry}
    if not isinstance(entry, dict):
        raise InvalidEvent(
            "a shown item is {id, position?, slot?, fields?}", field=path[:-1], value=shown_value(entry)
        )
    position = entry.get("position")
    position = place + 1 if position is None else position
    if type(position) is not int or not 1 <= position <= 1_000_000:
        raise InvalidEvent(
            "a position is a whole number from 1", field=path + "position", value=shown_value(position)
        )
    slot = choice(entry, "slot", ("organic", "pinned", "sponsored"), path)
    return ShownItem(id=required_id(entry, "id", path), position=position, slot=slot, fields=fields_of(entry, path))


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
        user=optional_id(raw, "user"),
        session=optional_id(raw, "session"),
        fields=fields_of(raw),
    )


def _interaction(raw: dict[str, Any], id: str, timestamp: int, tenant: str) -> InteractionEvent:
    return InteractionEvent(
        id=id,
        timestamp=timestamp,
        tenant=tenant,
        type=required_id(raw, "type"),
        item=required_id(raw, "item"),
        user=optional_id(raw, "user"),
        session=optional_id(raw, "session"),
        ranking=optional_id(raw, "ranking"),
        fields=fields_of(raw),
    )


_BUILDERS: dict[str, Callable[[dict[str, Any], str, int, str], Event]] = {
    "item": _item,
    "user": _user,
    "identify": _identify,
    "ranking": _ranking,
    "interaction": _interaction,
}
