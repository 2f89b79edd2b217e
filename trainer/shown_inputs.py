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
from features.user_state import UserState
from trainer.join import Act, Join, Shown
from trainer.reconstruct import Reconstructor
from trainer.served import ServedIndex, ranking_key

Keys = NDArray[np.uint64]
Rows = NDArray[np.int32]
Make = Callable[[RankingEvent, int, Rows, int], NDArray[np.float16]]
StateOf = Callable[[int], UserState | None]


class ShownInputs:
    """Inputs for one base model."""

    def __init__(
        self,
        join: Join,
        served: ServedIndex,
        reconstruct: Reconstructor,
        base: str,
        hidden: int,
        make: Make,
        state_of: StateOf,
    ) -> None:
        """base, hidden: sha256 of the base, and its number of hidden dimensions; make: z f16 (n, d) of a ranking
        at its time t, from catalogue rows and the actor's key; state_of: an actor's state.
        """
        self._join, self.served, self._reconstruct = join, served, reconstruct
        self._base, self._hidden, self._make = base, hidden, make
        self._state_of = state_of

    def _answered(self, found: ServedRecord, have: NDArray[np.int64], rows: Rows) -> NDArray[np.float16]:
        """z f16 (n, d) of items at catalogue rows i32[n], which are rows `have` of a served record: `rest` as logged;
        `hidden` as logged by this base, else as this base would have made it for that answer."""
        logged = found.z_rows()[have]
        if found.base == self._base:
            return logged
        actor = actor_key(found.user, found.session)
        state = self._state_of(actor) if actor else None
        state = None if state is None else state.until(found.t)
        hidden = self._reconstruct.as_logged(actor, found.query, rows, state)
        return np.concatenate([hidden, logged[:, found.hidden :]], axis=1)

    def _fits(self, found: ServedRecord) -> bool:
        """Has the record the `rest` of this base?"""
        return bool(found.z_rows().shape[1] - found.hidden == self._join.d - self._hidden)

    def inferred(self, ranking: int, acts: list[Act]) -> Shown | None:
        """`infer_shown`: the items of an answer of ours down to one below the last that was clicked; None where its
        record is not known or holds none of them."""
        found = self.served.get(ranking)
        if found is None or not self._fits(found):
            return None
        keys = [item_key(item) for item in found.items]
        places = [keys.index(item) for _, item, _, _ in acts if item in keys]
        if not places:
            return None
        n = min(max(places) + 2, len(keys))
        items, positions = np.array(keys[:n], np.uint64), np.arange(1, n + 1, dtype=np.int16)
        catalogue = self._reconstruct.assembler.catalogue
        rows = catalogue.rows_of_keys(items)
        categories = np.zeros(n, np.uint64)
        categories[rows >= 0] = catalogue.category[rows[rows >= 0]]
        z = self._answered(found, np.arange(n), rows).copy()
        self._reconstruct.assembler.fill_position(z, positions, found.surface)
        offset = acts[0][3]  # a skipped range reaches what this interaction has told
        actor, control = actor_key(found.user, found.session), found.arm == "control"
        return Shown(ranking, found.t, offset, found.surface, items, categories, positions, z, actor, control)

    def replace(self, key: int, waiting: Shown, found: ServedRecord, record: Record) -> None:
        """The served record of a ranking that waits for it has come: its inputs replace those made here."""
        if not self._same_actor(found, record.tenant, waiting.actor):
            return
        have = self._rows_of(found, waiting.items)
        z = np.full(waiting.z.shape, np.nan, np.float16)
        known = have >= 0
        if not self._fits(found):
            self._join.count("foreign_layout")
            return
        same = found.base == self._base
        rows = self._reconstruct.assembler.catalogue.rows_of_keys(waiting.items[known])
        filled = self._answered(found, have[known], rows).copy()
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
        d = self._join.d
        if found is not None and not self._fits(found):
            self._join.count("foreign_layout")
            found, known = None, np.zeros(len(keys), bool)
        same = found is not None and found.base == self._base
        surface = 0 if found is None else found.surface
        z = np.zeros((len(keys), d), np.float16)
        if not known.all():
            z = self._make(event, t, rows, actor)
            surface = self._reconstruct.surface(event) if found is None else surface
        if found is not None:
            z[known] = self._answered(found, have[known], rows[known])
        self._join.count("joined" if same else "rebased", int(known.sum()))
        self._join.count("reconstructed", int((~known).sum()))
        control = found is not None and found.arm == "control"
        none = np.zeros(0, np.uint64)
        empty = np.zeros(0, np.int16)
        return Shown(key, t, record.place, surface, keys, none, empty, z, actor, control, waiting), surface
