"""What a label join holds: rings of shown items, of rankings and of clicks, what finds a row in them, and their chunks.

It labels nothing: `trainer/join_labels.py` makes examples of the rows, `trainer/join.py` moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from trainer.gate import Gate
from trainer.hold import Hold
from trainer.join_rows import LABEL, LABEL_1, NO_COLUMNS, PENDING, RANKING, SHOWN, Act, JoinRules, Shown
from trainer.learner import Learner
from trainer.rings import Ring


@dataclass
class JoinState:
    """Rings of shown items and of clicks, and the rules that label them. `taught(offset)` says whether
    what the event at `offset` showed may move the weights."""

    d: int
    rules: JoinRules
    learner: Learner
    gate: Gate
    hold: Hold
    taught: Callable[[int], bool]
    counts: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    kept: float = 1.0  # share of the negatives of this cut that are learned
    infer: Callable[[int, list[Act]], Shown | None] | None = None  # `infer_shown`, see `Join._infer`

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all that waits (another base: its inputs are none of the new one's)."""
        rules = self.rules
        self.shown = Ring(rules.capacity, SHOWN, LABEL, self.d, former=LABEL_1)
        self.rankings = Ring(rules.capacity, RANKING, NO_COLUMNS, 0)
        self.clicks = Ring(rules.clicks, PENDING, LABEL, self.d, former=LABEL_1)
        self._ranking_of: dict[int, int] = {}
        self._first_ranking = 0
        self._click_of: dict[tuple[int, int], int] = {}
        self._unshown: dict[int, list[Act]] = {}
        self._early: dict[int, list[Act]] = {}  # by ranking: they wait for its served record

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of the status."""
        if n:
            self.counts[name] = self.counts.get(name, 0) + n

    def _rings(self) -> dict[str, Ring]:
        return {"shown": self.shown, "rankings": self.rankings, "clicks": self.clicks}

    def chunk_names(self) -> list[str]:
        """All chunks that exist."""
        rings = self._rings().items()
        return ["counts", *(f"{name}/{part}" for name, ring in rings for part in ring.chunk_names())]

    def changed_chunks(self) -> dict[str, bytes]:
        """Chunks changed since `mark_clean`."""
        waiting = list(self._unshown.items()), list(self._early.items())
        scalars = (self._first_ranking, sorted(self.counts.items()), *waiting)
        found = {"counts": msgspec.msgpack.encode(scalars)}
        for name, ring in self._rings().items():
            found.update({f"{name}/{part}": data for part, data in ring.changed_chunks().items()})
        return found

    def mark_changed(self) -> None:
        """Nothing of it is stored under the name that it has now."""
        for ring in self._rings().values():
            ring.mark_changed()

    def mark_clean(self) -> None:
        """What `changed_chunks` gave is stored."""
        for ring in self._rings().values():
            ring.mark_clean()

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """Become the join that all of these chunks were taken from."""
        self.clear()
        for name, ring in self._rings().items():
            start = f"{name}/"
            mine = [part for part in chunks if part.startswith(start)]
            ring.restore({part.removeprefix(start): chunks[part] for part in mine})
        self._first_ranking, counts, *waiting = msgspec.msgpack.decode(chunks["counts"])
        self.counts = dict(counts)
        acts = [dict(msgspec.convert(part, list[tuple[int, list[Act]]])) for part in waiting]
        self._unshown, self._early = acts[0], acts[1] if len(acts) > 1 else {}  # an earlier release wrote one
        for rank in range(self._first_ranking, self.rankings.next):
            self._ranking_of[int(self.rankings.fixed["hash"][rank % self.rules.capacity])] = rank
        for number in range(self.clicks.oldest, self.clicks.next):
            row = self.clicks.fixed[number % self.rules.clicks]
            self._click_of[(int(row["hash"]), int(row["item"]))] = number
