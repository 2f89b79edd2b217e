"""The one assembler: the inputs z of the last layer for the candidates of a request, for serving and for
training alike.

It reads catalogue, real-time state and user state and changes none of them. Values lie on the f16 grid
(clipped to ±1000), so that what is logged in f16 is what was scored. A candidate's column depends on it and
the request only.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features import assembler_item_kernels as item_kernels
from features import assembler_kernels as kernels
from features import user_kernels
from features.catalogue import Catalogue
from features.layout import ZLayout
from features.math_kernels import round_all
from features.realtime import RealtimeState
from features.schema import Schema
from features.user_state import UserState

__all__ = ["Assembler", "RequestView", "ZLayout", "round_f16"]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RequestView:
    """What z depends on beside the candidates: time (ms), surface (0 recommendation, 1 search), the actor's
    history (None: nobody known), and request-scope numeric fields by name, as the shop sent them.
    """

    t: int
    surface: int = 0
    history: UserState | None = None
    fields: Mapping[str, float] = field(default_factory=dict)


def round_f16(x: F32) -> F32:
    """Round f32 values to the f16 grid in place, clipped to ±1000: numpy's astype(float16) to the bit.
    Returns x.
    """
    round_all(x.reshape(-1))
    return x


_NOBODY = UserState(0)


class Assembler:
    """Computes z. Several threads may call `assemble`; it takes the lock of the real-time state while it
    reads it.
    """

    def __init__(
        self, layout: ZLayout, schema: Schema, catalogue: Catalogue, realtime: RealtimeState
    ) -> None:
        self.layout = layout
        self.catalogue = catalogue
        self.realtime = realtime
        self._fields = schema.numeric
        self._candidate_fields = [f for f in schema.numeric if f.scope == "candidate"]
        self._sync = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._row_slots = np.zeros(0, np.int32)  # at least as long as the catalogue
        self._groups = np.zeros(0, np.int32)
        self._seen = (self.catalogue.epoch, self.realtime.epoch, 0, 0, 0, 0)

    def _synchronise(self) -> None:
        """Follow what is new: catalogue row → counter row, category number → counter row of the category."""
        catalogue, realtime = self.catalogue, self.realtime
        codes, groups = len(catalogue.category_index), len(realtime.categories)
        now = (catalogue.epoch, realtime.epoch, len(catalogue), len(realtime.items), codes, groups)
        if now == self._seen:
            return
        if now[:2] != self._seen[:2]:
            self._forget()
        rows, slots = self._seen[2:4]
        if now[2] > len(self._row_slots):
            room = min(max(now[2], 2 * rows), catalogue.max_items)
            self._row_slots = np.append(self._row_slots, np.full(room - len(self._row_slots), -1, np.int32))
        if now[2] > rows:
            self._row_slots[rows : now[2]] = realtime.slots(catalogue.key[rows : now[2]])
        if now[3] > slots:
            known = catalogue.rows_of_keys(realtime.items.keys[slots : now[3]])
            mine = known >= 0
            self._row_slots[known[mine]] = np.arange(slots, now[3], dtype=np.int32)[mine]
        if now[4:] != self._seen[4:]:
            self._groups = realtime.categories.get_many(catalogue.category_index.keys)
        self._seen = now

    def assemble(
        self,
        request: RequestView,
        rows: npt.NDArray[np.int32],
        hidden: F32 | None = None,
        candidate_fields: F32 | None = None,
    ) -> F32:
        """zT f32[d, n], C-contiguous, on the f16 grid; position block 0 (the reference).

        rows: i32[n] catalogue rows, −1 unknown. hidden: f32[n, h] (None: zeros). candidate_fields: f32[n, k]
        as sent, one column a candidate-scope numeric field of the schema in order, nan where missing.
        """
        z = self.empty(len(rows))
        if hidden is None:
            z[self.layout.block("hidden")] = 0
        else:
            self.put_hidden(z, 0, hidden)
        self.fill(z, request, rows, candidate_fields)
        return z

    def empty(self, n: int) -> F32:
        """zT f32[d, n] of n candidates, to be filled by `put_hidden` and `fill`."""
        return np.empty((self.layout.d, n), np.float32)

    def put_hidden(self, z: F32, place: int, hidden: F32) -> None:
        """Write hidden vectors f32[m, h] of candidates `place` … place + m − 1 into zT."""
        item_kernels.fill_hidden(hidden, z[self.layout.block("hidden")], place)

    def fill(
        self, z: F32, request: RequestView, rows: npt.NDArray[np.int32], candidate_fields: F32 | None = None
    ) -> None:
        """Write all of zT but the hidden block: see `assemble`."""
        layout, catalogue = self.layout, self.catalogue
        z[layout.block("intercept")] = 1
        with self._sync, self.realtime.lock:
            self._synchronise()
            self._fill_rt(request, rows, z[layout.block("rt")])
        if self._fields:
            self._fill_fields(request, rows, candidate_fields, z[layout.block("field")])
        z[layout.block("pos")] = 0
        item_kernels.fill_categories(
            rows, catalogue.category, catalogue.brand, catalogue.price, z[layout.block("cat")]
        )

    def _fill_rt(self, request: RequestView, rows: npt.NDArray[np.int32], out: F32) -> None:
        realtime, catalogue = self.realtime, self.catalogue
        history = request.history or _NOBODY
        t, times, kinds = request.t, history.times, history.kinds
        mine = catalogue.rows_of_keys(history.items)
        codes = catalogue.category_code
        own = user_kernels.own_table(t, mine, times, kinds)
        own_category = user_kernels.category_table(t, mine, codes, times, kinds)
        i2i = user_kernels.i2i_table(
            own[1], own[2], self._row_slots, realtime.gains, realtime.lists, realtime.list_slots,
            realtime.list_len, realtime.list_weights, realtime.degree, realtime.degree_total, realtime.scale(t),
        )  # fmt: skip
        totals = kernels.totals_at(realtime.totals[0], realtime.totals_last[0], t, realtime.windows)
        kernels.fill_rt(
            t, rows, self._row_slots, codes, self._groups, realtime.item_counts, realtime.item_last,
            realtime.windows, totals, realtime.category_counts, realtime.category_last, own, own_category, i2i,
            not len(history), out,
        )  # fmt: skip

    def _fill_fields(
        self, request: RequestView, rows: npt.NDArray[np.int32], given: F32 | None, out: F32
    ) -> None:
        """Numeric fields, standardised; the schema's default where missing. Rounded like the rest."""
        item_column = candidate_column = 0
        known = rows >= 0
        for k, numeric in enumerate(self._fields):
            default = (numeric.default - numeric.mean) / numeric.std
            out[k] = default
            if numeric.scope == "item":
                out[k, known] = self.catalogue.numeric[rows[known], item_column]
                item_column += 1
            elif numeric.scope == "request":
                value: Any = request.fields.get(numeric.name)
                if value is not None and math.isfinite(value):
                    out[k] = (value - numeric.mean) / numeric.std
            elif given is not None:
                column = (given[:, candidate_column] - numeric.mean) / numeric.std
                out[k] = np.where(np.isfinite(column), column, default)
                candidate_column += 1
        round_f16(out)

    def fill_position(
        self, z_rows: npt.NDArray[np.floating], positions: npt.NDArray[np.integer], surface: int
    ) -> None:
        """See ZLayout.fill_position."""
        self.layout.fill_position(z_rows, positions, surface)
