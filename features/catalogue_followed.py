"""A catalogue that lies in another process's shared pages: read here, written there. It applies no events.

Rows, columns, ids and fields are the writer's; the columns of filters and the words of titles are this process's own
and follow the changes that the writer notes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson

from features.catalogue import Catalogue
from features.catalogue_filter import FilterColumns
from features.catalogue_live import Live, Place
from features.events import ItemEvent
from features.schema import Schema
from features.shared_pages import Pages, SharedPages

_TRIES = 3


class FollowedCatalogue(Catalogue):
    """Between two calls of `follow` it has the same rows: the owner calls it under the lock of its readers."""

    def __init__(self, schema: Schema, max_items: int, pages: SharedPages) -> None:
        """pages: made by a catalogue with the same schema and `max_items`. Raises StoreError."""
        self._given: Pages = pages
        super().__init__(schema, max_items, lambda: self._given)
        self._begin()

    @property
    def live(self) -> Live:
        """What the writer says beside its rows."""
        assert self._live is not None
        return self._live

    @property
    def place(self) -> str:
        """Where its pages lie."""
        assert isinstance(self.pages, SharedPages)
        return self.pages.place

    @property
    def published(self) -> int:
        """Rows that the writer has."""
        return self._index.published

    def attach(self, pages: SharedPages) -> None:
        """Go on with pages that the writer has made since. Raises StoreError; then all is as before."""
        _probe(self.schema, self.max_items, pages.place)
        self._given = pages
        self._allocate()
        self._begin()

    def _begin(self) -> None:
        self._seen = self.live.count
        self.version = self.live.version

    def behind(self) -> bool:
        """Whether `follow` would find anything; needs no lock."""
        return self.version != self.live.version or self._seen != self.live.count

    def follow(self, most: int) -> None:
        """See the rows published since, up to `most` in all, and what has changed in those before."""
        version, count = self.live.version, self.live.count
        changes = self.live.since(self._seen)
        self._index.follow(most)
        self.category_index.follow()
        if changes is None:
            self._filters, self._postings, self._indexed = FilterColumns(self), None, 0
        else:
            for was, now in changes[: count - self._seen]:
                self._take(was, now)
        self._seen, self.version = count, version if len(self) < most else -1

    def _take(self, was: Place, now: Place) -> None:
        if now.row >= len(self):
            return
        fields = self._parsed(now)
        self._filters.update(now.row, fields)
        if self._postings is not None and now.row < self._indexed:
            self._postings.update(now.row, self.title_of(self._parsed(was)), self.title_of(fields))

    def _parsed(self, place: Place) -> dict[str, Any]:
        data = self._arena.read(place.at + place.id_length, place.length - place.id_length)
        found: dict[str, Any] = orjson.loads(data) if data else {}
        return found

    def apply(self, event: ItemEvent) -> int:
        """Nothing: the writer applies it. The row, −1 where it is not known here."""
        return int(self.rows([event.item])[0])

    def intern(self, item: str) -> int:
        """Nothing: see `apply`."""
        return int(self.rows([item])[0])

    def ids(self, row: int) -> str:
        """See Catalogue.ids; empty for the one row that a killed writer left half written."""
        return self._id_bytes(row).decode("utf-8", "ignore")

    def fields(self, row: int) -> dict[str, Any]:
        """See Catalogue.fields; none for the one row that a killed writer left half written."""
        for _ in range(_TRIES):
            with suppress(orjson.JSONDecodeError):
                return super().fields(row)
        return {}

    def _id_bytes(self, row: int) -> bytes:
        found = b""
        for _ in self.live.reading():
            found = super()._id_bytes(row)
        return found

    def _field_bytes(self, row: int) -> bytes:
        found = b"{}"
        for _ in self.live.reading():
            found = super()._field_bytes(row)
        return found


def _probe(schema: Schema, max_items: int, place: str) -> None:
    """Raises StoreError where pages cannot be attached with these settings."""
    Catalogue(schema, max_items, lambda: SharedPages(place))
