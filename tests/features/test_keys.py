"""Keys keep their values for ever; KeyIndex against a dict; HashWindow against an OrderedDict."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import hash_window_kernels, key_kernels
from features.hash_window import HashWindow
from features.keys import KeyIndex, actor_key, item_key, text_key
from features.xxh3_kernels import LONGEST, hash_texts


def test_golden_keys() -> None:
    assert item_key("85123A") == 0x1B284EED4433AC31
    assert text_key("item", "85123A") == item_key("85123A")
    assert (
        actor_key("anna", "s1") == actor_key("anna", None) == text_key("user", "anna") == 0x106CA39F7F826F17
    )
    assert actor_key(None, "s1") == text_key("session", "s1") == 0xD65CEA97F3709C8D
    assert actor_key(None, None) == 0
    assert text_key("category", "rote Lampen ❤") == 0xB7591198CA916309
    assert item_key("") == 0x79BAE5AB39F65DAC
    assert item_key("\ud800") == item_key("\ud800")  # whatever a field holds


@pytest.mark.parametrize("role", ["ab", "item", "category"])
def test_many_keys_at_once_are_those_one_by_one(role: str) -> None:
    """Every length that the kernel takes, and the first that it leaves to others."""
    random = np.random.default_rng(len(role))
    texts = ["".join(chr(c) for c in random.integers(32, 127, size)) for size in range(1, 130)]
    data = np.frombuffer("".join(texts).encode(), np.uint8)
    size = np.array([len(text) for text in texts], np.int32)
    keys = np.empty(len(texts), np.uint64)
    prefix = np.frombuffer(f"{role}\0".encode(), np.uint8)
    hash_texts(prefix, data, (np.cumsum(size) - size).astype(np.int32), size, keys)
    fits = size + len(prefix) <= LONGEST
    wanted = [text_key(role, text) if fit else 0 for text, fit in zip(texts, fits, strict=True)]
    assert keys.tolist() == wanted


@pytest.mark.parametrize("one_by_one", [False, True])
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.lists(st.lists(st.integers(0, 60)), max_size=8))
def test_key_index_is_a_dict_that_fills_up(one_by_one: bool, capacity: int, calls: list[list[int]]) -> None:
    index, model, refused = KeyIndex(capacity), dict[int, int](), 0
    for call in calls:
        keys = np.array(call, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        expected = []
        for key in map(int, keys):
            if key not in model and len(model) < capacity:
                model[key] = len(model)
            expected.append(model.get(key, -1))
            refused += key not in model
        found = [index.intern(int(key)) for key in keys] if one_by_one else index.intern_many(keys).tolist()
        assert found == expected
        assert index.get_many(keys).tolist() == expected
    assert index.keys.tolist() == list(model)
    assert (len(index), index.refused) == (len(model), refused)


def test_key_index_grows() -> None:
    index = KeyIndex(100_000)
    keys = np.random.default_rng(1).integers(0, 1 << 63, 60_000).astype(np.uint64)
    assert index.intern_many(keys[:10]).tolist() == list(range(10))
    slots = index.intern_many(keys)
    assert np.array_equal(index.keys[slots], keys)
    assert index.get_many(np.array([3], np.uint64)).tolist() == [-1]


class Model:
    """What HashWindow is, in a few lines."""

    def __init__(self, most: int, age: int) -> None:
        self.most, self.age = most, age
        self.entries: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def add(self, key: int, value: int, now: int) -> bool:
        while self.entries and next(iter(self.entries.values()))[1] < now - self.age:
            self.entries.popitem(last=False)
        if key in self.entries:
            return False
        if len(self.entries) == self.most:
            self.entries.popitem(last=False)
        self.entries[key] = (value, now)
        return True


ADDS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(-5, 5), st.integers(0, 9), st.booleans()), max_size=80
)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 20), st.integers(0, 30), ADDS)
def test_hash_window_is_a_bounded_ordered_dict(
    most: int, age: int, adds: list[tuple[int, int, int, bool]]
) -> None:
    window, model, now = HashWindow(most, age), Model(most, age), 0
    stored: dict[str, bytes] = {}
    for key, value, step, checkpoint in adds:
        now += step - 2  # time may go back: late events
        assert window.add(key, value, now) == model.add(key, value, now)
        if checkpoint:  # a restart from what was stored so far
            stored.update(window.changed_chunks())
            window.mark_clean()
            stored = {name: stored[name] for name in window.chunk_names()}
            digest, window = window.digest(), HashWindow(most, age)
            window.restore(stored)
            assert window.digest() == digest
        assert len(window) == len(model.entries)
    for key in range(31):
        assert window.get(key) == (model.entries[key][0] if key in model.entries else None)


def test_chunks_restore_midway_and_only_new_ones_are_written() -> None:
    window, whole = HashWindow(30_000, 1 << 40), HashWindow(30_000, 1 << 40)
    stored: dict[str, bytes] = {}
    for start in range(0, 60_000, 7_000):
        for n in range(start, start + 7_000):
            assert window.add(n * 7919 + 1, n, n)
            assert whole.add(n * 7919 + 1, n, n)
        changed = window.changed_chunks()
        assert len(changed) <= 4
        stored.update(changed)
        window.mark_clean()
        stored = {name: stored[name] for name in window.chunk_names()}
        window = HashWindow(30_000, 1 << 40)
        window.restore(stored)
        assert list(window.changed_chunks()) in (
            ["window"],
            ["window", f"entries-{(start + 7_000) // 4_096}"],
        )
    assert window.digest() == whole.digest()
    smaller = HashWindow(10, 1 << 40)
    smaller.restore(stored)
    assert len(smaller) == 10
    assert smaller.get(62_999 * 7919 + 1) == 62_999
    assert smaller.add(5, 5, 63_000)


@pytest.mark.parametrize("module", [key_kernels, hash_window_kernels])
def test_kernels_can_be_warmed(module: object) -> None:
    module.warm()  # type: ignore[attr-defined]


OFFERED = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 200)), max_size=150)


@given(OFFERED, st.integers(1, 40), st.integers(1, 80))
def test_a_window_takes_many_as_it_takes_one_after_the_other(
    offered: list[tuple[int, int]], most: int, age: int
) -> None:
    """Keys that come again, times that go back, rings that grow and that are full."""
    one, many = HashWindow(most, age), HashWindow(most, age)
    found = [one.add(key, place, t) for place, (key, t) in enumerate(offered)]
    keys, times = [key for key, _ in offered], [t for _, t in offered]
    places, half = list(range(len(offered))), len(offered) // 2
    first = many.add_all(keys[:half], places[:half], times[:half])
    assert first + many.add_all(keys[half:], places[half:], times[half:]) == found
    assert (many.digest(), len(many)) == (one.digest(), len(one))
