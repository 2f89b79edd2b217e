"""Random ops for tests, and the real-time state by definition: dictionaries, loops, no bounds but those it
states.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from features.ops import Ops, OpsBuilder
from features.realtime import WINDOWS_MS, RealtimeConfig
from features.user_state import UserState

T0 = 1_700_000_000_000
SMALL = RealtimeConfig(max_items=5_000, max_categories=50, max_lists=3_000, neighbours=6)


def random_ops(seed: int, n: int, items: int = 12, actors: int = 4, late: bool = True) -> Ops:
    """n ops of all kinds by a few actors; times mostly ascend, some are equal, some late."""
    random = np.random.default_rng(seed)
    users = [UserState(k + 1) for k in range(actors)]
    builder, t = OpsBuilder(), T0
    for _ in range(n):
        t += int(random.choice([0, 0, 1_000, 60_000, 5_000_000, 90_000_000]))
        at = t - int(random.integers(0, 10_000_000)) if late and random.random() < 0.1 else t
        item, kind = int(random.integers(1, items + 1)), int(random.integers(0, 6))
        category = int(random.integers(0, 4))
        if kind == 0:
            builder.add(at, 0, item, category, int(random.integers(0, 40)), int(random.integers(0, 2)))
            continue
        user = users[int(random.integers(actors))]
        position = int(random.integers(0, 5)) if kind == 1 else 0
        builder.add(at, kind, item, category, position, 0, user.recents(at))
        user.append(item, kind, at)
    return builder.build()


class Oracle:
    """Counters and co-visitation by definition, for item keys; weights as of a time instead of inflated
    ones.
    """

    def __init__(self, config: RealtimeConfig) -> None:
        self.config = config
        self.moves: dict[tuple[str, int], list[tuple[int, int, float]]] = defaultdict(list)
        self.shown = np.zeros((2, 9))
        self.clicked = np.zeros((2, 9))
        self.lists: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
        self.degree: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(len(config.taus_ms)))
        self.base = 0

    def apply(self, ops: Ops) -> None:
        """Take ops in order."""
        self.base = self.base or int(ops.t[0])
        for i in range(len(ops)):
            self._count(ops, i)
            if 0 < ops.kind[i] < 5:
                self._pair(ops, i)

    def _count(self, ops: Ops, i: int) -> None:
        kind, t = int(ops.kind[i]), int(ops.t[i])
        position, side = int(ops.position[i]), min(int(ops.surface[i]), 1)
        bucket = sum(position > edge for edge in (1, 2, 3, 5, 8, 12, 20, 30))
        stream, amount = {0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 5: 3}[kind], 1.0
        if kind == 0:
            amount = (self.clicked[side, bucket] + 1) / (self.shown[side, bucket] + 20)
            self.shown[side, bucket] += 1
        elif kind == 1 and position > 0:
            self.clicked[side, bucket] += 1
        elif kind == 5:
            amount = -1.0
        for place in (("item", int(ops.item[i])), ("category", int(ops.category[i])), ("all", 0)):
            if place != ("category", 0):
                self.moves[place].append((t, stream, amount))

    def counts(self, place: tuple[str, int], t: int) -> np.ndarray:
        """f64[streams, windows] as of t; never below 0 at any move."""
        out = np.zeros((4, len(WINDOWS_MS)))
        last = None
        for at, stream, amount in self.moves.get(place, []):
            for j, window in enumerate(WINDOWS_MS):
                if last is not None and at > last:
                    out[:, j] *= math.exp(-(at - last) / window)
                add = amount if last is None or at >= last else amount * math.exp((at - last) / window)
                out[stream, j] = max(0.0, out[stream, j] + add)
            last = at if last is None else max(last, at)
        for j, window in enumerate(WINDOWS_MS):
            out[:, j] *= math.exp(-max(0, t - (last or t)) / window)
        return out

    def _pair(self, ops: Ops, i: int) -> None:
        c, item, t, kind = self.config, int(ops.item[i]), int(ops.t[i]), int(ops.kind[i])
        scale = 2.0 ** ((t - self.base) / c.half_life_ms)
        seen: set[int] = set()
        for r in range(int(ops.recent_start[i + 1]) - 1, int(ops.recent_start[i]) - 1, -1):
            other, lag = int(ops.recent_item[r]), max(0, t - int(ops.recent_t[r]))
            if other == item or lag > 8 * c.taus_ms[-1]:
                return
            if other in seen:
                continue
            seen.add(other)  # a refund hides what came before it
            if not c.gains[int(ops.recent_kind[r])]:
                continue
            gain = math.sqrt(c.gains[kind] * c.gains[int(ops.recent_kind[r])]) * scale
            ahead = np.array([gain * math.exp(-lag / tau) for tau in c.taus_ms])
            behind = ahead if lag == 0 else ahead * c.backward
            self._add(other, item, ahead)
            self._add(item, other, behind)
            self.degree[other] = self.degree[other] + ahead
            self.degree[item] = self.degree[item] + behind

    def _add(self, owner: int, other: int, weights: np.ndarray) -> None:
        entries = self.lists[owner]
        if other not in entries and len(entries) == self.config.neighbours:
            del entries[min(entries, key=lambda key: entries[key][-1])]
        entries[other] = entries.get(other, 0) + weights
