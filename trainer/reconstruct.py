"""z for a shown item whose served record is not ours: as serving would have seen it then. It learns nothing.

User state through the time of the ranking, counters through that time minus the hold, the catalogue as it is; by
the same assembler and scorer as the ranker's. Rows do not depend on what they are computed with, so that a replay
gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.assembler import Assembler, RequestView
from features.catalogue import Catalogue
from features.events import RankingEvent
from features.keys import actor_key
from features.user_state import UserState
from service.engine import as_number
from service.item_encoder import item_input
from service.scorer import ItemInput, Scorer
from service.user_vectors import LENGTH

TOWERS = 50_000
Rows = NDArray[np.int32]


class Reconstructor:
    """Computes z; keeps item towers by row until the item changes."""

    def __init__(self, catalogue: Catalogue, scorer: Scorer, assembler: Assembler) -> None:
        self._catalogue, self._scorer, self.assembler = catalogue, scorer, assembler
        self._towers: dict[int, NDArray[np.float32]] = {}
        self._unknown = scorer.encode_items([ItemInput("")]).tower[0]

    def forget(self, row: int) -> None:
        """The item of this row has changed."""
        self._towers.pop(row, None)

    def _tower_rows(self, rows: Rows) -> NDArray[np.float32]:
        """Towers f32 (n, 64) of catalogue rows, −1 unknown."""
        found = {row: self._towers.get(row) for row in set(rows.tolist()) if row >= 0}
        if len(self._towers) > TOWERS:
            self._towers.clear()
        missing = sorted(row for row, tower in found.items() if tower is None)
        if missing:
            catalogue = self._catalogue
            schema = catalogue.schema
            items = [item_input(catalogue.ids(row), catalogue.fields(row), schema) for row in missing]
            for row, tower in zip(missing, self._scorer.encode_items(items).tower, strict=True):
                found[row] = self._towers[row] = tower.copy()
        towers = np.empty((len(rows), len(self._unknown)), np.float32)
        for k, row in enumerate(rows.tolist()):
            tower = found.get(row)
            towers[k] = self._unknown if tower is None else tower
        return towers

    def z(self, event: RankingEvent, t: int, rows: Rows, state: UserState | None) -> NDArray[np.float16]:
        """f16 (n, d), position block 0, of the event's items at catalogue rows i32[n]; state: the actor's."""
        state = None if state is None else state.until(t)
        hidden, surface = self._hidden(event, rows, state)
        schema = self._catalogue.schema
        wanted = [f.name for f in schema.numeric if f.scope == "request" and f.name in event.fields]
        numbers = {name: as_number(event.fields[name]) for name in wanted}
        fields = {name: value for name, value in numbers.items() if math.isfinite(value)}
        view = RequestView(t=t, surface=surface, history=state, fields=fields)
        z = self.assembler.assemble(view, rows, hidden, self._candidate_numbers(event))
        return np.ascontiguousarray(z.T).astype(np.float16)

    def surface(self, event: RankingEvent) -> int:
        """1 (search) where the event's query has words, else 0 (recommendation)."""
        text = event.fields.get("query")
        return int(isinstance(text, str) and self._scorer.encode_query(text) is not None)

    def _hidden(
        self, event: RankingEvent, rows: Rows, state: UserState | None
    ) -> tuple[NDArray[np.float32], int]:
        """The base's hidden vectors f32 (n, h), and the surface (1 with query words)."""
        text = event.fields.get("query")
        actor = actor_key(event.user, event.session)
        return self.hidden(actor, text if isinstance(text, str) else None, rows, state)

    def as_logged(self, actor: int, text: str | None, rows: Rows, state: UserState | None) -> NDArray[np.float16]:
        """`hidden` as a served record has it: f16 (n, h)."""
        made, _ = self.hidden(actor, text, rows, state)
        z = self.assembler.empty(len(rows))
        self.assembler.put_hidden(z, 0, made)
        return np.ascontiguousarray(z[: made.shape[1]].T).astype(np.float16)

    def hidden(
        self, actor: int, text: str | None, rows: Rows, state: UserState | None
    ) -> tuple[NDArray[np.float32], int]:
        """The base's hidden vectors f32 (n, h) of catalogue rows, for an actor key with the state that she had then,
        and the surface (1 with query words)."""
        none = state is None or not len(state)
        recent = np.zeros(0, np.uint64) if state is None else state.items[-LENGTH:]
        towers = self._tower_rows(self._catalogue.rows_of_keys(recent))
        kinds = np.zeros(0, np.uint8) if none or state is None else state.kinds[-LENGTH:].copy()
        times = np.zeros(0, np.int64) if none or state is None else state.times[-LENGTH:].copy()
        user = self._scorer.encode_actor(actor, towers, kinds, times)
        query = self._scorer.encode_query(text) if text is not None else None
        return self._scorer.hidden(self._tower_rows(rows), user, query), 0 if query is None else 1

    def _candidate_numbers(self, event: RankingEvent) -> NDArray[np.float32] | None:
        names: Sequence[str] = [f.name for f in self._catalogue.schema.numeric if f.scope == "candidate"]
        if not names:
            return None
        columns = [[as_number(item.fields.get(name)) for item in event.items] for name in names]
        return np.ascontiguousarray(np.array(columns, np.float32).T)
