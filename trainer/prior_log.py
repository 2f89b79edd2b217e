"""Examples of the last layer from the log: z as of each request, with labels. Fits nothing
(trainer/prior_heads.py).

Impressions come from `ranking` events, their labels from what joined them; without impressions, what one
actor took at one time stands beside sampled negatives (trainer/prior_examples.py). The network's part is out
of sample: it is filled in only from `network_from` on, the end of what that network was trained on, and zero
before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.assembler import RequestView
from features.events import Event, InteractionEvent, RankingEvent
from features.keys import actor_key
from features.realtime import RealtimeConfig
from features.schema import PURCHASE, REFUND, Schema
from features.words import one_text
from trainer.feature_replay import FeatureReplay, Rows, groups
from trainer.network_part import NetworkPart
from trainer.prior_examples import ExampleSampler

POSITIVES = 3  # of a group without impressions, at most: a long basket is not worth more than a short one
SHOWN = 60  # impressions of one ranking, at most


@dataclass
class HeadExamples:
    """Rows of one head in time order of their groups."""

    z: list[npt.NDArray[np.float16]] = field(default_factory=list)  # (n, d) each
    label: list[npt.NDArray[np.float32]] = field(default_factory=list)
    weight: list[npt.NDArray[np.float32]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)

    def add(
        self,
        t: int,
        z: npt.NDArray[np.float16],
        label: npt.NDArray[np.float32],
        weight: npt.NDArray[np.float32],
    ) -> None:
        if len(label):
            self.z.append(z)
            self.label.append(label)
            self.weight.append(weight)
            self.times.append(t)

    def __len__(self) -> int:
        return sum(len(part) for part in self.label)

    @property
    def classes(self) -> tuple[int, int]:
        """(negatives, positives)."""
        positives = int(sum(part.sum() for part in self.label))
        return len(self) - positives, positives


@dataclass
class _Shown:
    t: int
    items: dict[str, int]  # id → row of z
    z: npt.NDArray[np.float16]
    clicked: npt.NDArray[np.int64]  # ms of the click; −1: none
    bought: npt.NDArray[np.bool_]


class PriorLog:
    """Feed all events in time order; `click` and `purchase` hold the examples after `finish`."""

    def __init__(
        self,
        schema: Schema,
        part: NetworkPart | None,
        *,
        network_from: int,
        examples_from: int,
        every: int,
        hold_ms: int,
        windows_ms: tuple[int, int],
        max_items: int,
        seed: int,
    ) -> None:
        hidden = part.scorer.hidden_width if part else 0
        self.click, self.purchase = HeadExamples(), HeadExamples()
        self._part = part
        self._network_from = network_from
        self._from = examples_from
        self._every = every
        self._windows = windows_ms
        self._query: str | None = None
        self.replay = FeatureReplay(
            schema,
            hidden=hidden,
            hidden_part=self._hidden if part else None,
            hold_ms=hold_ms,
            realtime=RealtimeConfig(max_items=max_items),
        )
        if part:
            part.bind(self.replay.catalogue)
        self._rng = np.random.default_rng(seed)
        self._seed = seed
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._groups = 0

    def _hidden(self, request: RequestView, rows: Rows) -> npt.NDArray[np.float32]:
        assert self._part is not None
        if request.t < self._network_from:
            return np.zeros((len(rows), self._part.scorer.hidden_width), np.float32)
        return self._part(request, rows, self._query)

    def run(self, events: Iterable[Event], progress: Callable[[int], None] = lambda t: None) -> None:
        """Replay events in time order; examples are taken before their own time is learned."""
        for t, members in groups(events):
            progress(t)
            self._expire(t)
            if t >= self._from:
                self._taken(t, members)
            for event in members:
                if isinstance(event, RankingEvent) and t >= self._from:
                    self._ranking(event)
                elif isinstance(event, InteractionEvent):
                    self._label(event)
            for event in members:
                self.replay.learn(event)
        self._expire(None)

    def _chosen(self) -> bool:
        self._groups += 1
        return self._groups % self._every == 0

    def _taken(self, t: int, members: Sequence[Event]) -> None:
        """Groups without impressions: positives with sampled negatives; purchases against other
        behaviours.
        """
        found: dict[int, dict[str, bool]] = {}
        schema = self.replay.schema
        for event in members:
            if isinstance(event, InteractionEvent) and event.ranking not in self._shown:
                kind, actor = schema.behaviour(event.type), actor_key(event.user, event.session)
                if actor and 0 < kind < REFUND:
                    items = found.setdefault(actor, {})
                    items[event.item] = items.get(event.item, False) or kind == PURCHASE
        for actor, items in found.items():
            if not self._chosen():
                continue
            rows = self.replay.rows(list(items))
            known = np.flatnonzero(self.replay.is_known(rows))
            if len(known) > POSITIVES:
                known = np.sort(self._rng.choice(known, POSITIVES, replace=False))
            if len(known):
                self._sample(t, actor, rows, known, np.array(list(items.values()))[known])

    def _sample(
        self, t: int, actor: int, rows: Rows, known: npt.NDArray[np.int64], bought: npt.NDArray[np.bool_]
    ) -> None:
        self._query = None
        sampler = ExampleSampler(self.replay, seed=self._seed + self._groups)
        sampler.take(t, actor, [int(rows[at]) for at in known], rows)
        if not len(sampler):
            return
        made = sampler.examples()
        self.click.add(t, made.z, made.label, made.weight)
        n = len(known)
        self.purchase.add(t, made.z[:n], bought.astype(np.float32), np.ones(n, np.float32))

    def _ranking(self, event: RankingEvent) -> None:
        if not self._chosen():
            return
        shown = event.items[:SHOWN]
        self._query = one_text(event.fields.get("query"))
        surface = int(self._query is not None)
        names = [f.name for f in self.replay.schema.numeric if f.scope == "request"]
        fields = {
            name: float(value) for name in names if isinstance(value := event.fields.get(name), int | float)
        }
        request = self.replay.request(event.timestamp, actor_key(event.user, event.session), surface, fields)
        rows = self.replay.rows([item.id for item in shown])
        z = self.replay.assemble(request, rows, self._candidate_fields(event)).T.astype(np.float16)
        z = np.ascontiguousarray(z)
        self.replay.layout.fill_position(z, np.array([item.position for item in shown]), surface)
        places = {item.id: at for at, item in enumerate(shown)}
        none = np.full(len(shown), -1, np.int64)
        self._shown[event.id] = _Shown(event.timestamp, places, z, none, np.zeros(len(shown), bool))

    def _candidate_fields(self, event: RankingEvent) -> npt.NDArray[np.float32] | None:
        names = [f.name for f in self.replay.schema.numeric if f.scope == "candidate"]
        if not names:
            return None
        sent = [[item.fields.get(name) for name in names] for item in event.items[:SHOWN]]
        return np.array(
            [[v if isinstance(v, int | float) else np.nan for v in row] for row in sent], np.float32
        )

    def _label(self, event: InteractionEvent) -> None:
        shown = self._shown.get(event.ranking) if event.ranking else None
        kind = self.replay.schema.behaviour(event.type)
        if shown is None or event.item not in shown.items or not 0 < kind < REFUND:
            return
        at, t = shown.items[event.item], event.timestamp
        if shown.clicked[at] < 0 and t - shown.t <= self._windows[0]:
            shown.clicked[at] = t
        if kind == PURCHASE and shown.clicked[at] >= 0 and t - shown.clicked[at] <= self._windows[1]:
            shown.bought[at] = True

    def _expire(self, now: int | None) -> None:
        """Turn rankings whose windows have passed into examples, the oldest first."""
        while self._shown:
            name, shown = next(iter(self._shown.items()))
            if now is not None and shown.t + sum(self._windows) > now:
                return
            del self._shown[name]
            clicked = shown.clicked >= 0
            ones = np.ones(len(clicked), np.float32)
            self.click.add(shown.t, shown.z, clicked.astype(np.float32), ones)
            bought = shown.bought[clicked].astype(np.float32)
            self.purchase.add(shown.t, shown.z[clicked], bought, ones[: len(bought)])
