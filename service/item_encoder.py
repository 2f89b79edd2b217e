"""Encodes new and changed items by the base's item tower, in a thread of its own. It decides nothing about ranking.

A row is encoded when its content (id, title, category, brand) is not the one its vector was made from. Rows that
wait are part of what the catalogue's store saves, so that a restart encodes only what a kill left open.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from features.catalogue import Catalogue
from features.errors import StoreError
from features.schema import Schema
from features.words import one_text
from service.background import Background
from service.encoders import ChangedRows
from service.item_vectors import ItemVectors
from service.metrics import Metrics
from service.row_set import RowSet
from service.scorer import ItemInput, Scorer

log = logging.getLogger(__name__)

BATCH = 128
Rows = npt.NDArray[np.int64]
NO_ROWS: Rows = np.zeros(0, np.int64)


def item_input(item: str, fields: Mapping[str, Any], schema: Schema) -> ItemInput:
    """What the item tower sees of an item, by the schema's roles."""
    names = (schema.title, schema.category, schema.brand)
    return ItemInput(item, *(one_text(fields.get(name)) if name else None for name in names))


def content_hash(item: ItemInput) -> int:
    """xxh3-64 over what the item tower sees; never 0."""
    parts = (item.id, item.title or "", item.category or "", item.brand or "")
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode()) or 1


class ItemEncoder(Background):
    """Follows `Catalogue.changed_rows`. Readers see a row's old vector, or that of an unknown item, until then."""

    def __init__(
        self,
        catalogue: Catalogue,
        vectors: ItemVectors,
        scorer: Scorer,
        lock: threading.Lock,
        metrics: Metrics,
        waiting: Rows,
        changes: ChangedRows | None = None,
    ) -> None:
        """waiting: rows whose encoding was open when the catalogue was saved; changes: where other bases' encoders
        follow the same catalogue."""
        self._catalogue, self._vectors, self._scorer = catalogue, vectors, scorer
        self._lock, self._metrics = lock, metrics
        self._waiting = RowSet(waiting)
        self._changes = changes or ChangedRows(catalogue)
        with lock:
            self._changes.follow(self._waiting)
        self.pace = 0.0
        """Seconds to wait after each batch, as a share of what it took."""
        self._at_work = NO_ROWS
        super().__init__("item-encoder", 10.0)

    def start(self) -> None:
        """Start encoding."""
        self._wake.set()
        super().start()

    def leave(self) -> None:
        """Follow no changes any more; the caller holds the lock."""
        self._changes.leave(self._waiting)

    def wake(self) -> None:
        """Items may have changed."""
        self._wake.set()

    @property
    def waiting(self) -> int:
        """How many rows are not encoded yet; one that changed while it is at work counts twice."""
        with self._lock:
            self._gather()
            return len(self._waiting) + len(self._at_work)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(1.0)
            self._wake.clear()
            while not self._stop.is_set():
                began = time.perf_counter()
                if not self.step():
                    break
                if self.pace:
                    self._stop.wait(self.pace * (time.perf_counter() - began))

    def collect(self) -> Rows:
        """Rows that wait, changed ones included and those at work; the caller holds the lock."""
        self._gather()
        return np.union1d(self._waiting.rows(), self._at_work)

    def _gather(self) -> None:
        self._changes.gather()

    def step(self) -> int:
        """Encode one batch; returns how many rows were looked at."""
        with self._lock:
            self._gather()
            if not self._has_room():
                return 0
            rows = self._at_work = self._waiting.take(BATCH)
            if not len(rows):
                return 0
            schema = self._catalogue.schema
            items = [
                item_input(self._catalogue.ids(row), self._catalogue.fields(row), schema)
                for row in map(int, rows)
            ]
            keys = self._catalogue.key[rows]
            content = np.fromiter(map(content_hash, items), np.uint64, len(items))
            todo = ~self._vectors.current(rows, keys, content)
        self._encode(rows[todo], keys[todo], content[todo], [items[k] for k in np.flatnonzero(todo)])
        self._at_work = NO_ROWS
        return len(rows)

    def _has_room(self) -> bool:
        """Whether every item of the catalogue has a place; asked again a second later where the disk is full."""
        try:
            self._vectors.reserve(len(self._catalogue))
        except StoreError as error:
            log.error("new items cannot be encoded", extra={"reason": error.message})
            self._metrics.failures.labels("encoder").inc()
            return False
        return True

    def _encode(
        self,
        rows: Rows,
        keys: npt.NDArray[np.uint64],
        content: npt.NDArray[np.uint64],
        items: list[ItemInput],
    ) -> None:
        if not items:
            return
        try:
            made = self._scorer.encode_items(items)
        except Exception:  # one bad batch must not end the thread; its items keep the unknown item's vector
            log.exception("items could not be encoded", extra={"items": len(items)})
            self._metrics.failures.labels("encoder").inc()
            return
        with self._lock:
            self._vectors.put(rows, keys, content, (made.tower, made.coarse, made.bias))
        self._metrics.encoded.inc(len(items))
