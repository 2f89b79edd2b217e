"""The first filter on a field: its column is read in slices, beside whoever else needs the lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from features.catalogue import Catalogue
from features.catalogue_filter import FilterColumns
from features.errors import InvalidRequest
from features.events import ItemEvent
from features.schema import Schema
from service import filters
from service.requests import Condition
from service.testkit import ReplService

ITEMS = 20_000
CHEAP = [Condition("price", "lt", 10)]


def priced(item: int, price: float) -> ItemEvent:
    return ItemEvent(id=f"e{item}", timestamp=1, item=f"i{item}", fields={"price": price, "kind": ["a", "b"]})


@pytest.fixture
def catalogue() -> Catalogue:
    made = Catalogue(Schema.default(), 2 * ITEMS)
    for item in range(ITEMS):
        made.apply(priced(item, item % 20))
    return made


class TimedLock:
    """A lock that knows how much processor time of its holder passed while it was held, longest hold first."""

    def __init__(self) -> None:
        self._lock, self.held = threading.Lock(), list[float]()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.held.append(time.thread_time() - self._since)
        self._lock.release()


def test_the_lock_is_never_held_for_long(catalogue: Catalogue) -> None:
    lock: Any = TimedLock()
    began = time.thread_time()
    filters.prepare(catalogue, [*CHEAP, Condition("kind", "eq", "a")], lock)
    whole = time.thread_time() - began
    assert filters.ready(catalogue, CHEAP)
    assert len(lock.held) == 2 * ITEMS / filters.SLICE
    assert max(lock.held) < max(0.02, whole / 8)  # 1 ms, of 80, on a free core


def test_items_that_change_and_come_meanwhile_are_seen_as_they_are(catalogue: Catalogue) -> None:
    lock, done, changed = threading.Lock(), threading.Event(), 0

    def change() -> None:
        nonlocal changed
        chance = np.random.default_rng(0)
        while not done.is_set():
            with lock:
                catalogue.apply(priced(int(chance.integers(ITEMS + 500)), float(chance.integers(20))))
            changed += 1
            time.sleep(0.0001)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        filters.prepare(catalogue, CHEAP, lock)
    finally:
        done.set()
        thread.join()
    assert changed > 10  # each of them had the lock between two slices
    found = filters.holds(catalogue, CHEAP, None)
    prices = np.array([catalogue.fields(row)["price"] for row in range(len(catalogue))])
    np.testing.assert_array_equal(found, prices < 10)


@pytest.fixture
def full_builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each reading without a limit, which is one under the lock, found unread."""
    found: list[int] = []
    real = FilterColumns.build

    def build(self: FilterColumns, name: str, most: int | None = None) -> int:
        if most is None:
            found.append(self.unread(name))
        return real(self, name, most)

    monkeypatch.setattr(FilterColumns, "build", build)
    monkeypatch.setattr(filters, "SLICE", 7)
    return found


@pytest.mark.parametrize("path", ["rank", "retrieve"])
def test_a_request_reads_new_fields_before_it_takes_the_lock(
    repl_service: ReplService, full_builds: list[int], path: str
) -> None:
    shop = repl_service
    shop.events(*(shop.item(f"i{n}", depth=n) for n in range(50)))
    shop.settle()
    ask: dict[str, Any] = {"filter": [{"field": "depth", "op": "lt", "value": 20}]}
    ask |= {"items": [f"i{n}" for n in range(50)]} if path == "rank" else {"top_k": 50}
    status, answer = shop.call("POST", f"/v1/{path}", ask)
    assert (status, len(answer["ids"])) == (200, 20)
    assert full_builds
    assert max(full_builds) <= 7


def test_a_request_names_no_more_fields_than_columns_are_kept_for(catalogue: Catalogue) -> None:
    many = [Condition(f"f{n}", "exists", True) for n in range(filters.MOST_FIELDS + 1)]
    with pytest.raises(InvalidRequest, match="at most 32 fields"):
        filters.ready(catalogue, many)
    assert not filters.ready(catalogue, many[1:] * 3)
