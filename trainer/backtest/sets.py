"""The two real logs of the backtest in small, as events, with the protocol of each. It measures nothing.

Online Retail: cut at 80 % of the time span; a basket is what one customer bought in one minute, at most three
of its lines are targets; rows without a customer are sessions, which feed the statistics; refunds are left
out. taobao2017-mb: cut at 80 % of the events; targets are carts and purchases, each 24th; favourites are
history only.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

from features.events import Event, InteractionEvent
from features.schema import CART, PURCHASE
from trainer.backtest.replay import Protocol
from trainer.importing.online_retail import read


@dataclass(frozen=True, slots=True)
class RealLog:
    """Events in time order and what is measured on them."""

    name: str
    events: list[Event]
    protocol: Protocol


def online_retail(path: Path, *, validation: bool = False) -> RealLog:
    """Online Retail from its CSV. validation: a slice inside the first 80 %, cut at 66 % of the span, to
    choose on.
    """
    events = [event for event in read(path).events() if not _refund(event)]
    first, last = events[0].timestamp, events[-1].timestamp

    def at(share: float) -> int:
        return first + int((last - first) * share)

    cut, until = (at(0.66), at(0.8)) if validation else (at(0.8), None)
    protocol = Protocol(cut, until, fit_from=at(0.25), positives=frozenset({PURCHASE}))
    return RealLog("online-retail", events, protocol)


def _refund(event: Event) -> bool:
    return isinstance(event, InteractionEvent) and event.type == "refund"


def taobao(path: Path, *, validation: bool = False) -> RealLog:
    """taobao2017-mb from events.csv.gz (ts,user,item,event). validation: cut at 65 % of the events, up to 80
    %.
    """
    events: list[Event] = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            t, user, item, kind = int(row["ts"]) * 1_000, row["user"], row["item"], row["event"]
            events.append(InteractionEvent(id=str(number), timestamp=t, type=kind, item=item, user=user))

    def at(share: float) -> int:
        return events[int(len(events) * share)].timestamp

    cut, until = (at(0.65), at(0.8)) if validation else (at(0.8), None)
    positives = frozenset({CART, PURCHASE})
    return RealLog("taobao2017-mb", events, Protocol(cut, until, at(0.2), positives, every=24, fit_every=8))
