"""What callers may send to the ranker: typed structs, decoded by msgspec, with errors that name the place.

Only the form is judged here (types, ranges, ID lengths); what a value means is judged where it is used.
Unknown members are refused with the nearest known name: a misspelt `topk` must not silently rank everything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import InvalidRequest, TooLarge
from service.candidates import Candidates

Id = str | int
Value = bool | str | int | float | list[str | int | float] | None
Count = Annotated[int, msgspec.Meta(ge=1)]
Wait = Annotated[int, msgspec.Meta(ge=0, le=60_000)]

MAX_ID_BYTES = 256
MAX_QUERY_CHARS = 1_000


class Pair(msgspec.Struct, forbid_unknown_fields=True):
    """One field in the list form {name, value}."""

    name: str
    value: Value


Fields = dict[str, Value] | list[Pair]


class Candidate(msgspec.Struct, forbid_unknown_fields=True):
    """A candidate with fields of this request (scope `candidate` of the schema)."""

    id: Id
    fields: Fields | None = None


class Condition(msgspec.Struct, forbid_unknown_fields=True):
    """One condition on a catalogue field; all of a request's must hold."""

    field: str
    op: Literal["eq", "ne", "in", "nin", "lt", "lte", "gt", "gte", "exists"]
    value: Value = None


Conditions = Annotated[list[Condition], msgspec.Meta(max_length=100)]
"""All must hold; each costs a pass over the candidates, so their number has a bound."""

Excluded = Annotated[list[Id], msgspec.Meta(max_length=10_000)]
"""A body of 4 MB has room for half a million, which would take the event loop half a second."""


class RankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/rank."""

    items: list[str | int | Candidate]
    user: Id | None = None
    session: Id | None = None
    query: str | None = None
    fields: Fields | None = None
    top_k: Count | None = None
    exclude: Excluded = []
    filter: Conditions = []
    objective: str | None = None
    pre_rank: Count | None = None
    after: str | None = None
    wait_ms: Wait | None = None
    explain: bool = False
    format: Literal["columns", "rows"] = "columns"


class _RankForm(RankRequest):
    items: msgspec.Raw  # type: ignore[assignment]  # read by service/candidates.py


class RetrieveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/retrieve: as a rank request, with the whole catalogue as candidates."""

    user: Id | None = None
    session: Id | None = None
    query: str | None = None
    match: Literal["words", "none"] | None = None
    fields: Fields | None = None
    top_k: Count = 100
    exclude: Excluded = []
    filter: Conditions = []
    objective: str | None = None
    pre_rank: Count | None = None
    after: str | None = None
    wait_ms: Wait | None = None
    explain: bool = False
    format: Literal["columns", "rows"] = "columns"


class EmbeddingsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/embeddings: any of the three lists."""

    users: list[Id] = []
    items: list[Id] = []
    queries: list[str] = []


class OffsetRange(msgspec.Struct, forbid_unknown_fields=True):
    """A range of the log: offset maps, `from` inclusive, `to` exclusive."""

    from_: dict[str, int] = msgspec.field(name="from")
    to: dict[str, int]


class RollbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/versions/{v}/rollback; without `skip`, everything learned after v is skipped."""

    skip: OffsetRange | None = None
    wait_ms: Wait | None = None


class PinRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/versions/{v}/pin and /unpin."""

    wait_ms: Wait | None = None


class StageRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/bases/stage; `source`: a base's sha256 that is here, or a place that the setting base_sources allows."""

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
    wait_ms: Wait | None = None


class PromoteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/bases/promote; `base`: sha256 (the one beside); `percent`: of the users, by their hash."""

    base: str = ""
    percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 100.0
    wait_ms: Wait | None = None


class RevertRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/bases/revert."""

    wait_ms: Wait | None = None


class ModeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/mode; without `surface` all of them: 0 recommendation, 1 search."""

    mode: Literal["rank", "passthrough"]
    surface: Literal[0, 1] | None = None


T = TypeVar("T", bound=msgspec.Struct)
_DECODERS: dict[type, Any] = {}
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_TICKED = re.compile(r"field `([^`]+)`")
_ITEMS = re.compile(rb'"(?:i|\\u0069)(?:t|\\u0074)(?:e|\\u0065)(?:m|\\u006[dD])(?:s|\\u0073)"')
"""The text "items" in all its spellings."""


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    found = _DECODERS.get(kind)
    if found is None:
        found = _DECODERS[kind] = msgspec.json.Decoder(kind)
    return found


def _look_up(data: bytes, path: str) -> Any:
    """The value at a path such as `items[3].id` of a JSON document; None where there is none, or no document."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # a fault after the first
        return None
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        elif name and isinstance(value, dict):
            value = value.get(name)
        else:
            return None
    return value


def _explain(error: msgspec.ValidationError, data: bytes, kind: type[msgspec.Struct]) -> InvalidRequest:
    match = _AT.match(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    path = path.removeprefix("$").removeprefix(".")
    ticked = _TICKED.search(what)
    hint = "docs/http.md lists the members and their types"
    if ticked and "unknown" in what:
        kinds = (Candidate, Condition, Pair) if path else (kind,)
        known = [member.encode_name for one in kinds for member in msgspec.structs.fields(one)]
        close = difflib.get_close_matches(ticked[1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else hint
    elif ticked and "missing" in what:
        hint = f"send {ticked[1]!r}"
    if ticked:
        return InvalidRequest(what, field=f"{path}.{ticked[1]}".lstrip("."), hint=hint)
    return InvalidRequest(what, field=path or None, value=_look_up(data, path) if path else None, hint=hint)


def decode(data: bytes, kind: type[T], *, empty: bytes | None = None) -> T:
    """Decode a request body, or raise InvalidRequest naming field, value and what to do.

    `empty` stands for a body of no bytes where the route allows none.
    """
    if not data and empty is not None:
        data = empty
    try:
        return _decoder(kind).decode(data)
    except msgspec.ValidationError as error:
        raise _explain(error, data, kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "send one JSON object in UTF-8, content-type application/json"
        raise InvalidRequest(f"the body is not JSON: {error}", hint=hint) from error


def id_text(value: Id, field: str) -> str:
    """An ID as text (integers as decimals); InvalidRequest unless 1 to 256 bytes of UTF-8."""
    text = value if type(value) is str else str(value)
    if not 0 < len(text) <= MAX_ID_BYTES // 4 and not 0 < len(text.encode()) <= MAX_ID_BYTES:
        message = f"an ID has 1 to {MAX_ID_BYTES} bytes of UTF-8, this one {len(text.encode())}"
        raise InvalidRequest(message, field=field, value=text, hint="shorten it, or leave the item out")
    return text


def optional_id(value: Id | None, field: str) -> str | None:
    """`id_text`, or None for None."""
    return None if value is None else id_text(value, field)


def id_texts(values: Sequence[Id], field: str) -> list[str]:
    """`id_text` of a list; errors name the index."""
    return [id_text(value, f"{field}[{index}]") for index, value in enumerate(values)]


def field_map(fields: Fields | None) -> dict[str, Any]:
    """Both forms of `fields` as one mapping; the last of a repeated name counts."""
    if not fields:
        return {}
    if isinstance(fields, dict):
        return fields
    return {pair.name: pair.value for pair in fields}


def candidate_ids(request: RankRequest, limit: int) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Candidate IDs in the order sent, repeats included, and the fields of those that bring some.

    Raises InvalidRequest for an empty list or an ID out of bounds, TooLarge above `limit`.
    """
    items = request.items
    if not items:
        raise InvalidRequest("items is empty", field="items", hint="send 1 or more candidates")
    if len(items) > limit:
        raise TooLarge(
            f"{len(items)} candidates, the limit is {limit}",
            field="items",
            value=len(items),
            hint="send fewer, use /v1/retrieve, or raise the setting max_candidates",
        )
    ids: list[str] = []
    fields: dict[str, Mapping[str, Any]] = {}
    for index, item in enumerate(items):
        if type(item) is str and 0 < len(item) <= MAX_ID_BYTES // 4:
            ids.append(item)
            continue
        if isinstance(item, Candidate):
            name = id_text(item.id, f"items[{index}].id")
            if item.fields:
                fields.setdefault(name, field_map(item.fields))
        else:
            name = id_text(item, f"items[{index}]")
        ids.append(name)
    return ids, fields


def _named_once(data: bytes, items: npt.NDArray[np.uint8]) -> bool:
    """Whether the body cannot hold a second member `items`, of which nobody has looked at the types.

    items: the bytes of the last one, a part of `data`. False also where another text is "items": the slow way tells.
    """
    whole = np.frombuffer(data, np.uint8)
    start = items.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return len(_ITEMS.findall(data[:start] + data[start + len(items) :])) == 1


def decode_rank(data: bytes, limit: int) -> tuple[RankRequest, Candidates, dict[str, Mapping[str, Any]]]:
    """A rank request with its candidates and the fields they bring: `decode` and `candidate_ids`, but a list of
    plain IDs is read without making an object of each. What is refused, and how, is theirs to say.
    """
    try:
        form = _decoder(_RankForm).decode(data)
        ids = Candidates.of_json(memoryview(form.items), limit, MAX_ID_BYTES)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        ids = None
    if ids is not None and _named_once(data, ids.data):
        return form, ids, {}
    ask = decode(data, RankRequest)
    names, fields = candidate_ids(ask, limit)
    return ask, Candidates.of(names), fields


def check_query(query: str | None) -> str | None:
    """The query, None where it is blank; InvalidRequest above MAX_QUERY_CHARS characters."""
    if query is None or not query.strip():
        return None
    if len(query) > MAX_QUERY_CHARS:
        message = f"a query has at most {MAX_QUERY_CHARS} characters, this one {len(query)}"
        raise InvalidRequest(message, field="query", value=query, hint="send what the user typed")
    return query
