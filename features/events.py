"""The event dialect (docs/formats.md §1): typed events, their stored form and keys. It knows no log and no HTTP.

`from_bytes` reads the stored form, which only `to_bytes` writes. What anybody sends is read and checked by
features/event_parser.py, not here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from features.errors import InvalidEvent
from features.keys import text_key

FieldValue = bool | int | float | str | list[str | int | float] | None
Fields = dict[str, FieldValue]
Op = Literal["patch", "replace", "delete"]
Slot = Literal["organic", "pinned", "sponsored"]


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="event", kw_only=True):
    id: str
    timestamp: int
    tenant: str = "default"


class ItemEvent(_Event, frozen=True, tag="item", kw_only=True):
    """An item's fields change: `patch` merges (null removes), `replace` takes the place of all, `delete` ends it."""

    item: str
    op: Op = "patch"
    fields: Fields = {}
    available: bool | None = None


class UserEvent(_Event, frozen=True, tag="user", kw_only=True):
    """A user's fields change; `delete` drops her state and blanks her records."""

    user: str
    op: Op = "patch"
    fields: Fields = {}


class IdentifyEvent(_Event, frozen=True, tag="identify", kw_only=True):
    """This session or visitor is that user. Recorded; merging their histories is a later issue."""

    anonymous: str
    user: str


class ShownItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One impression: an item at a position (1 = first)."""

    id: str
    position: int
    slot: Slot = "organic"
    fields: Fields = {}


class RankingEvent(_Event, frozen=True, tag="ranking", kw_only=True):
    """What was shown. `id` is the answer's request_id where the answer was ours."""

    items: tuple[ShownItem, ...]
    user: str | None = None
    session: str | None = None
    fields: Fields = {}


class InteractionEvent(_Event, frozen=True, tag="interaction", kw_only=True):
    """What somebody did with an item; `ranking` is the id of the ranking she saw it in."""

    type: str
    item: str
    user: str | None = None
    session: str | None = None
    ranking: str | None = None
    fields: Fields = {}


Event = ItemEvent | UserEvent | IdentifyEvent | RankingEvent | InteractionEvent

_KINDS: dict[type, str] = {
    kind: str(kind.__struct_config__.tag)
    for kind in (ItemEvent, UserEvent, IdentifyEvent, RankingEvent, InteractionEvent)
}

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def to_bytes(event: Event) -> bytes:
    """The stored form: JSON, defaults left out."""
    return _encoder.encode(event)


def from_bytes(body: bytes) -> Event:
    """Read the stored form. Raises InvalidEvent where it is not (a damaged record)."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(f"not a stored event: {error}", hint="see the dead-letter stream") from error


def event_kind(event: Event) -> str:
    """`item`, `user`, `identify`, `ranking` or `interaction`."""
    return _KINDS[type(event)]


def event_key(event: Event) -> str:
    """The partition key: user, else session, else item."""
    if isinstance(event, ItemEvent):
        return event.item
    if isinstance(event, UserEvent | IdentifyEvent):
        return event.user
    first = (
        event.item if isinstance(event, InteractionEvent) else event.items[0].id if event.items else event.id
    )
    return event.user or event.session or first


def event_hash(event: Event) -> int:
    """What an event counts once by: 63 bits of tenant, kind and id (a signed 64-bit column holds it)."""
    return text_key("event", f"{event.tenant}\0{_KINDS[type(event)]}\0{event.id}") >> 1 or 1
