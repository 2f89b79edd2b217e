"""From the event log to training groups on disk: one request each, with its history, its labels, what was
known then.

A group is a `ranking` event with the labels that joined it, or (without impressions) what one actor took at
one time. The log is read once, forwards; groups go to disk in chunks, so that memory grows with items and
recent actors and not with the log. Their form on disk is trainer/example_groups.py's; real-time features are
no business of this file (trainer/feature_replay.py), negatives neither (trainer/batches.py).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from pathlib import Path

from features.coding import HISTORY
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent
from features.keys import actor_key
from features.schema import Schema
from features.words import one_text, word_keys
from trainer.attached_count import AttachedCounter
from trainer.example_groups import CLICKED, PURCHASED, SHOWN, ExampleSet, Group, GroupFiles
from trainer.item_book import ItemBook

MAX_ACTORS = 200_000
MAX_PENDING = 50_000
PURCHASE, REFUND = 4, 5


class ExampleWriter:
    """Feeds events in log order; `attach_until` (ms) ends the counting of the attached table."""

    def __init__(
        self,
        directory: Path,
        schema: Schema,
        *,
        max_items: int,
        click_window_ms: int,
        purchase_window_ms: int,
        attach_until: int,
    ) -> None:
        self.schema = schema
        self.book = ItemBook(schema, max_items)
        self.attached = AttachedCounter()
        self.counts = {
            "interactions": 0,
            "rankings": 0,
            "impressions": 0,
            "clicks": 0,
            "purchases": 0,
            "queries": 0,
        }
        self._windows = click_window_ms, purchase_window_ms
        self._attach_until = attach_until
        self._chunks = GroupFiles(directory)
        self._histories: OrderedDict[int, deque[tuple[int, int, int]]] = OrderedDict()
        self._open: dict[int, Group] = {}
        self._pending: OrderedDict[str, Group] = OrderedDict()
        self._now = self._first = 0
        self._groups = self._actors = 0

    def feed(self, event: Event, time: int) -> None:
        """Take the next event of the log with its effective time (ms)."""
        self._first = self._first or time
        if time > self._now:
            self._close_open()
            self._now = time
            self._expire()
        if isinstance(event, ItemEvent):
            self.book.apply(event)
        elif isinstance(event, InteractionEvent):
            self._interaction(event, time)
        elif isinstance(event, RankingEvent):
            self._ranking(event, time)

    def finish(self) -> ExampleSet:
        """Write what is open and return the set."""
        self._close_open()
        self._expire(everything=True)
        self._chunks.close()
        return ExampleSet(
            self._chunks.directory,
            self._chunks.files,
            self.book,
            self._groups,
            self._first,
            self._now,
            self.counts,
            self._actors,
        )

    def _history(self, actor: int) -> deque[tuple[int, int, int]]:
        """The actor's last interactions; the longest unseen actor is forgotten beyond MAX_ACTORS."""
        found = self._histories.get(actor)
        if found is None:
            found = self._histories[actor] = deque(maxlen=HISTORY)
            self._actors += 1
            if len(self._histories) > MAX_ACTORS:
                self._histories.popitem(last=False)
        else:
            self._histories.move_to_end(actor)
        return found

    def _interaction(self, event: InteractionEvent, time: int) -> None:
        kind, item = self.schema.behaviour(event.type), self.book.number(event.item)
        if kind < 0 or item < 0:
            return
        self.counts["interactions"] += 1
        actor = actor_key(event.user, event.session)
        labelled = self._label(event.ranking, item, kind, time)
        if not actor:
            return
        group = self._open.get(actor)
        if group is None:  # what happens at one time happens at once: nothing of it is history yet
            group = self._open[actor] = self._group(actor, time)
        if kind != REFUND and not labelled:
            group.items[item] = group.items.get(item, 0) | CLICKED | (PURCHASED if kind == PURCHASE else 0)
        self._history(actor).append((item, kind, time))

    def _group(self, actor: int, time: int) -> Group:
        history = tuple(self._history(actor)) if actor else ()
        return Group(actor, time, history, known=len(self.book), seen=self._chunks.seen)

    def _label(self, ranking: str | None, item: int, kind: int, time: int) -> bool:
        """Join a behaviour to the impression it came from; False if there is none."""
        group = self._pending.get(ranking) if ranking else None
        if group is None or item not in group.items:
            return False
        clicked = group.clicked_at.setdefault(item, time)
        if time - group.t <= self._windows[0]:
            group.items[item] |= CLICKED
        if kind == PURCHASE and group.items[item] & CLICKED and time - clicked <= self._windows[1]:
            group.items[item] |= PURCHASED
        return True

    def _ranking(self, event: RankingEvent, time: int) -> None:
        self.counts["rankings"] += 1
        group = self._group(actor_key(event.user, event.session), time)
        group.words = word_keys(one_text(event.fields.get("query")), self.book.language)
        self.counts["queries"] += bool(len(group.words))
        for shown in event.items:
            number = self.book.number(shown.id)
            if number >= 0:
                group.items[number] = SHOWN
        self.counts["impressions"] += len(group.items)
        group.closes = time + sum(self._windows)
        self._pending[event.id] = group

    def _close_open(self) -> None:
        for group in self._open.values():
            if group.items:
                self._write(group)
        self._open.clear()

    def _expire(self, everything: bool = False) -> None:
        """Write rankings whose windows have passed, the oldest first; a full store gives up the oldest
        early.
        """
        while self._pending:
            name, group = next(iter(self._pending.items()))
            if not everything and group.closes > self._now and len(self._pending) <= MAX_PENDING:
                return
            del self._pending[name]
            if group.items:
                self._write(group)

    def _write(self, group: Group) -> None:
        taken = [item for item, flags in group.items.items() if flags & CLICKED]
        self.counts["clicks"] += len(taken)
        self.counts["purchases"] += sum(bool(flags & PURCHASED) for flags in group.items.values())
        if taken and group.t < self._attach_until:
            self.attached.add(taken, [item for item, _, _ in group.history])
        self._groups += 1
        self._chunks.add(group)
