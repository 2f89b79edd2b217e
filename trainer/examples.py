"""From the event log to training groups on disk: one request each, with its history, its labels, what was
known then.

A group is a `ranking` event with the labels that joined it, or (without impressions) what one actor took at
one time. The log is read once, forwards; groups go to disk in chunks, so that memory grows with items and
recent actors and not with the log. Real-time features are no business of this file
(trainer/feature_replay.py), negatives neither (trainer/batches.py).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from features.coding import HISTORY, U64
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent
from features.keys import actor_key, item_key, text_key
from features.schema import Schema
from features.words import one_text, word_keys
from trainer.attached_count import AttachedCounter

CHUNK = 4_096
MAX_ACTORS = 200_000
MAX_PENDING = 50_000
PURCHASE, REFUND = 4, 5
CLICKED, PURCHASED, SHOWN = 1, 2, 4
"""Bits of a candidate's flags; any behaviour implies the click."""

Arrays = dict[str, npt.NDArray[Any]]


class ItemBook:
    """Items by dense number, in order of first appearance, with what the item tower reads; last value wins."""

    def __init__(self, schema: Schema, max_items: int) -> None:
        self._schema = schema
        self.language = schema.languages[0] if schema.languages else ""
        self._max = max_items
        self._numbers: dict[int, int] = {}
        self.keys: list[int] = []
        self.categories: list[int] = []
        self.brands: list[int] = []
        self.titles: list[U64] = []

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, item: str) -> int:
        """Dense number of an item, given at first sight; -1 when the book is full."""
        key = item_key(item)
        found = self._numbers.get(key, -1)
        if found < 0 and len(self.keys) < self._max:
            found = self._numbers[key] = len(self.keys)
            self.keys.append(key)
            self.categories.append(0)
            self.brands.append(0)
            self.titles.append(np.empty(0, np.uint64))
        return found

    def apply(self, event: ItemEvent) -> None:
        at = self.number(event.item)
        if at < 0 or event.op == "delete":
            return
        replace, fields, schema = event.op == "replace", event.fields, self._schema
        if schema.title and (replace or schema.title in fields):
            self.titles[at] = word_keys(one_text(fields.get(schema.title)), self.language)
        if schema.category and (replace or schema.category in fields):
            self.categories[at] = _key("category", fields.get(schema.category))
        if schema.brand and (replace or schema.brand in fields):
            self.brands[at] = _key("brand", fields.get(schema.brand))


def _key(role: str, value: Any) -> int:
    text = one_text(value)
    return text_key(role, text) if text else 0


@dataclass
class _Group:
    actor: int
    t: int
    history: Sequence[tuple[int, int, int]]  # (item number, kind, ms), oldest first
    items: dict[int, int] = field(default_factory=dict)  # item number → flags
    words: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    clicked_at: dict[int, int] = field(default_factory=dict)
    closes: int = 0
    known: int = 0  # items that existed at its time
    seen: int = 0  # positives before it


class _Chunks:
    """Writes groups to numbered safetensors files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.files: list[Path] = []
        self.seen = 0
        self._groups: list[_Group] = []
        self._stream = (directory / "positives.i32").open("wb")

    def add(self, group: _Group) -> None:
        self._groups.append(group)
        taken = np.array([item for item, flags in group.items.items() if flags & CLICKED], np.int32)
        self._stream.write(taken.tobytes())
        self.seen += len(taken)
        if len(self._groups) == CHUNK:
            self.flush()

    def flush(self) -> None:
        if not self._groups:
            return
        groups = self._groups
        arrays: Arrays = {
            "actor": np.array([g.actor for g in groups], np.uint64),
            "t": np.array([g.t for g in groups], np.int64),
            "known": np.array([g.known for g in groups], np.int64),
            "seen": np.array([g.seen for g in groups], np.int64),
            "history_starts": _starts([len(g.history) for g in groups]),
            "history": np.array([step for g in groups for step in g.history], np.int64).reshape(-1, 3),
            "item_starts": _starts([len(g.items) for g in groups]),
            "items": np.array([item for g in groups for item in g.items], np.int64),
            "flags": np.array([flags for g in groups for flags in g.items.values()], np.uint8),
            "word_starts": _starts([len(g.words) for g in groups]),
            "words": np.concatenate([g.words for g in groups]),
        }
        path = self.directory / f"groups-{len(self.files):06d}.safetensors"
        save_file(arrays, path)
        self.files.append(path)
        self._groups = []

    def close(self) -> None:
        self.flush()
        self._stream.close()


def _starts(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass
class ExampleSet:
    """Groups on disk and the items they name. Chunk files hold the arrays of `_Chunks.flush`."""

    directory: Path
    files: list[Path]
    book: ItemBook
    groups: int
    first: int
    through: int  # ms: the last event read
    counts: Mapping[str, int]
    actors: int
    """Actors seen, counted approximately (sizes the user table)."""

    def chunks(self) -> Iterator[Arrays]:
        """Chunks in order, read one at a time."""
        for path in self.files:
            yield load_file(path)

    def positives(self) -> npt.NDArray[np.int32]:
        """Item numbers of all positives in order, mapped from disk: a place before now is drawn by
        popularity.
        """
        path = self.directory / "positives.i32"
        if path.stat().st_size == 0:
            return np.empty(0, np.int32)
        return np.memmap(path, np.int32, mode="r")


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
        self._chunks = _Chunks(directory)
        self._histories: OrderedDict[int, deque[tuple[int, int, int]]] = OrderedDict()
        self._open: dict[int, _Group] = {}
        self._pending: OrderedDict[str, _Group] = OrderedDict()
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

    def _group(self, actor: int, time: int) -> _Group:
        history = tuple(self._history(actor)) if actor else ()
        return _Group(actor, time, history, known=len(self.book), seen=self._chunks.seen)

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

    def _write(self, group: _Group) -> None:
        taken = [item for item, flags in group.items.items() if flags & CLICKED]
        self.counts["clicks"] += len(taken)
        self.counts["purchases"] += sum(bool(flags & PURCHASED) for flags in group.items.values())
        if taken and group.t < self._attach_until:
            self.attached.add(taken, [item for item, _, _ in group.history])
        self._groups += 1
        self._chunks.add(group)


def feed_all(writer: ExampleWriter, events: Iterable[tuple[Event, int]]) -> ExampleSet:
    """Feed (event, effective time) pairs and finish."""
    for event, time in events:
        writer.feed(event, time)
    return writer.finish()
