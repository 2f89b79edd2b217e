"""What the tests of archives share: a manual clock, a small mixed log, and all that a log holds, to compare."""

from __future__ import annotations

import random
from dataclasses import dataclass

from features.event_log import EventLog
from features.event_log_archive_manifest import KEPT
from features.events import InteractionEvent, ItemEvent, UserEvent
from features.records import NewRecord, Record, ServedRecord, event_record

START = 1_750_000_000_000
DAY = 86_400_000


@dataclass
class Clock:
    """A clock that moves when told."""

    now: int = START

    def __call__(self) -> int:
        return self.now


def click(n: int, user: str, t: int) -> NewRecord:
    """A click's record."""
    return event_record(InteractionEvent(id=f"c{n}", timestamp=t, type="click", item=f"i{n % 50}", user=user))


def served(n: int, user: str | None, t: int) -> NewRecord:
    """A served record's record, with a body that is no text."""
    body = ServedRecord(
        request_id=f"r{n}", t=t, tenant="default", base="b", version=1, objective="click", items=["i1"],
        scores=bytes(4), hidden=1, z=bytes([n % 256, 255]), user=user,
    ).to_bytes()  # fmt: skip
    return NewRecord("served", "default", t, user or "i1", body)


def deletion(n: int, user: str, t: int) -> NewRecord:
    """A user's deletion."""
    return event_record(UserEvent(id=f"d{n}", timestamp=t, user=user, op="delete"))


def fill(log: EventLog, clock: Clock, count: int, seed: int = 1, step: int = 5 * 60_000) -> None:
    """Events of several days, some late and some imported, of users with names of all kinds; the other streams."""
    rnd = random.Random(seed)
    for n in range(count):
        clock.now += rnd.randrange(step)
        t = clock.now - (rnd.randrange(2 * DAY) if rnd.random() < 0.05 else 0)
        user = rnd.choice(("anna", "bob", "größe", "用户", ""))
        record = click(seed * 1_000_000 + n, user or "x", t)
        if rnd.random() < 0.2:
            record = record._replace(imported=True, timestamp=t - 30 * DAY)
        if rnd.random() < 0.1:
            record = record._replace(tenant="shop/2 ü", key=user)
        log.append("event", [record])
        if n % 3 == 0:
            log.append("served", [served(n, user or None, clock.now)])
        if n % 7 == 0:
            log.append("cut", [NewRecord("cut", "default", clock.now, "cut", b'{"offsets":{},"watermark":1,"v":1}')])
        if n % 40 == 0:
            item = ItemEvent(id=f"item-{seed}-{n}", timestamp=t, item=f"i{n}", fields={"title": "roter Hut"})
            log.append("event", [event_record(item)])
            log.append("control", [NewRecord("pin", "default", clock.now, "control", b'{"version":1}')])
            log.append("dead-letter", [NewRecord("dead-letter", "default", 0, "k", b"{}")])


def content(log: EventLog, limit: int = 777) -> dict[str, list[Record]]:
    """All records of the streams that an archive keeps, by stream/partition, read in batches."""
    found: dict[str, list[Record]] = {}
    for name, at in sorted(log.start_offsets().items()):
        stream, _, partition = name.partition("/")
        if stream not in KEPT:
            continue
        found[name] = []
        while part := log.read(stream, at, limit, int(partition)):  # type: ignore[arg-type]
            found[name] += part
            at = part[-1].offset + 1
    return found
