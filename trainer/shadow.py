"""The pair beside the one that answers: another base and a last layer of its own, learned from the same arrivals.

What a ranking showed reaches it with the `rest` of z as the answering pair has it; only `hidden` is of its own base: as
logged where this base answered, else computed from the user's state at that time. It has join, filters, hold and
gate of its own and moves nothing of the answering pair: with it and without it that one learns the same bits.
What it learns from before it was there is `catch_up.py`'s; who answers is `rollout.py`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.events import RankingEvent
from features.records import MAX_PARTITIONS, Offsets, Record, ServedRecord, partitions_in, place, split_key
from features.user_state import NO_RECENTS
from service.artifact import Artifact
from trainer.gate import PRIOR
from trainer.hold import DONE, EVENT
from trainer.join import Act, Shown
from trainer.publish import Learning
from trainer.reconstruct import Reconstructor
from trainer.served import ServedIndex
from trainer.shown_inputs import ShownInputs
from trainer.states import TrainerStates

Rows = NDArray[np.int32]


class ShadowState(msgspec.Struct):
    """The small things of a pair in a checkpoint."""

    base: str
    live: bool
    cursor: Offsets
    watermark: int
    weights_version: int
    last: bytes
    served: dict[str, bytes]
    skipped: list[Any]
    poisoned: list[int]


class Shadow:
    """See the module. `live`: it is fed by the arrivals of each cut; before, `cursor` and `watermark` say how far it
    has read the log behind them."""

    def __init__(
        self,
        artifact: Artifact,
        learning: Learning,
        reconstruct: Reconstructor,
        served: ServedIndex,
        users: TrainerStates,
    ) -> None:
        """served: where its rankings find what was served."""
        self.artifact, self.learning, self.reconstruct = artifact, learning, reconstruct
        self.live = False
        self.cursor: Offsets = {}
        self.watermark = 0
        self.weights_version = 0
        self._users = users
        self.fresh: list[tuple[int, int]] = []  # (hash, ms) of rankings that were shown in this cut
        self._rest: NDArray[np.float16] = np.zeros((0, 0), np.float16)
        self.use_served(served)

    @property
    def base(self) -> str:
        """sha256 of its base."""
        return self.artifact.sha256

    def use_served(self, served: ServedIndex) -> None:
        """Look served records up there from now on."""
        hidden = self.artifact.manifest.hidden
        self.inputs = ShownInputs(
            self.learning.join, served, self.reconstruct, self.base, hidden, self._make, self._users.get
        )

    def infer(self, ranking: int, acts: list[Act]) -> Shown | None:
        """`infer_shown` of this pair: it counts nothing."""
        return self.inputs.inferred(ranking, acts)

    # arrivals of a cut, in their order

    def served(self, key: int, found: ServedRecord, record: Record) -> None:
        """A served record has come; a ranking may wait for it."""
        waiting = self.learning.join.waiting(key) if self.live else None
        if waiting is not None:
            self.inputs.replace(key, waiting, found, record)

    def show(self, event: RankingEvent, record: Record, rows: Rows, shown: Shown) -> None:
        """A ranking showed items at catalogue rows i32[n]; `shown`: as the answering pair has it."""
        self._rest = shown.z[:, shown.z.shape[1] - (self.learning.join.d - self.artifact.manifest.hidden) :]
        self.show_logged(event, record, rows, shown.items, shown.categories, shown.positions)
        self.fresh.append((shown.hash, shown.t))

    def show_logged(
        self,
        event: RankingEvent,
        record: Record,
        rows: Rows,
        items: NDArray[np.uint64],
        categories: NDArray[np.uint64],
        positions: NDArray[np.int16],
    ) -> None:
        """A ranking showed these items, all of them in its served record."""
        mine, surface = self.inputs.of(event, record, record.effective_time, items, rows)
        mine = replace(mine, items=items, categories=categories, positions=positions)
        self.reconstruct.assembler.fill_position(mine.z, positions, surface)
        self.learning.join.show(mine)

    def _make(self, event: RankingEvent, t: int, rows: Rows, actor: int) -> NDArray[np.float16]:
        """z of a ranking of which no record is known: `rest` as the answering pair has just made it."""
        state = self._users.get(actor) if actor else None
        text = event.fields.get("query")
        query = text if isinstance(text, str) else None
        hidden = self.reconstruct.as_logged(actor, query, rows, None if state is None else state.until(t))
        return np.concatenate([hidden, self._rest], axis=1)

    def act(self, t: int, kind: int, item: int, ranking: int, offset: int) -> None:
        """An interaction that names a ranking (by hash; 0: it names none)."""
        if ranking:
            self.learning.hold.push(t, EVENT, (DONE, kind, item, 0, ranking, False, offset, NO_RECENTS))

    def release(self, through: int) -> None:
        """Let out what is due: labels go to the join."""
        self.learning.release(through, self._let_out)

    def _let_out(self, t: int, held: tuple[Any, ...]) -> None:
        _, kind, item, _, ranking, _, offset, _ = held
        self.learning.join.act(t, ranking, item, kind, offset)

    def push(self, v: int, watermark: int, offsets: Offsets, generation: int) -> None:
        """End of cut v: the weights to publish. A rollback that its gate asks for is carried out at once."""
        t, through = (watermark, offsets) if self.live else (self.watermark, self.cursor)
        learning = self.learning
        pushed = learning.push(v, t, dict(through))
        self.weights_version = v if pushed.changed or not self.weights_version else self.weights_version
        wanted = learning.gate.state.wanted
        if wanted is not None:
            to = int(wanted["to"])
            means = None if to == PRIOR else learning.gate.snapshot(to)
            learning.roll_back(to, means, t, event_ranges(wanted["from"], through, generation))
            learning.join.count("rollbacks")

    def state(self) -> ShadowState:
        """What a checkpoint says of it beside its chunks."""
        learning = self.learning
        return ShadowState(
            self.base, self.live, dict(self.cursor), self.watermark, self.weights_version, learning.last,
            {name: mean.astype("<f8").tobytes() for name, mean in learning.served.items()},
            list(learning.skipped), [head.poisoned for head in learning.learner.heads.values()],
        )  # fmt: skip

    def adopt(self, state: ShadowState) -> None:
        """The inverse of `state`, for the same base."""
        learning = self.learning
        self.live, self.cursor, self.watermark = state.live, dict(state.cursor), state.watermark
        self.weights_version, learning.last = state.weights_version, state.last
        learning.served = {name: np.frombuffer(data, "<f8").copy() for name, data in state.served.items()}
        learning.skipped = [(int(start), int(end)) for start, end in state.skipped]
        for head, poisoned in zip(learning.learner.heads.values(), state.poisoned, strict=True):
            head.poisoned = poisoned


def event_ranges(start: Offsets, end: Offsets, generation: int) -> list[tuple[int, int]]:
    """The events between two offset maps of a log, as ranges of places, one a partition that `end` names."""
    names = [(name, split_key(name)[1] | generation * MAX_PARTITIONS) for name in partitions_in("event", end)]
    return [(place(number, start.get(name, 0)), place(number, end[name])) for name, number in names]
