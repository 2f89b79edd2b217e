"""Dead letters: what they say, and sending them again as events once what was wrong is mended. It prints nothing.

A letter keeps where its record stood, why it could not be read, and the first 8 KB of it. A record that several
processes met may have several letters: they are shown as one, the oldest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from features.errors import InvalidEvent, InvalidRequest, LogError, ReplError
from features.event_log import EventLog
from features.event_parser import parse_event
from features.records import Record, event_record, partitions_in, split_key

STREAM = "dead-letter"
Clock = Callable[[], int]


@dataclass(frozen=True)
class Letter:
    """One letter. number: its place on the stream; source: where the record stood; whole: nothing of it is cut."""

    number: int
    at: int
    tenant: str
    source: str
    offset: int | None
    reason: str
    raw: str
    whole: bool

    def as_dict(self) -> dict[str, Any]:
        """For `report`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _letter(record: Record) -> Letter:
    try:
        body = orjson.loads(record.body)
    except ValueError:
        body = {"reason": "the letter itself cannot be read", "raw": record.body.decode("utf-8", "replace")}
    raw = str(body.get("raw", ""))
    return Letter(
        record.place, record.append_time, record.tenant, str(body.get("source", "")), body.get("offset"),
        str(body.get("reason", "")), raw, len(raw.encode()) < 8_192,
    )  # fmt: skip


def letters(log: EventLog, batch: int = 1_000) -> Iterator[Letter]:
    """All letters that are still there, oldest first, one for each record. Raises LogError."""
    starts, seen = log.start_offsets(), set[tuple[str, int]]()
    for name in partitions_in(STREAM, starts):
        at, partition = starts[name], split_key(name)[1]
        while records := log.read("dead-letter", at, batch, partition):
            for record in records:
                letter = _letter(record)
                known = letter.offset is not None and (letter.source, letter.offset) in seen
                if letter.offset is not None and len(seen) < 1_000_000:
                    seen.add((letter.source, letter.offset))
                if not known:
                    yield letter
            at = records[-1].offset + 1


def letter_of(log: EventLog, number: int) -> Letter:
    """The letter of this number. Raises InvalidRequest where there is none, LogError."""
    found = next((one for one in letters(log) if one.number == number), None)
    if found is None:
        raise InvalidRequest(
            "there is no such dead letter", field="number", value=number, hint="`dead-letter list` shows them"
        )
    return found


def retry(log: EventLog, letter: Letter, clock: Clock) -> int | None:
    """Append the letter's record as an event again; its place (None: the log knew its id already).

    An id that was learned once does not count twice. Raises InvalidEvent where it is no event still, ReplError where
    too little of it was kept, LogError.
    """
    if not letter.whole:
        raise ReplError(
            f"dead letter {letter.number} keeps only the beginning of its record",
            hint=f"send it again from its source: {letter.source} at offset {letter.offset}",
        )
    event = parse_event(letter.raw, tenant=letter.tenant, now_ms=clock())
    return log.append("event", [event_record(event)])[0]


def retry_all(log: EventLog, chosen: list[Letter], clock: Clock) -> dict[str, Any]:
    """Retry letters; {appended, known, refused: [{number, reason}]} (the first 100 of those). Raises LogError."""
    answer: dict[str, Any] = {"appended": 0, "known": 0, "still_refused": 0, "refused": []}
    for letter in chosen:
        try:
            answer["appended" if retry(log, letter, clock) is not None else "known"] += 1
        except LogError:
            raise
        except (InvalidEvent, ReplError) as error:
            answer["still_refused"] += 1
            answer["refused"] += [{"number": letter.number, "reason": error.message}][: 100 - len(answer["refused"])]
    return answer
