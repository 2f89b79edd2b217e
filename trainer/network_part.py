"""The network's part of z during a replay: hidden vectors of catalogue rows, by the graphs that serve.

Item vectors follow the catalogue, a user's vector her history, exactly as in the ranker
(service/item_encoder.py, service/user_vectors.py). It holds no real-time state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.assembler import RequestView
from features.catalogue import Catalogue
from features.coding import F32, HISTORY
from service.item_encoder import item_input
from service.scorer import ItemInput, Scorer, SideVector

Rows = npt.NDArray[np.int32]


class NetworkPart:
    """Hidden vectors as of a replay; `bind` it to the replay's catalogue before the first call."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._unknown = scorer.encode_items([ItemInput("")]).tower
        self._towers = self._unknown.copy()
        self._catalogue: Catalogue | None = None

    def bind(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def _refresh(self) -> Catalogue:
        catalogue = self._catalogue
        if catalogue is None:
            raise RuntimeError("NetworkPart.bind was not called")
        changed = catalogue.changed_rows()
        if len(changed):
            missing = int(changed[-1]) + 1 - len(self._towers)
            if missing > 0:
                more = np.repeat(self._unknown, max(missing, len(self._towers)), axis=0)
                self._towers = np.concatenate([self._towers, more])
            inputs = [
                item_input(catalogue.ids(row), catalogue.fields(row), catalogue.schema) for row in changed
            ]
            self._towers[changed] = self.scorer.encode_items(inputs).tower
        return catalogue

    def towers(self, rows: Rows) -> F32:
        """Item vectors f32[n, 64] of rows; an unknown one (−1) has that of an item nobody knows."""
        self._refresh()
        return np.where((rows >= 0)[:, None], self._towers[np.maximum(rows, 0)], self._unknown)

    def user(self, request: RequestView) -> SideVector:
        """The user's vector of a request from her history."""
        state = request.history
        if state is None or not len(state):
            return self.scorer.encode_actor(
                0, self._unknown[:0], np.zeros(0, np.uint8), np.zeros(0, np.int64)
            )
        rows = self._refresh().rows_of_keys(state.items[-HISTORY:])
        return self.scorer.encode_actor(
            state.key, self.towers(rows), state.kinds[-HISTORY:], state.times[-HISTORY:]
        )

    def __call__(self, request: RequestView, rows: Rows, query: str | None = None) -> F32:
        """hidden f32[n, h] of rows for a request."""
        return self.scorer.hidden(self.towers(rows), self.user(request), self.scorer.encode_query(query))
