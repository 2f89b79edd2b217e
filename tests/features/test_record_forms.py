"""Records, tokens, cuts and served records: what is stored comes back, what is newer or damaged is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput, LogError
from features.events import parse_event
from features.records import (
    Cut,
    Record,
    ServedRecord,
    decode_token,
    encode_token,
    event_record,
    next_offsets,
    offset_key,
)


def served(**changes: Any) -> ServedRecord:
    z = np.arange(6, dtype="<f2").reshape(2, 3)
    given: dict[str, Any] = {
        "request_id": "r", "t": 5, "tenant": "t", "base": "b" * 64, "version": 7, "objective": "click",
        "items": ["a", "品"], "scores": np.array([1.5, 0.5], "<f4").tobytes(), "hidden": 1, "z": z.tobytes(),
    }  # fmt: skip
    return ServedRecord(**{**given, **changes})


def test_an_event_record() -> None:
    raw = {"id": "e", "timestamp": 5, "event": "interaction", "type": "click", "item": "i", "user": "u"}
    found = event_record(parse_event(raw, tenant="t"), imported=True)
    assert (found.kind, found.tenant, found.timestamp, found.key, found.imported) == (
        "interaction",
        "t",
        5,
        "u",
        True,
    )
    assert found.id_hash


def test_offsets_move_past_records() -> None:
    def record(stream: str, offset: int) -> Record:
        return Record(stream, 0, offset, "item", "t", 0, 0, False, "", b"")

    assert offset_key("event", 3) == "event/3"
    moved = next_offsets(
        [record("event", 4), record("event", 2), record("served", 0)], {"event/0": 1, "cut/0": 9}
    )
    assert moved == {"event/0": 5, "cut/0": 9, "served/0": 1}


@given(st.dictionaries(st.sampled_from([f"event/{i}" for i in range(8)]), st.integers(0, 1 << 40)))
def test_a_token_comes_back(offsets: dict[str, int]) -> None:
    token = encode_token(offsets)
    if token is None:
        assert len(offsets) > 5
    else:
        assert len(token) <= 256
        assert decode_token(token) == offsets


def test_above_eight_partitions_there_is_no_token() -> None:
    assert encode_token({f"event/{i}": i for i in range(9)}) is None
    assert encode_token({f"event/{i}": 1_000_000 for i in range(8)}) is not None


@pytest.mark.parametrize(
    "token", ["", "x", "é", "e30" * 100, "bnVsbA==", "eyJhIjotMX0=", "eyJhIjp0cnVlfQ==", "\ud800"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_token(token)
    assert refused.value.field == "after"


def test_a_cut_comes_back_and_a_newer_one_is_refused() -> None:
    cut = Cut({"event/0": 5}, 17)
    assert Cut.from_bytes(cut.to_bytes()) == cut
    assert b'"v":1' in cut.to_bytes()
    for bad in (b"", b"[]", b'{"v":1}', b"\xff"):
        with pytest.raises(LogError):
            Cut.from_bytes(bad)
    with pytest.raises(LogError, match="version 2"):
        Cut.from_bytes(b'{"v":2,"else":1}')


def test_a_served_record_comes_back() -> None:
    record = served(
        user="u", propensity=np.ones(2, "<f4").tobytes(), counters={"event/0": 3}, fields={"bm25": 1.5}
    )
    found = ServedRecord.from_bytes(record.to_bytes())
    assert found == record
    assert found.z_rows().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.score_row().tolist() == [1.5, 0.5]
    assert msgspec.msgpack.decode(record.to_bytes())["v"] == 1


def test_a_served_record_of_no_items() -> None:
    assert ServedRecord.from_bytes(served(items=[], scores=b"", z=b"").to_bytes()).z_rows().shape[0] == 0


@pytest.mark.parametrize(
    "changes", [{"z": b"abc"}, {"z": b"abcdef"}, {"scores": b"1234"}, {"propensity": b"1"}]
)
def test_a_served_record_whose_arrays_do_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(LogError):
        ServedRecord.from_bytes(served(**changes).to_bytes())


def test_a_newer_or_damaged_served_record_is_refused() -> None:
    with pytest.raises(LogError, match="version 9"):
        ServedRecord.from_bytes(msgspec.msgpack.encode({"v": 9, "new": True}))
    for bad in (b"", b"\xc1", b"\x80", served().to_bytes()[:-5]):
        with pytest.raises(LogError):
            ServedRecord.from_bytes(bad)


def test_members_of_later_versions_are_ignored() -> None:
    more = {**msgspec.msgpack.decode(served().to_bytes()), "later": 1}
    assert ServedRecord.from_bytes(msgspec.msgpack.encode(more)) == served()
