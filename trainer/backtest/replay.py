"""The replay of a log: examples before the cut, one batch fit at the cut, every chosen target after it
ranked.

Counters, co-visitation and user states go on live after the cut; the weights stay as fitted. Targets that
were never seen before (cold) cannot be ranked: they are counted apart. A group (one actor, one time) is
scored whole, then learned.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.events import Event, InteractionEvent
from features.keys import actor_key
from features.schema import CART, PURCHASE, Schema
from trainer.backtest.measures import Tally, auc_of, rank_of
from trainer.feature_replay import FeatureReplay, Rows, groups
from trainer.prior import Prior, fit
from trainer.prior_examples import ExampleSampler, NegativeMix

Fit = Callable[[ExampleSampler], Mapping[str, npt.NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is scored and when. Times in ms; `until` ends a validation slice inside the part before the real
    cut.

    positives: behaviour codes; per_group: targets of one actor and time; every: each n-th group after the cut
    is scored, fit_every: each n-th group from `fit_from` to the cut gives examples; negatives: of each kind
    for the AUCs.
    """

    cut: int
    until: int | None = None
    fit_from: int = 0
    positives: frozenset[int] = field(default=frozenset({CART, PURCHASE}))
    per_group: int = 3
    every: int = 1
    fit_every: int = 1
    negatives: int = 99
    seed: int = 17


@dataclass(slots=True)
class _Group:
    actor: int
    targets: list[int]  # rows, distinct
    taken: Rows


def _by_actor(replay: FeatureReplay, members: Iterable[Event], positives: frozenset[int]) -> Iterator[_Group]:
    """The users' positives among events of one time, known items only; −1 stands for a cold one."""
    found: dict[int, list[str]] = {}
    for event in members:
        if not isinstance(event, InteractionEvent) or event.user is None:
            continue
        if replay.schema.behaviour(event.type) in positives:
            found.setdefault(actor_key(event.user, None), []).append(event.item)
    for actor, items in found.items():
        rows = np.unique(replay.rows(items))
        rows[~replay.is_known(rows)] = -1
        yield _Group(actor, [int(row) for row in rows], rows)


class Backtest:
    """One replay under a protocol. `fit` makes named weight vectors f64[d] from the examples; each is
    judged.
    """

    def __init__(self, replay: FeatureReplay, protocol: Protocol, mix: NegativeMix, fit: Fit) -> None:
        self.replay = replay
        self.protocol = protocol
        self.sampler = ExampleSampler(replay, mix, protocol.seed)
        self.tallies: dict[str, Tally] = {}
        self.cold = 0
        self.seconds: dict[str, float] = {}
        self._fit = fit
        self._weights: npt.NDArray[np.float64] | None = None
        self._random = np.random.default_rng(protocol.seed + 1)
        self._touched: dict[int, set[int]] = {}
        self._taken = array("i")
        self._groups = 0

    def run(self, events: Iterable[Event]) -> None:
        """Replay events in time order."""
        protocol, started = self.protocol, time.perf_counter()
        for t, members in groups(events):
            if protocol.until is not None and t >= protocol.until:
                break
            if t >= protocol.fit_from:
                if t >= protocol.cut and self._weights is None:
                    started = self._fit_now(started)
                for group in _by_actor(self.replay, members, protocol.positives):
                    self._visit(t, group)
            for event in members:
                self._touch(event)
                self.replay.learn(event)
        self.seconds["after cut"] = time.perf_counter() - started

    def _fit_now(self, started: float) -> float:
        now = time.perf_counter()
        self.seconds["before cut"] = now - started
        weights = self._fit(self.sampler)
        self._weights = np.stack(list(weights.values()))
        self.tallies = {name: Tally() for name in weights}
        self.seconds["fit"] = time.perf_counter() - now
        return time.perf_counter()

    def _touch(self, event: Event) -> None:
        if not isinstance(event, InteractionEvent):
            return
        row = self.replay.catalogue.intern(event.item)
        self._taken.append(row)
        if event.user is not None:
            self._touched.setdefault(actor_key(event.user, None), set()).add(row)

    def _visit(self, t: int, group: _Group) -> None:
        self._groups += 1
        if self._weights is None:
            if self._groups % self.protocol.fit_every == 0:
                self.sampler.take(t, group.actor, self._choose(group), group.taken)
        elif self._groups % self.protocol.every == 0:
            self._score(t, group)

    def _choose(self, group: _Group) -> list[int]:
        warm = [row for row in group.targets if row >= 0]
        if len(warm) <= self.protocol.per_group:
            return warm
        return [int(row) for row in self._random.choice(warm, self.protocol.per_group, replace=False)]

    def _score(self, t: int, group: _Group) -> None:
        replay = self.replay
        self.cold += sum(row < 0 for row in group.targets)
        targets = self._choose(group)
        if not targets:
            return
        assert self._weights is not None
        known = replay.known.copy()
        zt = replay.assemble(replay.request(t, group.actor), known)
        scores = self._weights @ zt.astype(np.float64)
        place = {int(row): at for at, row in enumerate(known)}
        own = self._touched.get(group.actor, set())
        uniform = self._negatives(known, place, own, group)
        popular = self._negatives(self._taken, place, own, group)
        new = np.array([int(row) not in own for row in known])
        for row in targets:
            at = place[row]
            for tally, line in zip(self.tallies.values(), scores, strict=True):
                tally.add(
                    row in own,
                    rank_of(line, at),
                    auc_of(line[at], line[uniform]),
                    auc_of(line[at], line[popular]),
                    rank_of(np.append(line[new], line[at]), -1) - 0.5 * (row not in own),
                )

    def _negatives(
        self, pool: Rows | array[int], place: dict[int, int], own: set[int], group: _Group
    ) -> npt.NDArray[np.int64]:
        """Places of `negatives` items drawn from a pool of rows: not the group's own targets, not touched
        before.
        """
        found: list[int] = []
        left_out = own | set(group.targets)
        for _ in range(50):
            for at in self._random.integers(len(pool), size=2 * self.protocol.negatives):
                row = int(pool[at])
                if row not in left_out and row in place:
                    found.append(place[row])
            if len(found) >= self.protocol.negatives:
                break
        return np.array(found[: self.protocol.negatives], np.int64)


def run_backtest(
    events: Iterable[Event],
    protocol: Protocol,
    *,
    schema: Schema | None = None,
    mix: NegativeMix | None = None,
    hold_ms: int = 0,
) -> dict[str, Any]:
    """Replay events (in time order), fit the last layer without a network at the cut, rank what follows.

    Returns counts, seconds and, for all, known and new pairs, R@20, AUCu and AUCp with standard errors.
    """
    replay = FeatureReplay(schema or Schema.default(), hold_ms=hold_ms)
    fitted: list[Prior] = []

    def fit_prior(sampler: ExampleSampler) -> dict[str, npt.NDArray[np.float64]]:
        intercept = replay.layout.block("intercept").start
        fitted.append(fit(sampler.examples(), hidden=0, intercept=intercept))
        return {"last layer": fitted[-1].mean}

    backtest = Backtest(replay, protocol, mix or NegativeMix(), fit_prior)
    backtest.run(events)
    return {
        "cut": protocol.cut,
        "until": protocol.until,
        "examples": len(backtest.sampler),
        "ridge": fitted[-1].ridge if fitted else None,
        "cold_targets": backtest.cold,
        "seconds": backtest.seconds,
        **(backtest.tallies["last layer"].summary() if fitted else {}),
    }
