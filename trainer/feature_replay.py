"""Events in time order through catalogue, user states and real-time state: z of any candidates as of any
event.

It follows serving: user states move at once, counters and co-visitation after the hold. Equal times are one
group, to be scored whole before it is learned (`groups`). It samples no examples
(`trainer/prior_examples.py`) and fits nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from features.assembler import Assembler, RequestView, ZLayout
from features.catalogue import Catalogue
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent
from features.keys import actor_key
from features.ops import IMPRESSION, OpsBuilder
from features.realtime import RealtimeConfig, RealtimeState
from features.schema import Schema
from features.user_state import HISTORY, NO_RECENTS, UserState

Rows = npt.NDArray[np.int32]
Hidden = Callable[[RequestView, Rows], npt.NDArray[np.float32]]
"""The network's part: request and rows i32[n] → hidden f32[n, h]."""

MAX_ACTORS = 200_000
REORDER_MS = 600_000
REORDER_EVENTS = 100_000


def in_time_order(
    events: Iterable[Event], lateness_ms: int = REORDER_MS, held: int = REORDER_EVENTS
) -> Iterator[Event]:
    """Events by timestamp, equal ones as they came; one later than `lateness_ms` (or `held` events) comes
    late.
    """
    heap: list[tuple[int, int, Event]] = []
    newest = 0
    for number, event in enumerate(events):
        heapq.heappush(heap, (event.timestamp, number, event))
        newest = max(newest, event.timestamp)
        while heap[0][0] < newest - lateness_ms or len(heap) > held:
            yield heapq.heappop(heap)[2]
    while heap:
        yield heapq.heappop(heap)[2]


def groups(events: Iterable[Event]) -> Iterator[tuple[int, list[Event]]]:
    """(time, events of that time) of events in time order."""
    for t, members in groupby(events, key=lambda event: event.timestamp):
        yield t, list(members)


class FeatureReplay:
    """State as of an event: `learn` in time order, `assemble` before learning what is to be scored.

    Memory is bounded by max_items, MAX_ACTORS and the events within one hold.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        hidden: int = 0,
        hidden_part: Hidden | None = None,
        hold_ms: int = 0,
        history: int = HISTORY,
        realtime: RealtimeConfig | None = None,
    ) -> None:
        self.schema = schema
        self.realtime = RealtimeState(realtime)
        self.catalogue = Catalogue(schema, self.realtime.config.max_items)
        self.layout = ZLayout(hidden, schema)
        self.assembler = Assembler(self.layout, schema, self.catalogue, self.realtime)
        self.hold_ms = hold_ms
        self.history = history
        self.counted = 0
        self._hidden_part = hidden_part
        self._users: OrderedDict[int, UserState] = OrderedDict()
        self._held: deque[tuple[Any, ...]] = deque()
        self._known = np.zeros(1_024, np.int32)
        self._is_known = np.zeros(self.realtime.config.max_items, bool)
        self._n_known = 0
        self._taken = np.zeros(65_536, np.int32)
        self._n_taken = 0
        self._times_taken = np.zeros(self.realtime.config.max_items, np.int32)

    @property
    def known(self) -> Rows:
        """Rows of the items that had an interaction or were shown so far: the catalogue known at that
        time.
        """
        return self._known[: self._n_known]

    @property
    def taken(self) -> Rows:
        """Rows of past interactions, newest 65,536, in no order: a draw from it is a draw by popularity."""
        return self._taken[: min(self._n_taken, len(self._taken))]

    def popularity(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Chance of each row to be drawn from `taken`."""
        return self._times_taken[rows] / max(1, len(self.taken))

    def user(self, actor: int) -> UserState | None:
        """The state of an actor; None where nothing is known."""
        return self._users.get(actor)

    def learn(self, event: Event) -> None:
        """Take one event; counters follow once the hold has passed (`settle`)."""
        if isinstance(event, InteractionEvent):
            self._interaction(event)
        elif isinstance(event, ItemEvent):
            self.catalogue.apply(event)
        elif isinstance(event, RankingEvent):
            self._ranking(event)

    def _interaction(self, event: InteractionEvent) -> None:
        kind = self.schema.behaviour(event.type)
        row = self.catalogue.intern(event.item)
        if kind < 0 or row < 0:
            return
        key, t = int(self.catalogue.key[row]), event.timestamp
        actor = actor_key(event.user, event.session)
        recents = NO_RECENTS
        if actor:
            user = self._user(actor)
            recents = user.recents(t)
            user.append(key, kind, t)
        self._held.append((t, kind, key, int(self.catalogue.category[row]), 0, 0, recents))
        self._see(row)
        at = self._n_taken % len(self._taken)
        if self._n_taken >= len(self._taken):
            self._times_taken[self._taken[at]] -= 1
        self._taken[at] = row
        self._times_taken[row] += 1
        self._n_taken += 1

    def _ranking(self, event: RankingEvent) -> None:
        surface = int(bool(event.fields.get("query")))
        for item in event.items:
            row = self.catalogue.intern(item.id)
            if row >= 0:
                key, category = int(self.catalogue.key[row]), int(self.catalogue.category[row])
                self._held.append(
                    (event.timestamp, IMPRESSION, key, category, item.position, surface, NO_RECENTS)
                )
                self._see(row)

    def _user(self, actor: int) -> UserState:
        user = self._users.get(actor)
        if user is None:
            user = self._users[actor] = UserState(actor, self.history)
            if len(self._users) > MAX_ACTORS:
                self._users.popitem(last=False)
        self._users.move_to_end(actor)
        return user

    def _see(self, row: int) -> None:
        if self._is_known[row]:
            return
        self._is_known[row] = True
        if self._n_known == len(self._known):
            self._known = np.concatenate([self._known, np.zeros_like(self._known)])
        self._known[self._n_known] = row
        self._n_known += 1

    def settle(self, now: int) -> None:
        """Move counters by everything that has passed the hold at `now` (ms)."""
        builder = OpsBuilder()
        while self._held and self._held[0][0] <= now - self.hold_ms:
            builder.add(*self._held.popleft())
        self.counted += len(builder)
        self.realtime.apply(builder.build())

    def request(
        self, t: int, actor: int, surface: int = 0, fields: dict[str, float] | None = None
    ) -> RequestView:
        """The request that an actor makes at t, with her state as it stands."""
        return RequestView(t, surface, self._users.get(actor), fields or {})

    def assemble(
        self, request: RequestView, rows: Rows, candidate_fields: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """zT f32[d, n] of rows as of the request: settles what the hold has let pass, then the one
        assembler.
        """
        self.settle(request.t)
        hidden = None if self._hidden_part is None else self._hidden_part(request, rows)
        return self.assembler.assemble(request, rows, hidden, candidate_fields)

    def rows(self, items: Sequence[str]) -> Rows:
        """Rows of item ids; −1 where an item was not seen yet."""
        return self.catalogue.rows(items)

    def is_known(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """bool[n]: rows that had an interaction or were shown so far."""
        return (rows >= 0) & self._is_known[rows]
