"""`--skip FROM..TO`: what a rollback leaves out, as offset maps of the stream `event`. It appends nothing.

    1200..1350                                   offsets, where the log has one partition
    event/0=1200,event/2=90..event/0=1350,event/2=120     offsets by partition; partitions that are not named: nothing
    2026-11-21T10:00..2026-11-21T11:00           what was appended in this time (UTC where no zone is named)
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NoReturn

from features.errors import InvalidInput, InvalidRequest
from features.event_log import EventLog
from features.records import Offsets, Stream, offset_key, partitions_in, split_key
from service.weight_store import Checkpoint, WeightStore

EVENT: Stream = "event"
ARCHIVE_FORM = (
    "an archive reaches further back: stop the trainer, `repl-ranker bootstrap --archive URL --skip FROM..TO`"
    " into an empty store, start it again"
)
HINT = (
    "two offsets with the first smaller, such as 1200..1350 (TO is not skipped); of several partitions "
    "event/0=1200,event/1=90..event/0=1350,event/1=120; or two times such as 2026-11-21T10:00..2026-11-21T11:00"
)


def skip_range(text: str, log: EventLog) -> dict[str, Offsets]:
    """{from, to} of offset maps. Raises InvalidRequest, also for a range that holds nothing; LogError."""
    first, dots, last = text.partition("..")
    if not dots:
        _refuse(text, "this is no range of the log")
    names = sorted(partitions_in(EVENT, log.end_offsets()))
    if first.isdecimal() and last.isdecimal():
        if len(names) > 1:
            _refuse(text, f"the log has {len(names)} partitions of events, and this names none")
        found = {"from": {offset_key(EVENT): int(first)}, "to": {offset_key(EVENT): int(last)}}
    elif "=" in first:
        found = {"from": _map(text, first, names), "to": _map(text, last, names)}
        if found["from"].keys() != found["to"].keys():
            _refuse(text, "FROM and TO name different partitions")
    else:
        found = _by_time(text, log, _time(text, first), _time(text, last))
    if any(found["from"][name] > at for name, at in found["to"].items()) or found["from"] == found["to"]:
        _refuse(text, "this is no range of the log: it holds nothing")
    return found


def _refuse(text: str, why: str) -> NoReturn:
    raise InvalidRequest(why, field="--skip", value=text, hint=HINT)


def _map(text: str, part: str, names: list[str]) -> Offsets:
    found: Offsets = {}
    for one in part.split(","):
        name, equals, offset = one.strip().partition("=")
        if not equals or not offset.isdecimal() or name not in names:
            _refuse(text, f"{one!r} is no offset of {names[0]} to {names[-1]}")
        found[name] = int(offset)
    return found


def time_of(text: str) -> int:
    """Milliseconds since 1970 of an ISO time (UTC where it names no zone) or a number of them. Raises InvalidInput."""
    if text.isdecimal():
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            "not a time", field="time", value=text, hint="such as 2026-11-21T08:30 (UTC), or milliseconds since 1970"
        ) from error
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1_000)


def _time(text: str, part: str) -> int:
    try:
        return time_of(part)
    except InvalidInput:
        _refuse(text, "this is no range of the log")


def _by_time(text: str, log: EventLog, start: int, end: int) -> dict[str, Offsets]:
    if start >= end:
        _refuse(text, "this is no range of the log: FROM is not before TO")
    firsts, ends = log.start_offsets(), log.end_offsets()
    names = partitions_in(EVENT, ends)
    return {
        side: {name: offset_at(log, name, firsts[name], ends[name], t) for name in names}
        for side, t in (("from", start), ("to", end))
    }


def checkpoint_before(store: WeightStore, start: Offsets, at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint (of version `at_most` or older) that stands before these offsets of the stream `event`.
    Raises StoreError."""
    found = store.latest_checkpoint(at_most)
    while found is not None and any(found.offsets.get(name, 0) > at for name, at in start.items()):
        found = store.latest_checkpoint(found.version - 1)
    return found


def check_reach(log: EventLog, store: WeightStore, skip: dict[str, Offsets]) -> int:
    """The version of the checkpoint that counters can be rebuilt from without the range `skip`. Raises InvalidRequest
    where no checkpoint is old enough, or the log does not reach back to it; LogError, StoreError."""
    found = checkpoint_before(store, skip["from"])
    if found is None:
        _beyond(skip, "no checkpoint from before the range is kept")
    starts = log.start_offsets()
    late = [name for name, at in found.offsets.items() if starts.get(name, 0) > at and not name.startswith("served/")]
    if late:
        _beyond(skip, f"the log begins after the checkpoint of version {found.version} ({', '.join(sorted(late))})")
    return found.version


def _beyond(skip: dict[str, Offsets], why: str) -> NoReturn:
    said = f"{why}: counters cannot be rebuilt"
    raise InvalidRequest(said, field="--counters", value=skip["from"], hint=ARCHIVE_FORM)


def offset_at(log: EventLog, name: str, first: int, end: int, t: int) -> int:
    """The first offset of a partition in [first, end] whose record was appended at `t` (ms) or later; `end`: none.

    Append times grow within a partition, but for what rankers' clocks differ."""
    stream, partition = split_key(name)
    while first < end:
        middle = (first + end) // 2
        found = log.read(stream, middle, 1, partition)
        if not found or found[0].offset >= end or found[0].append_time >= t:
            end = middle
        else:
            first = found[0].offset + 1
    return first
