"""Tables in shared pages: readers see what was published, whole rows only, and outlive a writer that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from features.catalogue import Catalogue
from features.catalogue_followed import FollowedCatalogue
from features.errors import StoreError, TooLarge
from features.event_parser import parse_event
from features.events import ItemEvent
from features.keys import item_key
from features.ops import IMPRESSION, OpsBuilder
from features.realtime import RealtimeConfig, RealtimeState
from features.schema import Schema
from features.shared_pages import HALF_WRITTEN_SECONDS, OwnPages, SharedHead, SharedPages
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory without a file is Linux's")

SCHEMA = Schema.default()
MOST = 5_000


def event(item: str, op: str = "patch", **fields: Any) -> ItemEvent:
    made = parse_event({"id": "e", "timestamp": 1, "event": "item", "item": item, "op": op, "fields": fields})
    assert isinstance(made, ItemEvent)
    return made


@pytest.fixture
def writer() -> Catalogue:
    return Catalogue(SCHEMA, MOST, SharedPages)


@pytest.fixture
def reader(writer: Catalogue) -> FollowedCatalogue:
    return FollowedCatalogue(SCHEMA, MOST, SharedPages(place(writer)))


def place(writer: Catalogue) -> str:
    assert isinstance(writer.pages, SharedPages)
    return writer.pages.place


def columns(catalogue: Catalogue) -> list[Any]:
    rows = range(len(catalogue))
    held = [catalogue.key, catalogue.category, catalogue.brand, catalogue.available, catalogue.deleted]
    held += [np.nan_to_num(catalogue.price, nan=-1.0), catalogue.category_code]
    return [*(column.tolist() for column in held), [(catalogue.ids(row), catalogue.fields(row)) for row in rows]]


def test_a_reader_has_the_same_catalogue_after_each_follow_and_not_before(
    writer: Catalogue, reader: FollowedCatalogue
) -> None:
    rng = np.random.default_rng(4)
    for turn in range(300):
        name = f"i{rng.integers(0, 120)}"
        op = ("patch", "patch", "replace", "delete")[rng.integers(0, 4)]
        fields = {"title": f"red {turn} lamp", "price": turn, "category": f"c{turn % 7}", "more": "x" * (turn % 50)}
        writer.apply(event(name, op, **({} if op == "delete" else fields)))
        if turn % 10 == 0:
            known = len(reader)
            assert reader.rows([name])[0] < known
            assert reader.behind()
            reader.follow(MOST)
            assert not reader.behind()
            assert columns(reader) == columns(writer)


def test_a_reader_sees_no_more_rows_than_it_may(writer: Catalogue, reader: FollowedCatalogue) -> None:
    for k in range(10):
        writer.intern(f"i{k}")
    reader.follow(6)
    assert (len(reader), reader.published) == (6, 10)
    assert reader.rows(["i5", "i6"]).tolist() == [5, -1]
    assert reader.behind(), "the others come when there is room"
    reader.follow(10)
    assert reader.rows(["i9"])[0] == 9


def test_filters_and_words_follow_what_changed(writer: Catalogue, reader: FollowedCatalogue) -> None:
    for k in range(20):
        writer.apply(event(f"i{k}", title=f"red lamp {k}", price=k))
    reader.follow(MOST)
    dear = [("price", "gt", 100)]
    assert not reader.matches(dear, None).any()
    assert len(reader.postings("lamp")) == 20
    writer.apply(event("i3", title="blue table", price=500))
    writer.apply(event("i3", title="green table", price=600))
    writer.apply(event("i3", title="blue lamp", price=700))
    writer.apply(event("new", title="blue chair", price=800))
    reader.follow(MOST)
    assert np.flatnonzero(reader.matches(dear, None)).tolist() == [3, 20]
    assert np.unique(reader.postings("blue")).tolist() == [3, 20]
    assert np.unique(reader.postings("lamp")).tolist() == list(range(20))
    assert reader.postings("table").tolist() == []
    assert reader.postings("red").tolist() == [k for k in range(20) if k != 3]


def test_more_changes_than_are_remembered_index_everything_anew(
    writer: Catalogue, reader: FollowedCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.catalogue_live.RING", 2_000)
    writer.apply(event("i0", title="red lamp"))
    reader.follow(MOST)
    assert reader.postings("red").tolist() == [0]
    for turn in range(1_500):
        writer.apply(event("i0", title=f"blue {turn}"))
    reader.follow(MOST)
    assert reader.postings("red").tolist() == []
    assert reader.postings("blue").tolist() == [0]


@pytest.mark.parametrize("least", [1 << 28, 10])
def test_gaps_are_closed_in_new_pages_and_nothing_is_lost(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Because there are many, or because there is no room else."""
    monkeypatch.setattr("features.catalogue.LEAST_REACH", least)
    writer = Catalogue(SCHEMA, MOST, SharedPages)
    reader = FollowedCatalogue(SCHEMA, MOST, SharedPages(place(writer)))
    writer.mark_clean()
    writer.changed_rows()
    before = place(writer)
    for turn in range(4 if least == 10 else 6):
        for k in range(30):
            writer.apply(event(f"i{k}", title=f"lamp {k}", text="x" * 200_000, turn=turn))
    assert place(writer) != before
    assert writer.changed_rows().tolist() == list(range(30)), "what waits to be encoded still waits"
    assert writer.changed_chunks(), "what is to be stored still is"
    assert len(reader) == 0, "a reader of the old pages has them as they were"
    reader.follow(MOST)
    reader.attach(SharedPages(place(writer)))
    reader.follow(MOST)
    assert columns(reader) == columns(writer)


def test_fields_without_room_are_refused_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("features.catalogue.ITEM_REACH", 10)
    monkeypatch.setattr("features.catalogue.LEAST_REACH", 10)
    writer = Catalogue(SCHEMA, 1_000, SharedPages)
    writer.apply(event("a", title="lamp"))
    with pytest.raises(TooLarge, match="10000 bytes"):
        writer.apply(event("b", title="x" * 20_000))
    reader = FollowedCatalogue(SCHEMA, 1_000, SharedPages(place(writer)))
    reader.follow(1_000)
    assert (reader.ids(0), reader.title(0)) == ("a", "lamp")


def test_pages_that_are_gone_or_of_another_shape_are_refused(writer: Catalogue) -> None:
    where = place(writer)
    with pytest.raises(StoreError, match="another shape"):
        FollowedCatalogue(SCHEMA, 10 * MOST, SharedPages(where))
    pid, fd, sign = where.split("/")
    for other in (f"{pid}/{fd}/{'0' * len(sign)}", f"{pid}/9999/{sign}", "nonsense"):
        with pytest.raises(StoreError, match="gone"):
            SharedPages(other)


def test_counters_are_read_as_they_are_written() -> None:
    config = RealtimeConfig(max_items=500, max_categories=50, max_lists=50, neighbours=8)
    own, mine = RealtimeState(config), RealtimeState(config, SharedPages)
    assert isinstance(mine.pages, SharedPages)
    theirs = SharedPages(mine.pages.place)
    reader = RealtimeState(config, lambda: theirs)
    for t in range(1, 40):
        made = OpsBuilder()
        made.add(1_000 * t, IMPRESSION, 1 + t % 11, category=1 + t % 3)
        ops = made.build()
        own.apply(ops)
        mine.apply(ops)
    assert reader.slots(np.array([1], np.uint64)).tolist() == [-1], "not published yet"
    mine.items.publish()
    mine.categories.publish()
    reader.items.follow()
    reader.categories.follow()
    assert reader.digest() == mine.digest() == own.digest()
    assert reader.verify()
    assert mine.empty().pages is not mine.pages


CHILD = """
import sys, time
from features.catalogue import Catalogue
from features.schema import Schema
from features.shared_pages import SharedPages
from tests.features.test_shared_pages import MOST, event
writer = Catalogue(Schema.default(), MOST, SharedPages)
for k in range(50):
    writer.apply(event(f"i{k}", title=f"lamp {k}"))
with writer._live.writing():
    print(writer.pages.place, flush=True)
    time.sleep(60)
"""


RESTLESS = """
from features.catalogue import Catalogue
from features.schema import Schema
from features.shared_pages import SharedPages
from tests.features.test_shared_pages import MOST, event
writer = Catalogue(Schema.default(), MOST, SharedPages)
for turn in range(10**6):
    writer.apply(event(f"i{turn % 500}", title=f"lamp {turn} " + "x" * (turn % 60)))
    if turn == 500:
        print(writer.pages.place, flush=True)
"""


@contextmanager
def child_of(script: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip(), child
    finally:
        child.kill()
        child.wait(20)
        child.stdout.close()


def test_every_read_beside_a_writer_that_never_rests_is_whole() -> None:
    with child_of(RESTLESS) as (where, child):
        reader = FollowedCatalogue(SCHEMA, MOST, SharedPages(where))
        reader.follow(MOST)
        until, seen = time.monotonic() + 1.5, set()
        while time.monotonic() < until:
            row = len(seen) % 500
            title = reader.fields(row)["title"]
            turn = int(title.split()[1])
            assert (turn % 500, title) == (row, f"lamp {turn} " + "x" * (turn % 60))
            assert reader.ids(row) == f"i{row}"
            seen.add(turn)
        assert child.poll() is None
        assert len(seen) > 100
        assert not reader.live.torn, "a writer that is busy is not taken for dead"


@pytest.fixture
def killed() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with child_of(CHILD) as found:
        yield found


def test_a_writer_killed_in_the_middle_leaves_readers_what_there_was(killed: tuple[str, subprocess.Popen[str]]) -> None:
    where, child = killed
    reader = FollowedCatalogue(SCHEMA, MOST, SharedPages(where))
    reader.follow(MOST)
    child.kill()
    child.wait(20)
    began = time.monotonic()
    assert [reader.title(k) for k in range(50)] == [f"lamp {k}" for k in range(50)]
    assert time.monotonic() - began < 10 * HALF_WRITTEN_SECONDS, "it is waited for once, not for every row"
    assert reader.live.torn
    assert reader.rows(["i49"])[0] == reader.rows_of_keys(np.array([item_key("i49")], np.uint64))[0] == 49
    with pytest.raises(StoreError, match="gone"):
        SharedPages(where)


def test_what_changes_while_it_is_read_is_read_again() -> None:
    head = SharedHead(OwnPages(), 1)
    seen = []
    for _ in head.reading():
        seen.append(int(head.numbers[0]))
        if len(seen) < 3:
            with head.writing():
                head.numbers[0] += 1
    assert seen == [0, 1, 2]
