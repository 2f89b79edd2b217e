"""The catalogue: item events, columns, the word index, filters, chunks, bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalogue import Catalogue
from features.errors import InvalidRequest
from features.events import ItemEvent
from features.keys import item_key, text_key
from features.schema import Schema
from features.words import words

SCHEMA = Schema.from_dict(
    {
        "schema": 1,
        "fields": [
            {"name": "name", "scope": "item", "role": "title"},
            {"name": "group", "scope": "item", "role": "category"},
            {"name": "maker", "scope": "item", "role": "brand"},
            {"name": "price", "scope": "item", "role": "price"},
            {"name": "weight", "scope": "item", "role": "numeric", "default": 2, "mean": 1, "std": 2},
        ],
    }
)


def event(item: str, op: str = "patch", available: bool | None = None, **fields: Any) -> ItemEvent:
    return ItemEvent(id="e", timestamp=1, item=item, op=op, fields=fields, available=available)  # type: ignore[arg-type]


def catalogue(size: int = 5_000) -> Catalogue:
    return Catalogue(SCHEMA, size)


def test_columns_follow_patch_replace_and_delete() -> None:
    c = catalogue()
    row = c.apply(event("a", name="Red lantern", group="g", maker="m", price=3, weight=5))
    assert (c.ids(row), c.title(row)) == ("a", "Red lantern")
    assert c.category[row] == text_key("category", "g")
    assert c.brand[row] == text_key("brand", "m")
    assert (c.price[row], c.numeric[row, 0]) == (3, 2)
    c.apply(event("a", price="4.5", group=None))
    assert c.fields(row) == {"name": "Red lantern", "maker": "m", "price": "4.5", "weight": 5}
    assert c.category[row] == 0
    assert c.category_code[row] == -1
    assert c.price[row] == 4.5
    c.apply(event("a", "replace", group=["x", "y"], price="cheap"))
    assert c.category[row] == text_key("category", "x")
    assert c.title(row) == ""
    assert math.isnan(c.price[row])
    assert c.numeric[row, 0] == 0.5
    c.apply(event("a", "delete"))
    assert c.deleted[row]
    assert c.fields(row) == {}
    c.apply(event("a", price=1))
    assert not c.deleted[row]
    assert c.rows(["a", "b"]).tolist() == [row, -1]
    assert c.rows_of_keys(np.array([item_key("a")], np.uint64)).tolist() == [row]


def test_availability_is_kept_until_it_is_said_otherwise() -> None:
    c = catalogue()
    row = c.apply(event("a", available=False))
    c.apply(event("a", price=1))
    assert not c.available[row]
    c.apply(event("a", "replace", price=1))
    assert c.available[row]


def test_an_interned_item_has_a_row_and_no_fields() -> None:
    c = catalogue()
    row = c.intern("é" * 128)
    assert c.ids(row) == "é" * 128
    assert c.fields(row) == {}
    assert c.numeric[row, 0] == 0.5
    assert c.intern("é" * 128) == row
    assert c.changed_rows().tolist() == [row]
    assert c.changed_rows().tolist() == []
    version = c.version
    c.apply(event("é" * 128, price=1))
    assert c.version > version
    assert c.changed_rows().tolist() == [row]


def test_a_full_catalogue_refuses_and_counts() -> None:
    c = catalogue(3)
    assert [c.intern(str(k)) for k in range(5)] == [0, 1, 2, -1, -1]
    assert c.apply(event("new")) == -1
    assert c.refused >= 3
    assert len(c) == 3


def test_words_find_rows_and_follow_titles() -> None:
    c = catalogue()
    red = c.apply(event("a", name="red lantern"))
    assert c.postings("lantern").tolist() == [red]
    blue = c.apply(event("b", name="blue lanterns"))
    word = words("lantern")[0]
    assert c.postings(word).tolist() == [red, blue]
    c.apply(event("a", name="red lamp"))
    assert c.postings(word).tolist() == [blue]
    c.apply(event("a", name="red lantern"))
    assert sorted(c.postings(word).tolist()) == [red, blue]
    assert c.postings("nothing").tolist() == []
    built_late = catalogue()
    built_late.restore(c.changed_chunks())
    assert sorted(built_late.postings(word).tolist()) == [red, blue]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (("group", "eq", "g"), "a"),
        (("group", "ne", "g"), "bcd"),
        (("tags", "eq", "new"), "b"),
        (("tags", "in", ["old", "x"]), "bc"),
        (("tags", "nin", ["old"]), "ad"),
        (("price", "lt", 3), "a"),
        (("price", "lte", 3), "ab"),
        (("price", "gt", 2.5), "b"),
        (("price", "gte", 9), ""),
        (("price", "exists", True), "abc"),
        (("price", "exists", False), "d"),
        (("flag", "eq", True), "c"),
        (("flag", "eq", 1), ""),
        (("price", "eq", 3.0), "b"),
        (("unheard_of", "eq", 1), ""),
        (("unheard_of", "ne", 1), "abcd"),
    ],
)
def test_filters(condition: tuple[str, str, Any], found: str) -> None:
    c = catalogue()
    c.matches([condition])  # the column exists before the items
    c.apply(event("a", group="g", price=2))
    c.apply(event("b", price=3, tags=["new", "old"]))
    c.apply(event("c", price="3", flag=True, tags=["old"]))
    c.intern("d")
    fresh = catalogue()
    fresh.restore(c.changed_chunks())
    for one in (c, fresh):
        mask = one.matches([condition])
        assert "".join(one.ids(row) for row in np.flatnonzero(mask)) == found
        rows = np.array([3, -1, 0], np.int32)
        expected = [one.ids(3) in found, False, one.ids(0) in found]
        assert one.matches([condition], rows).tolist() == expected
    assert c.matches([]).all()


def test_bad_filters_are_named() -> None:
    c = catalogue()
    c.intern("a")
    for condition, where in (
        (("f", "like", "x"), r"filter\[1\].op"),
        (("f", "in", "x"), r"filter\[1\].value"),
        (("f", "lt", "x"), r"filter\[1\].value"),
    ):
        with pytest.raises(InvalidRequest, match=where):
            c.matches([("f", "exists", True), condition])


FIELDS = st.dictionaries(
    st.sampled_from(["name", "group", "price", "weight", "other"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(max_size=20),
        st.integers(-(2**40), 2**40),
        st.lists(st.text(max_size=3)),
    ),
    max_size=4,
)
EVENTS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["patch", "replace", "delete"]), FIELDS), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 60))
def test_chunks_bring_it_back_and_it_goes_on_the_same(
    events: list[tuple[int, str, dict[str, Any]]], cut: int
) -> None:
    whole, pieces = catalogue(), catalogue()
    for item, op, fields in events:
        whole.apply(event(str(item), op, None, **fields))
    for item, op, fields in events[:cut]:
        pieces.apply(event(str(item), op, None, **fields))
    stored = pieces.changed_chunks()
    pieces.mark_clean()
    assert pieces.changed_chunks() == {}
    other = catalogue()
    other.restore(stored)
    assert other.digest() == pieces.digest()
    for item, op, fields in events[cut:]:
        other.apply(event(str(item), op, None, **fields))
    assert other.digest() == whole.digest()
    for row in range(len(whole)):
        assert (other.ids(row), other.fields(row)) == (whole.ids(row), whole.fields(row))


def test_chunks_that_do_not_fit_are_refused() -> None:
    c = catalogue()
    for k in range(2_000):
        c.apply(event(str(k), price=k))
    chunks = c.changed_chunks()
    assert list(chunks) == c.chunk_names() == ["rows/0", "rows/1"]
    with pytest.raises(ValueError, match="missing"):
        catalogue().restore({"rows/1": chunks["rows/1"]})
    with pytest.raises(ValueError, match="max_items"):
        catalogue(1_500).restore(chunks)


def test_changing_fields_does_not_grow_memory_for_ever() -> None:
    c = catalogue()
    for k in range(300):
        c.apply(event("a", text="x" * 200_000 + str(k) * (k % 7)))
    assert len(c._arena) < 64 << 20
    assert c.fields(0)["text"].endswith(str(299) * (299 % 7))
