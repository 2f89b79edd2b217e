"""A log for A/A runs from Online Retail: who bought what, when, how often, at what price is real; the rest is made up.

Every invoice becomes one answer that showed its lines among others drawn by how often they sell. Lines bought are
purchases; of the others each is clicked with a chance of the customer's own. So users differ as real ones do, a few
of them by orders of magnitude, which is what a variance over users has to get right. It trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice

import numpy as np

from features.event_log import EventLog
from features.events import Event, InteractionEvent, RankingEvent, ShownItem
from features.keys import text_key
from features.records import event_record
from trainer.importing.online_retail import Line, OnlineRetail

OTHERS = 20
SHOWN = 400
BATCH = 5_000


def events(data: OnlineRetail, seed: int = 17) -> Iterator[Event]:
    """Rankings with their clicks and purchases, invoice by invoice in time order. Same arguments, same events."""
    rng = np.random.default_rng(seed)
    codes = sorted(data.titles)
    place = {code: k for k, code in enumerate(codes)}
    sold = np.bincount([place[line.code] for line in data.lines], minlength=len(codes))
    stock = rng.choice(len(codes), 1 << 20, p=sold / sold.sum())
    kept = sorted((line for line in data.lines if not line.refund), key=lambda line: (line.time, line.invoice))
    for number, (invoice, lines) in enumerate(groupby(kept, key=lambda line: line.invoice)):
        at = (number * OTHERS) % (len(stock) - OTHERS)
        others = [codes[k] for k in stock[at : at + OTHERS]]
        yield from _answer(rng, invoice, list(lines), others)


def _answer(rng: np.random.Generator, invoice: str, lines: list[Line], others: list[str]) -> Iterator[Event]:
    bought = {line.code: line for line in lines}
    shown = list(dict.fromkeys([*islice(bought, SHOWN), *others]))
    shown = [shown[k] for k in rng.permutation(len(shown))]
    t, customer = lines[0].time, lines[0].customer
    session = None if customer else invoice
    ranking = f"aa-{invoice}-{t}"
    items = tuple(ShownItem(id=code, position=k) for k, code in enumerate(shown, start=1))
    yield RankingEvent(id=ranking, timestamp=t, items=items, user=customer, session=session)
    eager = 0.02 + 0.2 * (text_key("eager", customer or invoice) / 2**64) ** 2
    for k, code in enumerate(shown):
        line = bought.get(code)
        if line is None and rng.random() >= eager:
            continue
        yield InteractionEvent(
            id=f"{ranking}-{k}", timestamp=t + 1_000 + k, item=code, ranking=ranking, user=customer, session=session,
            type="click" if line is None else "purchase",
            fields={} if line is None else {"quantity": line.quantity, "price": line.price},
        )  # fmt: skip


def write(data: OnlineRetail, log: EventLog, seed: int = 17) -> int:
    """Append them all as imported records; returns how many."""
    made, count = events(data, seed), 0
    while batch := [event_record(event, imported=True) for event in islice(made, BATCH)]:
        log.append("event", batch)
        count += len(batch)
    return count
