"""Stored records and the token: golden bytes, round trips, and refusals of what is damaged or newer."""

from __future__ import annotations

import base64
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput, LogError
from features.records import Cut, ServedRecord, decode_token, encode_token

SERVED = ServedRecord(
    request_id="r1", t=1769860800000, tenant="default", base="abab", version=3, objective="click", items=["a", "b"],
    scores=np.array([-1, -2], "<f4").tobytes(), hidden=1, z=np.array([[1, 2], [3, 4]], "<f2").tobytes(),
    user="anna", counters={"event/0": 9}, surface=1, query="red", fields={"hour": 12.0},
)  # fmt: skip
SERVED_BYTES = (
    b"\xde\x00\x10\xaarequest_id\xa2r1\xa1t\xcf\x00\x00\x01\x9c\x13\xec\x9e\x00\xa6tenant\xa7default\xa4base\xa4abab"
    b"\xa7version\x03\xa9objective\xa5click\xa5items\x92\xa1a\xa1b\xa6scores\xc4\x08\x00\x00\x80\xbf\x00\x00\x00\xc0"
    b"\xa6hidden\x01\xa1z\xc4\x08\x00<\x00@\x00B\x00D\xa4user\xa4anna\xa8counters\x81\xa7event/0\t\xa7surface\x01"
    b"\xa5query\xa3red\xa6fields\x81\xa4hour\xcb@(\x00\x00\x00\x00\x00\x00\xa1v\x01"
)


def test_golden_served_record() -> None:
    assert SERVED.to_bytes() == SERVED_BYTES
    found = ServedRecord.from_bytes(SERVED_BYTES)
    assert found == SERVED
    assert (found.v, found.arm, found.session) == (1, "live", None)
    assert found.z_rows().tolist() == [[1, 2], [3, 4]]
    assert found.z_rows().dtype == np.float16
    assert found.score_row().tolist() == [-1, -2]


def test_an_answer_without_items_is_a_record() -> None:
    empty = msgspec.structs.replace(SERVED, items=[], scores=b"", z=b"")
    assert ServedRecord.from_bytes(empty.to_bytes()).z_rows().shape == (0, 0)


def test_golden_cut() -> None:
    cut = Cut({"event/0": 5}, 7)
    assert cut.to_bytes() == b'{"offsets":{"event/0":5},"watermark":7,"v":1}'
    assert Cut.from_bytes(cut.to_bytes()) == cut


@pytest.mark.parametrize(
    "change", [{"z": bytes(7)}, {"scores": bytes(4)}, {"propensity": bytes(4)}, {"items": []}]
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(LogError, match="do not fit"):
        ServedRecord.from_bytes(msgspec.structs.replace(SERVED, **change).to_bytes())


def test_a_newer_version_is_named_whatever_it_holds() -> None:
    with pytest.raises(LogError, match="served record of format version 2; this code reads 1"):
        ServedRecord.from_bytes(msgspec.msgpack.encode({"v": 2, "t": "a new form"}))
    with pytest.raises(LogError, match="cut of format version 3; this code reads 2"):
        Cut.from_bytes(b'{"v":3}')


def test_unknown_fields_are_ignored() -> None:
    more = msgspec.msgpack.decode(SERVED_BYTES) | {"later": 1}
    assert ServedRecord.from_bytes(msgspec.msgpack.encode(more)) == SERVED


@given(st.binary(max_size=80) | st.integers(0, len(SERVED_BYTES) - 1).map(lambda n: SERVED_BYTES[:n]))
def test_damaged_records_raise_log_errors_only(body: bytes) -> None:
    for kind in (ServedRecord, Cut):
        with pytest.raises(LogError):
            kind.from_bytes(body)


OFFSETS = st.dictionaries(st.from_regex(r"event/[0-9]{1,2}", fullmatch=True), st.integers(0, 1 << 50))


@given(OFFSETS)
def test_tokens_come_back_or_there_is_none(offsets: dict[str, int]) -> None:
    token = encode_token(offsets)
    if token is None:
        assert len(offsets) > 4
    else:
        assert len(token) <= 256
        assert decode_token(token) == offsets


def text_of(content: object) -> str:
    """A token's text."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def test_golden_token() -> None:
    assert encode_token({"event/0": 12}) == "eyJldmVudC8wIjoxMn0="
    assert encode_token({f"event/{n}": 1 for n in range(9)}) is None


@pytest.mark.parametrize(
    "token",
    ["", "x", "é", "W10=", "A" * 257, *(text_of({"event/0": value}) for value in (-1, 1.5, True)), text_of({"v": 2})],
)
def test_other_texts_are_no_tokens(token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_token(token)
    assert refused.value.field == "after"
