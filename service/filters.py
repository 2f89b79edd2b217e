"""Which candidates may be ranked: availability and the request's conditions on catalogue fields.

A field that no filter has named before is read from all items; `prepare` does that while others get their turn.
The comparing itself is the catalogue's (`features/catalogue_filter.py`); a condition on a field that an item does not
have holds for `ne`, `nin` and `exists: false` only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue
from features.errors import InvalidRequest
from service.filter_kernels import mark_available
from service.requests import Condition

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int32]

SLICE = 500
"""Items whose field is read at one go, in a millisecond."""
PAUSE_SECONDS = 0.0002

MOST_FIELDS = 32
"""Fields that one request may name: half of the columns that are kept."""


def ready(catalogue: Catalogue, conditions: Sequence[Condition]) -> bool:
    """Whether nearly all items are in the columns of these conditions; the rest is read within the request. Raises
    InvalidRequest for too many fields.
    """
    fields = {condition.field for condition in conditions}
    if len(fields) > MOST_FIELDS:
        raise InvalidRequest(
            f"a request filters on at most {MOST_FIELDS} fields", field="filter", value=len(fields)
        )
    return all(catalogue.unindexed(field) <= SLICE for field in fields)


def prepare(catalogue: Catalogue, conditions: Sequence[Condition], lock: threading.Lock) -> None:
    """Have a column of every field that the conditions name. The caller does not hold `lock`: it is taken here for a
    slice of items at a time, since a million take a second.
    """
    for name in {condition.field: None for condition in conditions}:
        while True:
            with lock:
                left = catalogue.index_field(name, SLICE)
            if not left:
                break
            time.sleep(PAUSE_SECONDS)


def available(catalogue: Catalogue, rows: Rows) -> Mask:
    """bool (n,): items that are neither deleted nor unavailable; unknown ones (−1) count as available."""
    found = np.empty(len(rows), np.bool_)
    mark_available(rows, catalogue.available, catalogue.deleted, found)
    return found


def holds(catalogue: Catalogue, conditions: Sequence[Condition], rows: Rows | None) -> Mask:
    """bool (n,): rows (None: the whole catalogue) for which all conditions hold; InvalidRequest names a bad one."""
    return catalogue.matches([(c.field, c.op, c.value) for c in conditions], rows)
