"""IDs as bytes: read from JSON as the typed decoder reads them, told apart, written as orjson writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidRequest, TooLarge
from features.keys import item_key
from service.candidates import Candidates
from service.requests import MAX_ID_BYTES, RankRequest, candidate_ids, decode, decode_rank

TEXTS = [
    "a", "i-1", "x" * 123, "y" * 124, "z" * 256, "é", "红色", "🎈", 'say "hi"', "back\\slash", "tab\t", "a b", "\x7f"
]  # fmt: skip
NASTY = [
    "[]", "[", "]", "[,]", '["a",]', '["a" "b"]', '["a"]]', '["a"] x', "[1.5]", "[-1]", "[01]", "[1e3]", "[ 7 , 0 ]",
    '["a\\u0041"]', '["\\ud800"]', '["é"]', '["a\tb"]', '[""]', "[true]", "[null]", "[1 2]", "[12345678901234567890]",
    "[999999999999999999]", '[["a"]]', '[{"id": "a"}, "b"]', '["a", {"id": 3, "fields": {"x": 1}}]', '"abc"', "7", "{}",
    '  [ "a" ,\n\t"b"\r]  ', '["a"', '["a', '["%s"]' % ("a" * 257), '["a","b","c","d","e","f","g"]',
]  # fmt: skip


def slow_way(body: bytes) -> tuple[RankRequest, list[str], dict[str, Any]]:
    ask = decode(body, RankRequest)
    return ask, *candidate_ids(ask, 5)


def outcome(work: Callable[[], tuple[RankRequest, Sequence[str], Any]]) -> Any:
    """Who asks for what, or how it was refused."""
    try:
        ask, ids, fields = work()
    except (InvalidRequest, TooLarge) as refused:
        return type(refused), refused.as_dict()
    return ask.user, ask.top_k, list(ids), fields


@pytest.mark.parametrize("items", NASTY)
def test_the_fast_way_takes_what_the_typed_decoder_takes(items: str) -> None:
    body = b'{"user": "u", "items": %s, "top_k": 3}' % items.encode()
    assert outcome(lambda: slow_way(body)) == outcome(lambda: decode_rank(body, 5))


@pytest.mark.parametrize(
    "name", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", "é红🎈".encode(), b"\x7f", b"\xf4\x90\x80\x80"]
)
def test_bytes_beyond_ascii_are_utf8_or_refused(name: bytes) -> None:
    body = b'{"items": ["a", "%s"]}' % name
    assert outcome(lambda: slow_way(body)) == outcome(lambda: decode_rank(body, 5))


@pytest.mark.parametrize(
    "members",
    [
        b'"items": [1.5], "items": ["a"]',
        b'"items": ["a"], "items": [true]',
        b'"items": ["a"], "items": ["b"]',
        b'"\\u0069tems": [1.5], "items": ["a"]',
        b'"items": [null], "\\u0069\\u0074\\u0065\\u006D\\u0073": ["a"]',
        b'"items": ["\xff"], "items": ["a"]',
        b'"items": ["a"], "query": "\\"items\\"", "fields": {"items": ["x"]}',
    ],
)
def test_items_named_twice_are_all_checked(members: bytes) -> None:
    body = b'{"user": "u", %s, "top_k": 3}' % members
    assert outcome(lambda: slow_way(body)) == outcome(lambda: decode_rank(body, 5))


PLAIN = st.text(st.characters(blacklist_categories=["Cs"]), max_size=6)
ITEM = st.one_of(
    st.sampled_from(["a", "b", "0", "7", "x" * 256, "x" * 257, "é" * 128]),
    PLAIN,
    st.integers(-2, 10**20),
    st.sampled_from([None, True, 1.5, [], {"id": "a"}, {"id": 3, "fields": {"items": 1}}, {"fields": {}}]),
)
MEMBER = st.one_of(
    st.tuples(st.just("items"), st.lists(ITEM, max_size=7)),
    st.tuples(st.just("items"), st.lists(st.one_of(PLAIN, st.integers(0, 99)), min_size=1, max_size=5)),
    st.tuples(st.sampled_from(["user", "query", "after", "itms"]), st.one_of(PLAIN, st.just("items"))),
    st.tuples(st.just("fields"), st.dictionaries(st.sampled_from(["items", "x"]), st.integers(0, 9))),
)
EDIT = st.tuples(
    st.floats(0, 1),
    st.integers(0, 3),
    st.sampled_from(
        [b"", b",", b'"', b"\\", b"[", b"]", b"{", b"}", b" ", b"\n", b"\x00", b"\x1f", b"\x7f", b"\xff", b"\xc3",
         b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\u0041", b"\\ud800", b"0", b"-", b".5", b"e9", b'"items":[2.5],']
    ),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(MEMBER, max_size=4), st.booleans(), st.lists(EDIT, max_size=2))
def test_any_body_is_taken_or_refused_as_the_typed_decoder_does(
    members: list[tuple[str, Any]], escaped: bool, edits: list[tuple[float, int, bytes]]
) -> None:
    """Bodies of members in any number, and bytes cut out of them and put in anywhere."""
    pairs = (f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=escaped)}" for name, value in members)
    body = ("{" + ", ".join(pairs) + "}").encode()
    for place, gone, put in edits:
        at = int(place * len(body))
        body = body[:at] + put + body[at + gone :]
    assert outcome(lambda: slow_way(body)) == outcome(lambda: decode_rank(body, 5))


def test_random_bytes_never_pass_for_ids() -> None:
    rng = random.Random(3)
    taken = 0
    for _ in range(10_000):
        text = "[" + "".join(rng.choices('"",,a10-. \\]\n\x1f', k=rng.randrange(1, 9))) + "]"
        ids = Candidates.of_json(text.encode(), 100, MAX_ID_BYTES)
        if ids is not None:
            taken += 1
            assert [str(value) for value in json.loads(text)] == list(ids)
    assert taken > 100


def test_plain_lists_are_read_the_fast_way() -> None:
    texts = [f"i{k}" for k in range(5_000)]
    beyond = json.dumps([f"é红{k}" for k in range(5_000)], ensure_ascii=False).encode()
    for encoded in (
        beyond,
        msgspec.json.encode(texts),
        json.dumps(texts).encode(),
        orjson.dumps(list(range(5_000))),
    ):
        ids = Candidates.of_json(encoded, 5_000, MAX_ID_BYTES)
        assert ids is not None
        assert [str(value) for value in json.loads(encoded)] == list(ids)
        assert Candidates.of_json(encoded, 4_999, MAX_ID_BYTES) is None


def test_keys_are_those_of_the_catalogue() -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices("abc019-é", k=size)) for size in range(1, 257) for _ in range(3)] + TEXTS
    assert Candidates.of(texts).keys.tolist() == [item_key(text) for text in texts]
    plain = [
        text
        for text in texts
        if text.isprintable() and not {'"', "\\"} & set(text) and len(text.encode()) < 257
    ]
    ids = Candidates.of_json(json.dumps(plain, ensure_ascii=False).encode(), len(plain), MAX_ID_BYTES)
    assert ids is not None
    assert ids.keys.tolist() == [item_key(text) for text in plain]


def test_a_sequence_of_texts() -> None:
    ids = Candidates.of(TEXTS)
    assert (len(ids), list(ids), ids[-1], ids[2:4]) == (len(TEXTS), TEXTS, TEXTS[-1], TEXTS[2:4])
    assert ids.index("é") == TEXTS.index("é")
    assert list(ids.take(np.array([3, 0, 3]))) == [TEXTS[3], "a", TEXTS[3]]
    assert not Candidates.of([])
    assert list(Candidates.of([]).distinct()) == []


def test_repeats_and_exclusions_go_and_order_stays() -> None:
    rng = random.Random(2)
    texts = [rng.choice(TEXTS) + str(rng.randrange(30)) for _ in range(700)]
    distinct = list(dict.fromkeys(texts))
    ids = Candidates.of(texts).distinct()
    assert list(ids) == distinct
    gone = set(distinct[::3]) | {"unknown"}
    assert list(ids.without(gone)) == [text for text in distinct if text not in gone]


def test_json_is_what_orjson_writes() -> None:
    for texts in ([], ["a"], ["a b", "c", "é", "红色🎈", "\x7f"], [str(k) for k in range(100)]):
        assert Candidates.of(texts).json() == orjson.dumps(texts)
    for text in ('"', "\\", "\t", "\x00"):
        assert Candidates.of(["a", text]).json() is None
