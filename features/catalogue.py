"""The catalogue: one row an item, its columns as arrays, its fields as JSON in one arena; moved by item
events.

Ranker and trainer use the same class. It holds no vectors, no counters (`features/realtime.py`) and does not
rank. Rows are given in order of first sight and never move; memory a row: 45 bytes of columns, id and fields
as JSON, the key index. One writer; readers beside it see a row before or after a change, column by column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from features.arena import Arena, OwnArena, SharedArena
from features.catalogue_chunks import CatalogueChunks
from features.catalogue_filter import FilterColumns
from features.catalogue_live import Live, Place
from features.catalogue_text import Postings
from features.events import ItemEvent
from features.keys import KeyIndex, item_key, text_key
from features.schema import Schema
from features.shared_pages import OwnPages, Pages

Rows = npt.NDArray[np.int32]

MAX_CATEGORIES = 65_536
ITEM_REACH = 4_096
LEAST_REACH = 1 << 28
"""Bytes an item, and in all, for which shared tables leave room; memory is taken as it is used."""
_HIGHEST_PRICE = 1e30
"""Beyond it a price is none: it would be infinite as an f32 and in every sum."""


def _number(value: Any) -> float:
    """A field value as a number, nan where it is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return math.nan
    return math.nan


def _text(value: Any) -> str | None:
    """A field value as one text: a list gives its first element, numbers their decimal form."""
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None or value == "" else str(value)


class Catalogue(CatalogueChunks):
    """Rows of at most `max_items` items. See the module's docstring; chunks: `features/chunked.py`."""

    def __init__(
        self, schema: Schema, max_items: int = 2_000_000, make_pages: Callable[[], Pages] = OwnPages
    ) -> None:
        """make_pages: where the tables lie; shared ones are read by other processes (`catalogue_live.py`)."""
        self._make_pages = make_pages
        self.schema = schema
        self.max_items = max_items
        self.version = 0
        self._numeric_fields = [field for field in schema.numeric if field.scope == "item"]
        self._defaults = np.array(
            [(field.default - field.mean) / field.std for field in self._numeric_fields], np.float32
        )
        self.epoch = 0
        self._allocate()

    def _allocate(self) -> None:
        n = self.max_items
        self.epoch += 1
        pages = self.pages = self._make_pages()
        self._live = Live(pages) if pages.shared else None
        self._index = KeyIndex(n, pages)
        self._arena: Arena = SharedArena(pages, max(LEAST_REACH, n * ITEM_REACH)) if pages.shared else OwnArena()
        self._garbage = 0
        self._offset = pages.zeros(n, np.int64)
        self._id_length = pages.zeros(n, np.uint16)
        self._length = pages.zeros(n, np.uint32)
        self._category = pages.zeros(n, np.uint64)
        self.category_index = KeyIndex(MAX_CATEGORIES, pages)
        self._category_code = pages.zeros(n, np.int32)
        self._brand = pages.zeros(n, np.uint64)
        self._price = pages.zeros(n, np.float32)
        self._available = pages.zeros(n, bool)
        self._deleted = pages.zeros(n, bool)
        self._numeric = pages.zeros((n, len(self._defaults)), np.float32)
        self._changed: set[int] = set()
        self._postings: Postings | None = None
        self._indexed = 0
        self._filters = FilterColumns(self)
        self._reset_chunks()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def refused(self) -> int:
        """Items that found no row."""
        return self._index.refused

    @property
    def key(self) -> npt.NDArray[np.uint64]:
        """Item keys u64[N]."""
        return self._index.keys

    @property
    def category(self) -> npt.NDArray[np.uint64]:
        """Category keys u64[N]; 0: none."""
        return self._category[: len(self)]

    def category_of(self, row: int) -> int:
        """The category key of one row (0: none), and 0 for row −1."""
        return int(self._category[row]) if row >= 0 else 0

    @property
    def category_code(self) -> Rows:
        """Dense category numbers i32[N] (places in `category_index`); −1: none, or more than
        MAX_CATEGORIES.
        """
        return self._category_code[: len(self)]

    @property
    def brand(self) -> npt.NDArray[np.uint64]:
        """Brand keys u64[N]; 0: none."""
        return self._brand[: len(self)]

    @property
    def price(self) -> npt.NDArray[np.float32]:
        """Prices f32[N]; nan: none."""
        return self._price[: len(self)]

    @property
    def available(self) -> npt.NDArray[np.bool_]:
        """bool[N]: False where an event said `available: false`."""
        return self._available[: len(self)]

    @property
    def deleted(self) -> npt.NDArray[np.bool_]:
        """bool[N]: True from a delete until the next event of the item."""
        return self._deleted[: len(self)]

    @property
    def numeric(self) -> npt.NDArray[np.float32]:
        """Item-scope numeric fields f32[N, m], standardised; the schema's default where missing."""
        return self._numeric[: len(self)]

    def intern(self, item: str) -> int:
        """The row of an item, a new one without fields where it was not known; −1 where the catalogue is
        full.
        """
        row, is_new = self._row_of(item)
        if is_new:
            self._store(row, item.encode(), b"{}")
            self._touch(row)
        return row

    def _row_of(self, item: str) -> tuple[int, bool]:
        """(row, whether it was given just now, with the columns of an item without fields); −1 where full."""
        before = len(self._index)
        row = self._index.intern(item_key(item))
        if row < before:
            return row, False
        self._available[row] = True
        self._category_code[row] = -1
        self._price[row] = math.nan
        self._numeric[row] = self._defaults
        return row, True

    def _touch(self, row: int) -> None:
        self._changed.add(row)
        self._mark_dirty(row)
        self.version += 1
        self._publish()

    def _publish(self) -> None:
        """Let other processes see the rows there are now."""
        if self._live is not None:
            self._index.publish()
            self.category_index.publish()
            self._live.version = self.version

    def apply(self, event: ItemEvent) -> int:
        """Take an item event (patch, replace or delete); returns the row, −1 where the catalogue is full."""
        if self._live is None:
            return self._apply(event)
        with self._live.writing():
            return self._apply(event)

    def _apply(self, event: ItemEvent) -> int:
        row, is_new = self._row_of(event.item)
        if row < 0:
            return row
        old = {} if is_new else self.fields(row)
        fields: dict[str, Any] = {}
        if event.op == "patch":
            fields = {**old, **event.fields}
        elif event.op == "replace":
            fields = dict(event.fields)
        fields = {name: value for name, value in fields.items() if value is not None}
        if event.op == "replace" or event.available is not None:
            self._available[row] = event.available is not False
        self._deleted[row] = event.op == "delete"
        if is_new or fields != old:
            self._store(row, event.item.encode(), orjson.dumps(fields))
            self._set_columns(row, fields)
            self._filters.update(row, fields)
            if self._postings is not None and row < self._indexed:
                self._postings.update(row, self.title_of(old), self.title_of(fields))
        self._touch(row)
        return row

    def _set_columns(self, row: int, fields: Mapping[str, Any]) -> None:
        schema = self.schema
        category = _text(fields.get(schema.category)) if schema.category else None
        brand = _text(fields.get(schema.brand)) if schema.brand else None
        self._category[row] = text_key("category", category) if category else 0
        self._category_code[row] = self.category_index.intern(int(self._category[row])) if category else -1
        self._brand[row] = text_key("brand", brand) if brand else 0
        price = _number(fields.get(schema.price)) if schema.price else math.nan
        self._price[row] = price if abs(price) <= _HIGHEST_PRICE else math.nan
        for j, field in enumerate(self._numeric_fields):
            value = _number(fields.get(field.name))
            missing = not math.isfinite(value)
            self._numeric[row, j] = self._defaults[j] if missing else (value - field.mean) / field.std

    def _number_categories(self, start: int, end: int) -> None:
        keys = self._category[start:end]
        codes = np.full(end - start, -1, np.int32)
        named = keys != 0
        if named.any():
            codes[named] = self.category_index.intern_many(keys[named])
        self._category_code[start:end] = codes

    def _store(self, row: int, item: bytes, fields: bytes) -> None:
        size = len(item) + len(fields)
        if self._garbage and not self._arena.has_room(size):
            self._compact()
        old, at = int(self._length[row]), int(self._offset[row])
        before = Place(row, at, int(self._id_length[row]), old)
        if size <= old and self._arena.overwrite(at, item + fields):
            self._garbage += old - size
        else:
            self._garbage += old
            self._offset[row] = at = self._arena.append(item + fields)
        self._id_length[row], self._length[row] = len(item), size
        if self._live is not None:
            self._live.note(before, Place(row, at, len(item), size))
        if self._garbage > max(16 << 20, len(self._arena) // 2):
            self._compact()

    def _compact(self) -> None:
        """Write ids and fields anew without the gaps; shared tables all anew, as others are reading the old ones."""
        if self._live is not None:
            self._renew()
            return
        arena = OwnArena()
        for row in range(len(self)):
            self._offset[row] = arena.append(self._arena.read(int(self._offset[row]), int(self._length[row])))
        self._arena, self._garbage = arena, 0

    def _renew(self) -> None:
        """The same rows in new pages; what was changed and not yet stored stays so."""
        everything = {f"rows/{k}": self._chunk(k) for k in range(self._chunks())}
        kept = ("_changed", "_postings", "_indexed", "_filters", "_dirty", "_digests")
        before = {name: getattr(self, name) for name in kept}
        self.restore(everything)
        self.version -= 1
        for name, value in before.items():
            setattr(self, name, value)

    def rows(self, ids: Sequence[str]) -> Rows:
        """Rows i32[n] of item ids; −1 where unknown."""
        return self._index.get_many(np.fromiter(map(item_key, ids), np.uint64, len(ids)))

    def rows_of_keys(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """Rows i32[n] of item keys u64[n]; −1 where unknown."""
        return self._index.get_many(keys)

    def ids(self, row: int) -> str:
        """The id of a row."""
        return self._id_bytes(row).decode()

    def _id_bytes(self, row: int) -> bytes:
        return self._arena.read(int(self._offset[row]), int(self._id_length[row]))

    def _field_bytes(self, row: int) -> bytes:
        at, skip = int(self._offset[row]), int(self._id_length[row])
        return self._arena.read(at + skip, int(self._length[row]) - skip)

    def fields(self, row: int) -> dict[str, Any]:
        """The fields of a row, a dict of its own; empty where none were given."""
        data = self._field_bytes(row)
        found: dict[str, Any] = orjson.loads(data) if data else {}
        return found

    def title(self, row: int) -> str:
        """The title of a row; empty where it has none."""
        return self.title_of(self.fields(row))

    def title_of(self, fields: Mapping[str, Any]) -> str:
        """The title among an item's fields; empty where there is none."""
        return (_text(fields.get(self.schema.title)) if self.schema.title else None) or ""

    def changed_rows(self) -> Rows:
        """Rows that are new or had an event since the last call, ascending."""
        changed, self._changed = self._changed, set()
        return np.array(sorted(changed), np.int32)

    def postings(self, word: str) -> Rows:
        """Rows i32 whose title holds a word (as `features/words.py` gives it); indexes what is not yet."""
        self.index_titles()
        assert self._postings is not None
        return self._postings.rows(word)

    def index_titles(self, most: int | None = None) -> int:
        """Index the titles of up to `most` (None: all) rows that are not yet; how many are left.

        7 s for a million titles: whoever must not stop for so long calls it in slices.
        """
        if self._postings is None:
            self._postings = Postings(next(iter(self.schema.languages), "en"))
        end = len(self) if most is None else min(len(self), self._indexed + most)
        for row in range(self._indexed, end):
            self._postings.update(row, "", self.title(row))
        self._indexed = end
        return len(self) - end

    def matches(
        self, conditions: Sequence[tuple[str, str, Any]], rows: Rows | None = None
    ) -> npt.NDArray[np.bool_]:
        """bool[n]: rows (None: all) for which every condition (field, op, value) holds; ops as in `POST
        /v1/rank`.
        """
        return self._filters.matches(conditions, rows)

    def index_field(self, name: str, most: int | None = None) -> int:
        """Make `matches` ready for a field, up to `most` (None: all) further rows of it; how many are left.

        1.5 s for a million items: whoever must not stop for so long calls it in slices.
        """
        return self._filters.build(name, most)

    def unindexed(self, name: str) -> int:
        """Rows of a field that `index_field` has not read; needs no lock."""
        return self._filters.unread(name)
