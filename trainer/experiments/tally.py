"""Counts the log into `Units`: which answers were of an experiment, what of them was shown, clicked and bought.

One pass over the streams served and event, joined by the ranking's id, with the windows of docs/joins-and-delays.md.
What waits for its label is bounded by number and by age. It computes no statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features import events
from features.errors import ReplError
from features.event_log import EventLog
from features.hash_window import HashWindow
from features.keys import KeyIndex, actor_key, item_key, text_key
from features.records import Record, ServedRecord
from features.schema import CLICK, PURCHASE, Schema
from service.experiments import unit_key
from trainer.experiments.merge import merged
from trainer.experiments.units import ANSWERS, CLICKS, IMPRESSIONS, MAX_UNITS, PURCHASES, REVENUE, Units

LEAD_MS = 60_000
"""Served records are read so much earlier: they are written after the answer, beside the events."""

ANSWER_MS = 3_600_000  # a ranking joins the answer of the last hour, as in the trainer
ANSWERS_OPEN, CLICKS_OPEN, ITEMS = 2_000_000, 1_000_000, 2_000_000
_TIME_BITS = 41
_TIME = (1 << _TIME_BITS) - 1
assert MAX_UNITS <= 1 << (63 - _TIME_BITS)


@dataclass(frozen=True)
class Rules:
    """Windows in ms, as in `trainer/join_rows.py`; tenant: whose records count."""

    tenant: str
    click_window: int = 600_000
    purchase_window: int = 86_400_000


class Tally:
    """`arms` names the arms of `experiment`; without an experiment every unit that was shown something is in arm 0."""

    def __init__(self, experiment: str | None, arms: Sequence[str], schema: Schema, rules: Rules) -> None:
        self._experiment, self._arms = experiment, {name: k for k, name in enumerate(arms)}
        self._behaviours, self._price, self._rules = schema.behaviours, schema.price, rules
        self.units = Units()
        self.counts: Counter[str] = Counter()
        self.first: int | None = None  # ms: the first answer counted
        self.last: int | None = None
        self._answers = HashWindow(ANSWERS_OPEN, ANSWER_MS + rules.click_window)  # ranking → slot, time
        self._shown = HashWindow(ANSWERS_OPEN, ANSWER_MS + rules.click_window)  # ranking → time
        self._clicked = HashWindow(CLICKS_OPEN, rules.purchase_window + rules.click_window)  # ranking, item → time
        self._bought = HashWindow(CLICKS_OPEN, rules.purchase_window + rules.click_window)
        self._items = KeyIndex(ITEMS)
        self._prices = np.zeros(1_024, np.float32)

    def read(self, log: EventLog) -> None:
        """All of a log, any number of partitions. Raises LogError."""
        for record in merged(log, {"served": LEAD_MS, "event": 0}):
            if record.tenant == self._rules.tenant:
                self.take(record)

    def take(self, record: Record) -> None:
        """One record; what cannot be read is counted."""
        try:
            if record.stream == "served":
                self._served(ServedRecord.from_bytes(record.body))
            elif record.kind in ("ranking", "interaction", "item"):
                self._event(events.from_bytes(record.body), record)
        except ReplError:
            self.counts["unreadable"] += 1

    def _served(self, found: ServedRecord) -> None:
        if self._experiment is None:
            return
        name = found.experiments.get(self._experiment)
        if name is None:
            self.counts["answers of no arm"] += 1
            return
        arm = self._arms.get(name)
        if arm is None:
            self.counts[f"answers of an unknown arm {name}"] += 1
            return
        key = unit_key(found.user, found.session, found.request_id)
        self._answer(_ranking_key(found.tenant, found.request_id), key, arm, found.t)

    def _answer(self, ranking: int, key: int, arm: int, t: int) -> int:
        """A unit was answered; its slot, −1 where it is not counted."""
        known = self._answers.get(ranking)
        if known is not None:
            return known >> _TIME_BITS
        slot = self.units.slot(key, arm)
        if slot < 0:
            self.counts["answers beyond the bound on users"] += 1
            return -1
        if len(self._answers) == ANSWERS_OPEN:
            self.counts["answers forgotten early"] += 1
        self._answers.add(ranking, slot << _TIME_BITS | t, t)
        self.units.add(slot, ANSWERS)
        self.first = t if self.first is None else min(self.first, t)
        self.last = t if self.last is None else max(self.last, t)
        return slot

    def _event(self, event: events.Event, record: Record) -> None:
        if isinstance(event, events.RankingEvent):
            self._ranking(event, record)
        elif isinstance(event, events.InteractionEvent):
            self._interaction(event, record)
        elif isinstance(event, events.ItemEvent):
            self._keep_price(event)

    def _ranking(self, event: events.RankingEvent, record: Record) -> None:
        t, ranking = record.effective_time, _ranking_key(record.tenant, event.id)
        actor = actor_key(event.user, event.session)
        if self._experiment is None:
            self._answer(ranking, actor or text_key("request", event.id), 0, t)
        slot = self._slot(ranking)
        if slot is None:
            return
        if actor and actor != int(self.units.keys[slot]):
            self.counts["rankings of somebody else"] += 1
        elif self._shown.add(ranking, t, t):
            self.units.add(slot, IMPRESSIONS, len(event.items))

    def _slot(self, ranking: int) -> int | None:
        found = self._answers.get(ranking)
        return None if found is None else found >> _TIME_BITS

    def _interaction(self, event: events.InteractionEvent, record: Record) -> None:
        kind = self._behaviours.get(event.type, -1)
        if event.ranking is None or not CLICK <= kind <= PURCHASE:
            return
        t, ranking = record.effective_time, _ranking_key(record.tenant, event.ranking)
        pair = text_key("pair", f"{ranking}\0{event.item}")
        slot, clicked = self._slot(ranking), self._clicked.get(pair)
        if clicked is None:
            if slot is None:
                return
            shown = self._shown.get(ranking)
            since = shown if shown is not None else (self._answers.get(ranking) or 0) & _TIME
            if t - since > self._rules.click_window:
                self.counts["late clicks"] += 1
                return
            clicked = slot << _TIME_BITS | t
            if len(self._clicked) == CLICKS_OPEN:
                self.counts["clicks forgotten early"] += 1
            self._clicked.add(pair, clicked, t)
            self.units.add(slot, CLICKS)
        if kind == PURCHASE:
            self._purchase(event, pair, clicked, t)

    def _purchase(self, event: events.InteractionEvent, pair: int, clicked: int, t: int) -> None:
        slot = clicked >> _TIME_BITS
        if t - (clicked & _TIME) > self._rules.purchase_window:
            self.counts["late purchases"] += 1
        elif self._bought.add(pair, 0, t):
            self.units.add(slot, PURCHASES)
            self.units.add(slot, REVENUE, self._value(event))

    # what a purchase was worth

    def _value(self, event: events.InteractionEvent) -> float:
        """`revenue` of the event, else its price (else the catalogue's) times its quantity (else 1)."""
        revenue = _number(event.fields, "revenue")
        if revenue is not None:
            return revenue
        price = _number(event.fields, "price")
        if price is None:
            row = int(self._items.get_many(np.array([item_key(event.item)], np.uint64))[0])
            price = float(self._prices[row]) if row >= 0 else 0.0
            if not price:
                self.counts["purchases without a price"] += 1
        quantity = _number(event.fields, "quantity")
        return price * (1.0 if quantity is None else quantity)

    def _keep_price(self, event: events.ItemEvent) -> None:
        price = None if self._price is None else _number(event.fields, self._price)
        row = self._items.intern(item_key(event.item)) if price is not None else -1
        if price is None or row < 0:
            return
        if row >= len(self._prices):
            self._prices = np.concatenate([self._prices, np.zeros(len(self._prices), np.float32)])
        self._prices[row] = price


def _ranking_key(tenant: str, ranking: str) -> int:
    return text_key("ranking", f"{tenant}\0{ranking}")


def _number(fields: Mapping[str, object], name: str) -> float | None:
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
