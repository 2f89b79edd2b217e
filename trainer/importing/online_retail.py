"""UCI Online Retail (CC BY 4.0): invoice lines into items, purchases and refunds. It writes nothing to a
log.

The set holds purchases only: no impressions, no clicks, no queries. What becomes of each of its rows is
counted in `Report.rows`, which adds up to the file. Rules and their reasons: docs/data.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple, TypeVar

from features.errors import InvalidInput
from features.events import Event, Fields, InteractionEvent, ItemEvent

HEADER = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
]
SAMPLE = Path("deploy/sample/online-retail/online-retail.csv.xz")  # below the root of the source tree

_PRODUCT = re.compile(r"\d{5}[A-Z]*\Z")
_WORD = re.compile(r"[a-z]{3,}")
_SPACES = re.compile(r"\s+")
# colours, sizes and patterns, which say how a thing looks and not what it is
_LOOKS_TEXT = """
    amber amethyst antique assorted bakelike black blue brown cream crystal design diamante dotty
    flock floral font gingham gold green grey ivory jade large lilac medium mini navy new orange
    paisley pastel pattern pearl pink polkadot purple red retrospot ruby set silver small spot
    stripe turquoise vintage white yellow colour colours england france london paris fashion
"""
_LOOKS = frozenset(_LOOKS_TEXT.split())

# what can become of a row
PURCHASE = "purchase of a customer"
SESSION = "purchase without a customer (user = none, session = invoice)"
REFUND = "refund of a customer"
RETURN_UNKNOWN = "left out: return without a customer"
NOT_A_PRODUCT = "left out: no product (postage, bank, samples, vouchers, adjustments, tests)"
NO_PRICE = "left out: price of zero or less (stock corrections, damages)"

KEPT = (PURCHASE, SESSION, REFUND)

T = TypeVar("T")


class Line(NamedTuple):
    """One kept row."""

    time: int  # ms since 1970, UTC
    row: int  # its line in the file, 2 = the first after the header
    invoice: str
    code: str
    quantity: int
    price: float
    customer: str | None
    refund: bool


@dataclass
class Report:
    """What was found. `rows` counts every row of the file exactly once, by what became of it."""

    rows: Counter[str] = field(default_factory=Counter)
    other_codes: Counter[str] = field(default_factory=Counter)
    items: int = 0
    customers: int = 0
    first: int = 0  # ms, before any shift
    last: int = 0
    shift_ms: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For --json and import.json."""
        return {
            "rows": sum(self.rows.values()),
            "by_fate": dict(self.rows),
            "other_codes": dict(self.other_codes.most_common()),
            "items": self.items,
            "customers": self.customers,
            "first": self.first,
            "last": self.last,
            "shift_ms": self.shift_ms,
        }


@dataclass
class OnlineRetail:
    """The file as read: kept lines in time order, and what is known of each product."""

    lines: list[Line]
    titles: dict[str, str]
    prices: dict[str, float]
    categories: dict[str, str]
    report: Report

    def events(self, shift_ms: int = 0, tenant: str = "default") -> Iterator[Event]:
        """Every event in time order; a product's `item` event stands before its first line.

        shift_ms is added to every time. Ids depend on the file only: `or-item-<code>`, `or-<invoice>-<row>`.
        """
        seen: set[str] = set()
        for line in self.lines:
            time = line.time + shift_ms
            if line.code not in seen:
                seen.add(line.code)
                yield self._item_event(line.code, time, tenant)
            yield InteractionEvent(
                id=f"or-{line.invoice}-{line.row}",
                timestamp=time,
                tenant=tenant,
                type="refund" if line.refund else "purchase",
                item=line.code,
                user=line.customer,
                session=line.invoice if line.customer is None else None,
                fields={"quantity": line.quantity, "price": line.price, "order_id": line.invoice},
            )

    def _item_event(self, code: str, time: int, tenant: str) -> ItemEvent:
        fields: Fields = {"title": self.titles[code], "price": self.prices[code]}
        if code in self.categories:
            fields["category"] = self.categories[code]
        return ItemEvent(id=f"or-item-{code}", timestamp=time, tenant=tenant, item=code, fields=fields)

    def count(self) -> int:
        """How many events `events()` gives."""
        return len(self.lines) + len(self.titles)


def sample_file() -> Path:
    """The CSV that ships with the source tree (the wheel does not hold it). Raises InvalidInput when it is
    not there.
    """
    path = Path(__file__).resolve().parents[2] / SAMPLE
    if not path.exists():
        raise InvalidInput(
            f"the sample data are not here ({path})", hint="name the CSV: import online-retail FILE"
        )
    return path


class _Memo(dict[str, T]):
    """A function of a string that is called once for each string; its values are shared objects."""

    def __init__(self, function: Callable[[str], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> T:
        value = self[text] = self._function(text)
        return value


class _Reader:
    """Turns rows into lines and counts what becomes of each."""

    def __init__(self) -> None:
        self.report = Report()
        self.lines: list[Line] = []
        self.titles: dict[str, Counter[str]] = {}
        self._codes = _Memo(lambda text: text.strip().upper())
        self._product = _Memo(lambda code: _PRODUCT.match(code) is not None)
        self._customers = _Memo(lambda text: str(int(float(text))) if text else None)
        self._invoices, self._prices, self._minutes = _Memo(str), _Memo(float), _Memo(utc_ms)

    def take(self, number: int, row: list[str]) -> None:
        """One row of the file. Raises ValueError when it has another form."""
        invoice, raw_code, title, raw_quantity, minute, raw_price, raw_customer, _ = row
        code, customer = self._codes[raw_code], self._customers[raw_customer]
        quantity, price, time = int(raw_quantity), self._prices[raw_price], self._minutes[minute]
        fate = self._fate(code, quantity, price, customer)
        self.report.rows[fate] += 1
        if fate in KEPT:
            self.titles.setdefault(code, Counter())[title] += 1
            kept = (
                time,
                number,
                self._invoices[invoice],
                code,
                abs(quantity),
                price,
                customer,
                fate is REFUND,
            )
            self.lines.append(Line(*kept))
        elif fate is NOT_A_PRODUCT:
            self.report.other_codes[code] += 1

    def _fate(self, code: str, quantity: int, price: float, customer: str | None) -> str:
        if not self._product[code]:
            return NOT_A_PRODUCT
        if price <= 0 or quantity == 0:
            return NO_PRICE
        if quantity < 0:
            return RETURN_UNKNOWN if customer is None else REFUND
        return SESSION if customer is None else PURCHASE


def read(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> OnlineRetail:
    """Read the CSV (plain, .gz or .xz). Raises InvalidInput naming file, line and what was expected."""
    reader = _Reader()
    with _open(path) as file:
        rows = csv.reader(file)
        if next(rows, None) != HEADER:
            hint = f"expected {','.join(HEADER)}"
            raise InvalidInput(f"{path} is not Online Retail", field="line 1", hint=hint)
        for number, row in enumerate(rows, start=2):
            try:
                reader.take(number, row)
            except ValueError as error:
                where = f"line {number}"
                raise InvalidInput(f"{path}, {where}: {error}", field=where, value=row) from error
            if number % 50_000 == 0:
                progress(number, 0)
    if not reader.lines:
        raise InvalidInput(f"{path} holds no row that becomes an event")
    reader.lines.sort()
    return _finish(reader.lines, reader.titles, reader.report)


def _finish(lines: list[Line], found: dict[str, Counter[str]], report: Report) -> OnlineRetail:
    prices: dict[str, list[float]] = {}
    for line in lines:
        prices.setdefault(line.code, []).append(line.price)
    titles = {code: _most_frequent(counts) for code, counts in found.items()}
    report.items = len(titles)
    report.customers = len({line.customer for line in lines if line.customer is not None})
    report.first, report.last = lines[0].time, lines[-1].time
    categories = derive_categories(titles)
    return OnlineRetail(
        lines, titles, {code: median(seen) for code, seen in prices.items()}, categories, report
    )


def _most_frequent(counts: Counter[str]) -> str:
    """The most frequent description, blanks collapsed; of equally frequent ones the first in the alphabet."""
    best = min(counts, key=lambda title: (-counts[title], title))
    return _SPACES.sub(" ", best).strip()


def derive_categories(titles: dict[str, str]) -> dict[str, str]:
    """Item → category: the last word of its title (three letters or more) that names a thing, not a colour,
    size or pattern. A plural becomes its singular if that is a word of some title too (HOLDERS → holder;
    CHRISTMAS stays). The set has no categories of its own.
    """
    words = {code: _WORD.findall(title.lower()) for code, title in titles.items()}
    known = {word for found in words.values() for word in found}
    return {code: _category(found, known) for code, found in words.items() if found}


def _category(words: list[str], known: set[str]) -> str:
    things = [word for word in words if word not in _LOOKS] or words
    last = things[-1]
    for ending in ("s", "es"):
        if last.endswith(ending) and not last.endswith("ss") and last.removesuffix(ending) in known:
            return last.removesuffix(ending)
    return last


def utc_ms(local_minute: str) -> int:
    """`2010-12-01 08:26:00`, a clock in London, as ms since 1970. Raises ValueError.

    British Summer Time by its rule (last Sunday of March to last Sunday of October, 01:00 UTC), so that no
    time zone database is needed; the repeated hour in October counts as winter time.
    """
    moment = datetime.fromisoformat(local_minute).replace(tzinfo=UTC)
    summer = _last_sunday(moment.year, 3, 2) <= moment.replace(tzinfo=None) < _last_sunday(moment.year, 10, 1)
    return int((moment - timedelta(hours=1 if summer else 0)).timestamp()) * 1_000


def _last_sunday(year: int, month: int, hour: int) -> datetime:
    last = date(year, month, 31)
    return datetime(year, month, 31 - (last.weekday() + 1) % 7, hour)


def _open(path: Path) -> IO[str]:
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    try:
        raw = openers.get(path.suffix, io.open)(path, "rb")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", field="FILE", value=path) from error
    return io.TextIOWrapper(raw, encoding="utf-8", newline="")
