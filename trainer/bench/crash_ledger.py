"""What the load of the crash bench sent, what was acknowledged, and what rankers answered. It sends nothing.

Each generator keeps a ledger of its own: an id is entered before it is sent, and ticked off when the service or the
broker acknowledged it. The proof compares these with the log, the trainer and the states, and trusts none of those.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

JUST_BACK = 3.0
"""Seconds within which a process that stood still finds out that a neighbour is not there."""


@dataclass
class Ledger:
    """Of one generator, which alone writes it."""

    name: str
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)  # id → event
    acknowledged: set[str] = field(default_factory=set)
    rubbish: set[str] = field(default_factory=set)  # acknowledged values that are no events
    calls: int = 0
    refused: int = 0
    repeated: int = 0  # sent again although acknowledged

    def enter(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event that is going to be sent."""
        self.sent[event["id"]] = event
        return event


@dataclass(frozen=True)
class Answer:
    """One request of a ranker: seconds of the monotonic clock; status 0: no answer."""

    ranker: str
    began: float
    ended: float
    status: int
    stale: bool


class Answers:
    """All answers to rank requests, and the times at which a ranker was away because it was made to be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.all: list[Answer] = []
        self.events: dict[int, int] = {}  # POST /v1/events by status
        self.away: list[tuple[str, float, float]] = []

    def add(self, answer: Answer) -> None:
        """One more."""
        with self._lock:
            self.all.append(answer)

    def told(self, status: int) -> None:
        """An answer to POST /v1/events."""
        with self._lock:
            self.events[status] = self.events.get(status, 0) + 1

    def was_away(self, ranker: str, began: float, ended: float) -> None:
        """This ranker was killed or stopped in between, until it was ready."""
        with self._lock:
            self.away.append((ranker, began, ended))

    def failed(self) -> list[Answer]:
        """Requests without a 200, by a ranker that was there from their beginning to their end."""
        return [one for one in self.all if one.status != 200 and not self._excused(one)]

    def _excused(self, one: Answer) -> bool:
        return any(name == one.ranker and one.began < end and one.ended > start for name, start, end in self.away)

    def stale_within(self, ranker: str, began: float, ended: float) -> tuple[int, int]:
        """(stale, all) answers of a ranker that came in this time, and not while or just after it was away itself."""
        away = [(start, end + JUST_BACK) for name, start, end in self.away if name == ranker]
        found = [
            one for one in self.all
            if one.ranker == ranker and began <= one.ended <= ended and one.status == 200
            and not any(start <= one.ended <= end for start, end in away)
        ]  # fmt: skip
        return sum(one.stale for one in found), len(found)

    def figures(self) -> dict[str, Any]:
        """For the report: how many, how many stale, the longest waits."""
        good = sorted(one.ended - one.began for one in self.all if one.status == 200 and not self._excused(one))
        return {
            "answers": len(self.all), "failed": len(self.failed()), "stale": sum(one.stale for one in self.all),
            "p50_ms": _ms(good, 0.5), "p99_ms": _ms(good, 0.99), "longest_ms": _ms(good, 1.0),
            "events_calls": {str(status): count for status, count in sorted(self.events.items())},
        }  # fmt: skip


def _ms(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000, 1) if ordered else 0.0
