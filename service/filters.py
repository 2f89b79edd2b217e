"""Which candidates may be ranked: availability and the request's conditions on catalogue fields.

The comparing itself is the catalogue's (`features/catalogue_filter.py`); a condition on a field that an item does not
have holds for `ne`, `nin` and `exists: false` only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue
from service.requests import Condition

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int32]


def available(catalogue: Catalogue, rows: Rows) -> Mask:
    """bool (n,): items that are neither deleted nor unavailable; unknown ones (−1) count as available."""
    found = np.ones(len(rows), np.bool_)
    known = rows >= 0
    some = rows[known]
    found[known] = catalogue.available[some] & ~catalogue.deleted[some]
    return found


def holds(catalogue: Catalogue, conditions: Sequence[Condition], rows: Rows | None) -> Mask:
    """bool (n,): rows (None: the whole catalogue) for which all conditions hold; InvalidRequest names a bad one."""
    return catalogue.matches([(c.field, c.op, c.value) for c in conditions], rows)
