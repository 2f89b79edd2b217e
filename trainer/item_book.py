"""The items of a log by dense number, with what the item tower reads of them. It knows no groups and no labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.coding import U64
from features.events import ItemEvent
from features.keys import item_key, text_key
from features.schema import Schema
from features.words import one_text, word_keys


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
        """Take what an event says of an item; a deleted one keeps its last fields."""
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
