"""Is this file of events fit to be imported and learned from? One pass, a verdict a check, no change to
anything.

FAIL: the file breaks the dialect. WARN: it can be imported, but something that carries the learning is
missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from features.errors import InvalidEvent
from features.event_parser import parse_event
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent
from features.keys import item_key, text_key
from features.schema import Schema
from trainer.importing.load import lines_of

Verdict = Literal["PASS", "WARN", "FAIL"]
SHOWN = 10


class Check(NamedTuple):
    """One line of the report."""

    verdict: Verdict
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict}  {self.name}: {self.text}"


class Validation:
    """What is seen of the events, one after the other; `checks()` judges it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.events: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.bad: list[str] = []
        self.bad_lines = 0
        self.last_time = 0
        self.late = 0
        self.latest_by = 0
        self.ids: set[int] = set()
        self.duplicates = 0
        self.items: set[int] = set()
        self.titled: set[int] = set()
        self.named: set[int] = set()
        self.shown: dict[int, frozenset[int]] = {}
        self.shown_items = 0
        self.no_actor = 0
        self.pointing: Counter[str] = Counter()  # interactions that name a ranking: how they join
        self.positives: dict[str, set[tuple[int, int]]] = {"click": set(), "purchase": set()}

    def line(self, number: int, raw: bytes, tenant: str) -> None:
        """Take one line of the file."""
        try:
            event = parse_event(raw, tenant=tenant, now_ms=None)
        except InvalidEvent as error:
            self.bad_lines += 1
            if len(self.bad) < SHOWN:
                self.bad.append(f"line {number}: {error}")
            return
        self._event(event)

    def _event(self, event: Event) -> None:
        kind = str(event.__struct_config__.tag)
        self.events[kind] += 1
        unique = text_key(kind, event.id)
        self.duplicates += unique in self.ids
        self.ids.add(unique)
        if event.timestamp < self.last_time:
            self.late += 1
            self.latest_by = max(self.latest_by, self.last_time - event.timestamp)
        self.last_time = max(self.last_time, event.timestamp)
        if isinstance(event, ItemEvent):
            self._item(event)
        elif isinstance(event, RankingEvent):
            self._ranking(event)
        elif isinstance(event, InteractionEvent):
            self._interaction(event)

    def _item(self, event: ItemEvent) -> None:
        key = item_key(event.item)
        self.items.add(key)
        if self.schema.title is not None and event.fields.get(self.schema.title):
            self.titled.add(key)

    def _ranking(self, event: RankingEvent) -> None:
        keys = frozenset(item_key(shown.id) for shown in event.items)
        self.shown[text_key("ranking", event.id)] = keys
        self.shown_items += len(keys)
        self.named |= keys
        self.no_actor += event.user is None and event.session is None

    def _interaction(self, event: InteractionEvent) -> None:
        key = item_key(event.item)
        self.named.add(key)
        self.types[event.type] += 1
        self.no_actor += event.user is None and event.session is None
        if event.ranking is None:
            return
        parent = text_key("ranking", event.ranking)
        shown = self.shown.get(parent)
        joined = shown is not None and key in shown
        self.pointing[
            "joined" if joined else "item was not shown" if shown else "ranking not found before"
        ] += 1
        behaviour = self.schema.behaviour(event.type)
        if joined and behaviour in (1, 2, 3, 4):  # any stronger behaviour implies the click
            self.positives["click"].add((parent, key))
            if behaviour == 4:
                self.positives["purchase"].add((parent, key))

    def checks(self) -> Iterator[Check]:
        """The verdicts, in a fixed order."""
        total = sum(self.events.values())
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.events.items()))
        if self.bad_lines:
            yield Check("FAIL", "lines", f"{self.bad_lines:,} cannot be read; " + "; ".join(self.bad))
        elif not total:
            yield Check("FAIL", "lines", "the file holds no event")
        else:
            yield Check("PASS", "lines", f"{total:,} events: {kinds}")
        yield self._schema()
        yield self._judge(
            not self.late,
            "order",
            f"{self.late:,} events stand after a later one, by up to {self.latest_by / 1e3:,.1f} s",
        )
        yield self._judge(not self.duplicates, "duplicates", f"{self.duplicates:,} event ids occur again")
        unseen = len(self.named - self.items)
        share = unseen / max(1, len(self.named))
        yield self._judge(
            unseen == 0,
            "items",
            f"{unseen:,} of {len(self.named):,} named items ({share:.1%}) have no item event",
        )
        yield self._judge(
            self.no_actor == 0, "actors", f"{self.no_actor:,} events have neither user nor session"
        )
        yield self._joins()
        yield from self._labels()

    @staticmethod
    def _judge(good: bool, name: str, text: str) -> Check:
        return Check("PASS" if good else "WARN", name, text)

    def _schema(self) -> Check:
        unmapped = {name: count for name, count in self.types.items() if self.schema.behaviour(name) < 0}
        if unmapped:
            return Check("WARN", "schema", f"interaction types without a behaviour move nothing: {unmapped}")
        untitled = len(self.items) - len(self.titled)
        if untitled:
            return Check(
                "WARN",
                "schema",
                f"{untitled:,} of {len(self.items):,} items have no field {self.schema.title!r}",
            )
        return Check(
            "PASS",
            "schema",
            f"types {', '.join(sorted(self.types)) or 'none'}; {len(self.items):,} items with a title",
        )

    def _joins(self) -> Check:
        total = sum(self.pointing.values())
        if not self.shown:
            text = "no ranking events: nothing says what was shown, so the last layer learns nothing online"
            return Check("WARN", "joins", text)
        found = ", ".join(f"{count:,} {name}" for name, count in self.pointing.most_common()) or "none"
        return self._judge(
            total > 0 and self.pointing["joined"] >= 0.9 * total,
            "joins",
            f"interactions that name a ranking: {found}",
        )

    def _labels(self) -> Iterator[Check]:
        for name, below, of in (
            ("click", self.shown_items, "shown items"),
            ("purchase", len(self.positives["click"]), "clicks"),
        ):
            count = len(self.positives[name])
            if not below:
                continue
            rate = count / below
            yield self._judge(0 < rate < 0.5, f"{name} rate", f"{count:,} of {below:,} {of} ({rate:.3%})")


def validate_file(
    path: Path,
    *,
    tenant: str = "default",
    schema: Schema | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Check]:
    """Read a file of JSON lines (plain, .gz, .xz) and return its verdicts. Raises InvalidInput if it cannot
    be opened.
    """
    validation = Validation(schema or Schema.default())
    for number, line in lines_of(path):
        validation.line(number, line, tenant)
        if number % 20_000 == 0:
            progress(number, 0)
    return list(validation.checks())
