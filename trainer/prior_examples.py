"""Examples for the prior: positives of the log beside sampled negatives, each with z as of its event.

For logs without impressions. Negatives are drawn from the items known at that time: uniformly, by popularity,
and from the actor's own items and their neighbours, each weighted by the inverse of its chance, tempered
(`NegativeMix`). It fits nothing (`trainer/prior.py`) and moves no state (`trainer/feature_replay.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.feature_replay import FeatureReplay, Rows
from trainer.prior import Examples


@dataclass(frozen=True, slots=True)
class NegativeMix:
    """Negatives a positive, by source: uniform and popular from the known items, own from the actor's
    history, near from the co-visitation lists of her last items. temper: 1 weighs an item by the inverse of
    its chance of being drawn (a sample of the whole catalogue), 0 takes all alike.
    """

    uniform: int = 8
    popular: int = 8
    own: int = 3
    near: int = 5
    temper: float = 0.8


class ExampleSampler:
    """Collects examples from groups of one actor and one time; `examples` gives them in time order."""

    def __init__(self, replay: FeatureReplay, mix: NegativeMix | None = None, seed: int = 17) -> None:
        self.replay = replay
        self.mix = mix or NegativeMix()
        self._random = np.random.default_rng(seed)
        self._z: list[npt.NDArray[np.float16]] = []
        self._label: list[npt.NDArray[np.float32]] = []
        self._weight: list[npt.NDArray[np.float32]] = []

    def take(self, t: int, actor: int, positives: Sequence[int], taken: Rows) -> None:
        """Positives (rows, known ones) of one actor at one time; `taken`: all rows of that group, never
        negatives.
        """
        if not positives or not len(self.replay.known):
            return
        self.replay.settle(t)
        negatives, chance = self._negatives(actor, len(positives), taken)
        rows = np.concatenate([np.array(positives, np.int32), negatives])
        zt = self.replay.assemble(self.replay.request(t, actor), rows)
        label = np.zeros(len(rows), np.float32)
        label[: len(positives)] = 1
        weight = np.ones(len(rows), np.float32)
        weight[len(positives) :] = (1.0 / chance) ** self.mix.temper
        self._z.append(zt.T.astype(np.float16))
        self._label.append(label)
        self._weight.append(weight)

    def _negatives(self, actor: int, positives: int, taken: Rows) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Distinct rows and the expected number of draws of each."""
        replay, mix, random = self.replay, self.mix, self._random
        known, popular = replay.known, replay.taken
        parts = [
            known[random.integers(len(known), size=mix.uniform * positives)],
            popular[random.integers(len(popular), size=mix.popular * positives)],
        ]
        own, near = self._near(actor)
        for pool, number in ((own, mix.own), (near, mix.near)):
            if len(pool):
                parts.append(pool[random.integers(len(pool), size=number * positives)])
        rows = np.unique(np.concatenate(parts))
        rows = rows[(rows >= 0) & ~np.isin(rows, taken)]
        expected = mix.uniform * positives / len(known) + mix.popular * positives * replay.popularity(rows)
        for pool, number in ((own, mix.own), (near, mix.near)):
            if len(pool):
                expected += np.isin(rows, pool) * (number * positives / len(pool))
        return rows, -np.expm1(-expected)

    def _near(self, actor: int) -> tuple[Rows, Rows]:
        replay = self.replay
        user = replay.user(actor)
        if user is None:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        own = np.unique(replay.catalogue.rows_of_keys(user.items))
        near = replay.realtime.neighbours(user.items[-5:], 20)
        return own, replay.catalogue.rows_of_keys(near)

    def __len__(self) -> int:
        return sum(len(part) for part in self._label)

    def examples(self) -> Examples:
        """All examples so far."""
        return Examples(np.concatenate(self._z), np.concatenate(self._label), np.concatenate(self._weight))
