"""Typed columns over any item field, built when a filter first names it and kept up to date from then on.

It decides which rows satisfy conditions; it does not know requests or HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import InvalidRequest

if TYPE_CHECKING:
    from features.catalogue import Catalogue

OPS = ("eq", "ne", "in", "nin", "lt", "lte", "gt", "gte", "exists")
MAX_COLUMNS = 64

Mask = npt.NDArray[np.bool_]


class Column:
    """One field of all rows: numbers as f64 (nan: none), any value as a code (−1: missing)."""

    def __init__(self, size: int) -> None:
        self.built = 0  # rows below were read; the others hold what their last event said, if one came since
        self.numbers = np.full(size, math.nan)
        self.codes = np.full(size, -1, np.int32)
        self._code_of: dict[Any, int] = {}
        self._lists: dict[int, tuple[Any, ...]] = {}

    def set(self, row: int, value: Any) -> None:
        """Take the value of a row (None: missing)."""
        self.grow(row + 1)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        self.numbers[row] = value if is_number else math.nan
        self.codes[row] = -1 if value is None else self._code(value)

    def grow(self, size: int) -> None:
        """Have at least `size` rows; new ones are without a value."""
        if size > len(self.codes):
            more = max(1_024, size - len(self.codes), len(self.codes) // 2)
            self.numbers = np.concatenate([self.numbers, np.full(more, math.nan)])
            self.codes = np.concatenate([self.codes, np.full(more, -1, np.int32)])

    def _code(self, value: Any) -> int:
        known = _hashable(value)
        code = self._code_of.setdefault(known, len(self._code_of))
        if isinstance(value, list):
            self._lists[code] = tuple(_hashable(part) for part in value)
        return code

    def among(self, values: Sequence[Any], rows: npt.NDArray[np.int32]) -> Mask:
        """Rows whose value, or one element of whose list, is one of `values`."""
        wanted = {_hashable(value) for value in values}
        codes = {code for known in wanted if (code := self._code_of.get(known)) is not None}
        codes.update(code for code, parts in self._lists.items() if wanted.intersection(parts))
        return np.isin(self.codes[rows], np.array(sorted(codes), np.int32))


def _hashable(value: Any) -> Any:
    """Equal for equal field values; bool and number differ, 1 and 1.0 do not."""
    if isinstance(value, list):
        return ("list", tuple(_hashable(part) for part in value))
    return (isinstance(value, bool), value)


def _bound(value: int | float) -> float:
    """A number to compare with; an integer beyond every float is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class FilterColumns:
    """The columns that filters have named, at most MAX_COLUMNS: the one not used for longest goes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._columns: dict[str, Column] = {}

    def update(self, row: int, fields: Mapping[str, Any]) -> None:
        """The fields of a row have changed."""
        for name, column in self._columns.items():
            column.set(row, fields.get(name))

    def build(self, name: str, most: int | None = None) -> int:
        """Read a field of up to `most` (None: all) rows that are not yet in its column; how many are left."""
        size = len(self._catalogue)
        column = self._columns.pop(name, None) or Column(size)
        while len(self._columns) >= MAX_COLUMNS:
            del self._columns[next(iter(self._columns))]
        self._columns[name] = column
        column.grow(size)
        end = size if most is None else min(size, column.built + most)
        for row in range(column.built, end):
            value = self._catalogue.fields(row).get(name)
            if value is not None:
                column.set(row, value)
        column.built = end
        return size - end

    def unread(self, name: str) -> int:
        """Rows whose field is not yet in its column; all where there is none."""
        column = self._columns.get(name)
        return len(self._catalogue) - (column.built if column else 0)

    def _column(self, name: str) -> Column:
        self.build(name)
        return self._columns[name]

    def matches(self, conditions: Sequence[tuple[str, str, Any]], rows: npt.NDArray[np.int32] | None) -> Mask:
        """bool[n]: every condition holds. Unknown rows (−1) hold none. Raises InvalidRequest naming the
        condition.
        """
        if rows is None:
            rows = np.arange(len(self._catalogue), dtype=np.int32)
        known = rows >= 0
        found = known | (not conditions)
        some = rows[known]
        for at, (name, op, value) in enumerate(conditions):
            found[known] &= self._holds(self._column(name), op, value, some, f"filter[{at}]")
        return found

    def _holds(self, column: Column, op: str, value: Any, rows: npt.NDArray[np.int32], where: str) -> Mask:
        if op == "exists":
            wanted = value is None or bool(value)
            return np.asarray((column.codes[rows] >= 0) == wanted)
        if op in ("eq", "ne"):
            return np.asarray(column.among([value], rows) == (op == "eq"))
        if op in ("in", "nin"):
            if not isinstance(value, list):
                raise InvalidRequest(f"{op} needs a list", field=f"{where}.value", value=value)
            return np.asarray(column.among(value, rows) == (op == "in"))
        if op not in OPS:
            raise InvalidRequest(
                "unknown filter operation", field=f"{where}.op", value=op, hint=" | ".join(OPS)
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"{op} needs a number", field=f"{where}.value", value=value)
        numbers, bound = column.numbers[rows], _bound(value)
        compare = {"lt": np.less, "lte": np.less_equal, "gt": np.greater, "gte": np.greater_equal}[op]
        return np.asarray(compare(numbers, bound), bool)
