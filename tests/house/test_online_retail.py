"""The importer of Online Retail: every row counted once, times in UTC, the same events every time."""

from __future__ import annotations

import csv
import hashlib
import lzma
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from features.errors import InvalidInput
from features.event_parser import parse_event
from features.events import InteractionEvent, ItemEvent, to_bytes
from trainer.importing import online_retail as retail

ROWS = [
    [
        "536365",
        "85123a",
        "WHITE HANGING HEART",
        "6",
        "2010-12-01 08:26:00",
        "2.55",
        "17850.0",
        "United Kingdom",
    ],
    ["536366", "85123A", "WHITE  HANGING HEART ", "2", "2010-12-01 08:28:00", "2.95", "", "United Kingdom"],
    ["536366", "85123A", "white hanging heart?", "1", "2010-12-01 08:28:00", "9.95", "", "United Kingdom"],
    ["536366", "POST", "POSTAGE", "1", "2010-12-01 08:28:00", "18.0", "12583.0", "France"],
    [
        "536367",
        "71053",
        "WHITE METAL LANTERN",
        "3",
        "2011-07-01 09:00:00",
        "3.39",
        "17850.0",
        "United Kingdom",
    ],
    [
        "C536379",
        "85123A",
        "WHITE HANGING HEART",
        "-1",
        "2011-07-01 09:00:00",
        "2.55",
        "17850.0",
        "United Kingdom",
    ],
    ["C536380", "85123A", "WHITE HANGING HEART", "-1", "2011-07-01 09:00:00", "2.55", "", "United Kingdom"],
    ["536381", "71053", "damages", "-9", "2011-07-02 09:00:00", "0.0", "", "United Kingdom"],
]


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([retail.HEADER, *rows])
    return path


@pytest.fixture
def small(tmp_path: Path) -> retail.OnlineRetail:
    return retail.read(write(tmp_path / "small.csv", ROWS))


def test_every_row_has_one_fate(small: retail.OnlineRetail) -> None:
    assert small.report.rows == Counter(
        {
            retail.PURCHASE: 2,
            retail.SESSION: 2,
            retail.REFUND: 1,
            retail.RETURN_UNKNOWN: 1,
            retail.NOT_A_PRODUCT: 1,
            retail.NO_PRICE: 1,
        }
    )
    assert small.report.other_codes == Counter({"POST": 1})


def test_events_are_in_time_order_and_items_come_first(small: retail.OnlineRetail) -> None:
    events = list(small.events())
    assert len(events) == small.count() == 7
    times = [event.timestamp for event in events]
    assert times == sorted(times)
    seen = set()
    for event in events:
        if isinstance(event, ItemEvent):
            seen.add(event.item)
        else:
            assert isinstance(event, InteractionEvent)
            assert event.item in seen
    assert len({event.id for event in events}) == len(events)


def test_fields_of_an_item(small: retail.OnlineRetail) -> None:
    items = {event.item: event.fields for event in small.events() if isinstance(event, ItemEvent)}
    assert items["85123A"] == {"title": "WHITE HANGING HEART", "price": 2.75, "category": "heart"}
    assert items["71053"]["category"] == "lantern"


def test_purchases_sessions_and_refunds(small: retail.OnlineRetail) -> None:
    by_id = {event.id: event for event in small.events() if isinstance(event, InteractionEvent)}
    assert by_id["or-536365-2"] == InteractionEvent(
        id="or-536365-2",
        timestamp=1291191960000,
        type="purchase",
        item="85123A",
        user="17850",
        fields={"quantity": 6, "price": 2.55, "order_id": "536365"},
    )
    assert (by_id["or-536366-3"].session, by_id["or-536366-3"].user) == ("536366", None)
    assert by_id["or-C536379-7"].type == "refund"
    assert by_id["or-C536379-7"].fields["quantity"] == 1


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2010-12-01 08:26:00", "2010-12-01T08:26:00"),
        ("2011-03-27 00:59:00", "2011-03-27T00:59:00"),
        ("2011-03-27 02:01:00", "2011-03-27T01:01:00"),
        ("2011-07-01 12:00:00", "2011-07-01T11:00:00"),
        ("2011-10-30 00:30:00", "2011-10-29T23:30:00"),
        ("2011-10-30 02:30:00", "2011-10-30T02:30:00"),
    ],
)
def test_london_time(local: str, utc: str) -> None:
    wanted = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert retail.utc_ms(local) == wanted.timestamp() * 1_000


def test_one_constant_moves_every_time(small: retail.OnlineRetail) -> None:
    pairs = zip(small.events(), small.events(shift_ms=5_000), strict=True)
    assert all(
        moved == msgspec.structs.replace(event, timestamp=event.timestamp + 5_000) for event, moved in pairs
    )


def test_every_event_is_of_the_dialect(small: retail.OnlineRetail) -> None:
    for event in small.events():
        assert parse_event(to_bytes(event)) == event


def test_plural_becomes_singular_only_where_that_word_is_known() -> None:
    titles = {"1": "TEA CUP", "2": "SIX CUPS", "3": "MERRY CHRISTMAS", "4": "GLASS", "5": "ALARM CLOCK RED"}
    found = retail.derive_categories(titles)
    assert found == {"1": "cup", "2": "cup", "3": "christmas", "4": "glass", "5": "clock"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [([["1", "2"]], "line 2"), ([ROWS[3]], "no row"), ([[*ROWS[0][:3], "six", *ROWS[0][4:]]], "line 2")],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, rows: list[list[str]], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        retail.read(write(tmp_path / "bad.csv", rows))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput, match="not Online Retail"):
        retail.read(path)


@pytest.fixture(scope="module")
def shipped() -> retail.OnlineRetail:
    return retail.read(retail.sample_file())


def test_the_shipped_file_is_the_published_one() -> None:
    path = retail.sample_file()
    wanted = (path.parent / "online-retail.csv.sha256").read_text().split()[0]
    with lzma.open(path) as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == wanted  # type: ignore[arg-type]
    assert path.stat().st_size < 8 << 20
    assert "CC BY 4.0" in (path.parent / "SOURCE.txt").read_text()


def test_the_report_adds_up_to_the_published_count(shipped: retail.OnlineRetail, root: Path) -> None:
    assert sum(shipped.report.rows.values()) == 541_909
    documented = (root / "docs/data.md").read_text()
    for count in shipped.report.rows.values():
        assert f"| {count:,} |" in documented
    assert (shipped.report.items, shipped.report.customers) == (3_805, 4_362)
    assert len(shipped.lines) == sum(
        shipped.report.rows[fate] for fate in (retail.PURCHASE, retail.SESSION, retail.REFUND)
    )
