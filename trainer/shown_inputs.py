"""The inputs z of what a ranking showed: as served where its record is known, else made here.

The cases are those of docs/joins-and-delays.md. It says whose record is whose, and counts; when things arrive, and
what follows from them, is `arrivals.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features.events import RankingEvent
from features.keys import actor_key, item_key
from features.records import Record, ServedRecord
from trainer.join import Join, Shown
from trainer.reconstruct import Reconstructor
from trainer.served import ServedIndex, ranking_key

Keys = NDArray[np.uint64]
Make = Callable[[RankingEvent, int, NDArray[np.int32], int], NDArray[np.float16]]


class ShownInputs:
    """Inputs for one base model."""

    def __init__(
        self, join: Join, served: ServedIndex, reconstruct: Reconstructor, base: str, hidden: int, make: Make
    ) -> None:
        """base, hidden: sha256 of the base, and its number of hidden dimensions; make: z f16 (n, d) of a ranking
        at its time t, from catalogue rows and the actor's key.
        """
        self._join, self.served, self._reconstruct = join, served, reconstruct
        self._base, self._hidden, self._make = base, hidden, make

    def replace(self, key: int, waiting: Shown, found: ServedRecord, record: Record) -> None:
        """The served record of a ranking that waits for it has come: its inputs replace those made here."""
        if not self._same_actor(found, record.tenant, waiting.actor):
            return
        have = self._rows_of(found, waiting.items)
        z = np.full(waiting.z.shape, np.nan, np.float16)
        known = have >= 0
        rows = found.z_rows()
        if rows.shape[1] - found.hidden != self._join.d - self._hidden:
            self._join.count("foreign_layout")
            return
        z[known, self._hidden :] = rows[have[known], found.hidden :]
        same = found.base == self._base
        z[known, : self._hidden] = (
            rows[have[known], : found.hidden] if same else waiting.z[known, : self._hidden]
        )
        filled = z[known]
        self._reconstruct.assembler.fill_position(filled, waiting.positions[known], found.surface)
        z[known] = filled
        if self._join.replace(key, z, record.effective_time, control=found.arm == "control"):
            self._join.count("reconstructed", -int(known.sum()))
            self._join.count("joined" if same else "rebased", int(known.sum()))

    def _same_actor(self, found: ServedRecord, tenant: str, actor: int) -> bool:
        """A served record of another tenant or user is not joined."""
        if found.tenant != tenant:
            self._join.count("foreign_tenant")
            return False
        if actor_key(found.user, found.session) != actor:
            self._join.count("foreign_user")
            return False
        return True

    @staticmethod
    def _rows_of(found: ServedRecord, items: Keys) -> NDArray[np.int64]:
        """Row of each item in the served record, −1 where it is not among those logged."""
        place = {item_key(item): k for k, item in reversed(list(enumerate(found.items)))}
        return np.array([place.get(key, -1) for key in items.tolist()], np.int64)

    def of(
        self, event: RankingEvent, record: Record, t: int, keys: Keys, rows: NDArray[np.int32]
    ) -> tuple[Shown, int]:
        """The inputs z of a ranking's items: as served where its record is known, else made here."""
        key, actor = ranking_key(record.tenant, event.id), actor_key(event.user, event.session)
        found = self.served.get(key)
        waiting = found is None
        if found is not None and not self._same_actor(found, record.tenant, actor):
            found = None
        have = np.full(len(keys), -1, np.int64) if found is None else self._rows_of(found, keys)
        known = have >= 0
        served = np.zeros((0, 0), np.float16) if found is None else found.z_rows()
        d = self._join.d
        if found is not None and served.shape[1] - found.hidden != d - self._hidden:
            self._join.count("foreign_layout")
            found, known = None, np.zeros(len(keys), bool)
        same = found is not None and found.base == self._base
        surface = 0 if found is None else found.surface
        z = np.zeros((len(keys), d), np.float16)
        if not same or not known.all():
            z = self._make(event, t, rows, actor)
            surface = self._reconstruct.surface(event) if found is None else surface
        if found is not None:
            z[known, self._hidden :] = served[have[known], found.hidden :]
            if same:
                z[known, : self._hidden] = served[have[known], : found.hidden]
        self._join.count("joined" if same else "rebased", int(known.sum()))
        self._join.count("reconstructed", int((~known).sum()))
        control = found is not None and found.arm == "control"
        none = np.zeros(0, np.uint64)
        empty = np.zeros(0, np.int16)
        return Shown(key, t, record.place, surface, keys, none, empty, z, actor, control, waiting), surface
