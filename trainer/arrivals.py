"""What a record does when it arrives: user state and catalogue at once, join for rankings, hold for the rest.

Later, when the hold lets an event out, it becomes ops for counters and co-visitation, and a label. It follows
the log only and knows neither cuts nor versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import events
from features.catalogue import Catalogue
from features.errors import LogError, ReplError
from features.hash_window import HashWindow
from features.keys import actor_key, item_key
from features.ops import IMPRESSION, Ops, OpsBuilder
from features.realtime import RealtimeState
from features.records import UNREADABLE, Record, ServedRecord
from features.user_state import NO_RECENTS, Recents
from trainer.hold import DONE, EVENT, SHOWN
from trainer.join import Act, Shown
from trainer.publish import Learning, merge
from trainer.reconstruct import Reconstructor
from trainer.served import ServedIndex, ranking_key
from trainer.shadow import Shadow
from trainer.shown_inputs import ShownInputs
from trainer.states import TrainerStates

Keys = NDArray[np.uint64]
Held = tuple[Any, ...]
AT_ONCE = 1_000  # records whose actors' states are read in one go
ITEMS = 200_000  # whose row and key are remembered


class Arrivals:
    """The parts that events move, in the order they come. `dead` collects (record, reason) of what is unreadable."""

    def __init__(
        self,
        catalogue: Catalogue,
        realtime: RealtimeState,
        users: TrainerStates,
        dedup: HashWindow,
        served: ServedIndex,
        learning: Learning,
        reconstruct: Reconstructor,
        base: str,
        hidden: int,
    ) -> None:
        """base, hidden: sha256 of the base, and its number of hidden dimensions."""
        self.catalogue, self.realtime, self.users = catalogue, realtime, users
        self.dedup, self.served = dedup, served
        self.use(learning, reconstruct, base, hidden)
        self.shadow: Shadow | None = None
        self.skips: dict[str, list[tuple[int, int]]] = {"counters": [], "user_state": []}
        self.left_out: list[tuple[int, int]] = []  # of `skips`: what counters were rebuilt without
        self.dead: list[tuple[Record, str]] = []
        self.deleted: list[tuple[str, str, int]] = []  # tenant, user, place
        self._items: dict[str, tuple[int, int]] = {}
        self._behaviours = catalogue.schema.behaviours
        self._builder = OpsBuilder()
        self._parts: list[Ops] = []

    def use(self, learning: Learning, reconstruct: Reconstructor, base: str, hidden: int) -> None:
        """Teach this pair from now on."""
        self.learning, self.reconstruct, self.base = learning, reconstruct, base
        self.inputs = ShownInputs(
            learning.join, self.served, reconstruct, base, hidden, self._make, self.users.get
        )

    # arrival

    def take_served(self, records: Iterable[Record]) -> None:
        """Index the served records of a cut; a ranking that waits for one of them gets its inputs."""
        for record in records:
            try:
                found = ServedRecord.from_bytes(record.body)
            except LogError as error:
                self.dead.append((record, error.message))
                continue
            key = ranking_key(record.tenant, found.request_id)
            if not self.served.add(key, record):
                self.learning.join.count("repeated_served")
                continue
            waiting = self.learning.join.waiting(key)
            if waiting is not None:
                self.inputs.replace(key, waiting, found, record)
            if self.shadow is not None:
                self.shadow.served(key, found, record)

    def take(self, records: Iterable[tuple[int, int, Record]]) -> None:
        """Records of the stream `event` of one cut: effective time, place, record, in the order they count in."""
        waiting = iter(records)
        while part := list(islice(waiting, AT_ONCE)):
            self._take_some([(t, at, one, event) for t, at, one in part if (event := self._event(one)) is not None])

    def _take_some(self, known: list[tuple[int, int, Record, events.Event]]) -> None:
        acts = [event for _, _, _, event in known if isinstance(event, events.InteractionEvent)]
        self.users.load(dict.fromkeys(actor_key(event.user, event.session) for event in acts))
        places, times = [at for _, at, _, _ in known], [t for t, _, _, _ in known]
        new = self.dedup.add_all([events.event_hash(event) for _, _, _, event in known], places, times)
        for (t, at, record, event), first in zip(known, new, strict=True):
            if first:
                self._take(event, record, t, at)
            else:
                self.learning.join.count("duplicates")

    def _event(self, record: Record) -> events.Event | None:
        """The event of a record; None where there is none, which is told where it should be one."""
        if record.kind == "blank":
            return None
        if record.kind == UNREADABLE:
            self.dead.append((record, "no record of ours, and no event"))
            return None
        try:
            return events.from_bytes(record.body)
        except ReplError as error:
            self.dead.append((record, error.message))
            return None

    def _take(self, event: events.Event, record: Record, t: int, at: int) -> None:
        if isinstance(event, events.InteractionEvent):
            self._interaction(event, record, t, at)
        elif isinstance(event, events.RankingEvent):
            self._ranking(event, record, t)
        elif isinstance(event, events.ItemEvent):
            row = self.catalogue.apply(event)
            self.reconstruct.forget(row)
            if self.shadow is not None:
                self.shadow.reconstruct.forget(row)
        elif isinstance(event, events.UserEvent) and event.op == "delete":
            self.users.delete(actor_key(event.user, None))
            self.deleted.append((record.tenant, event.user, at))

    def leave_out(self, left_out: list[tuple[int, int]]) -> None:
        """Count nothing of these places, and add nothing of them to user states, from now on; all there are so far."""
        self.left_out = left_out
        self.skips = {what: merge([*ranges, *left_out]) for what, ranges in self.skips.items()}

    def _skipped(self, what: str, at: int) -> bool:
        skips = self.skips[what]
        return bool(skips) and any(start <= at < end for start, end in skips)

    def _item(self, item: str) -> tuple[int, int]:
        """Catalogue row (−1: full) and key of an item, a new row where it was not known."""
        found = self._items.get(item)
        if found is None:
            if len(self._items) >= ITEMS:
                self._items.clear()
            found = self._items[item] = self.catalogue.intern(item), item_key(item)
        return found

    def _interaction(self, event: events.InteractionEvent, record: Record, t: int, at: int) -> None:
        row, item = self._item(event.item)
        kind = self._behaviours.get(event.type, -1)
        if kind < 0:
            self.learning.join.count("unmapped")
            return
        actor = actor_key(event.user, event.session)
        recents = NO_RECENTS
        if actor and not self._skipped("user_state", at):
            state = self.users.get_to_change(actor)
            recents = state.recents(t)
            state.append(item, kind, t, at)
        category = self.catalogue.category_of(row)
        ranking = 0 if event.ranking is None else ranking_key(record.tenant, event.ranking)
        counted = not self._skipped("counters", at)
        self.learning.hold.push(t, EVENT, (DONE, kind, item, category, ranking, counted, at, recents))
        if self.shadow is not None and self.shadow.live:
            self.shadow.act(t, kind, item, ranking, at)

    def _ranking(self, event: events.RankingEvent, record: Record, t: int) -> None:
        if self.learning.join.known(ranking_key(record.tenant, event.id)):
            self.learning.join.count("repeated_rankings")  # inferred before it came: shown, and counted, once
            return
        n = len(event.items)
        keys = np.fromiter((item_key(item.id) for item in event.items), np.uint64, n)
        positions = np.fromiter((min(item.position, 32_767) for item in event.items), np.int16, n)
        rows = self.catalogue.rows_of_keys(keys)
        categories = np.zeros(n, np.uint64)
        categories[rows >= 0] = self.catalogue.category[rows[rows >= 0]]
        shown, surface = self.inputs.of(event, record, t, keys, rows)
        shown = Shown(
            hash=shown.hash, t=t, offset=record.place, surface=surface, items=keys, categories=categories,
            positions=positions, z=shown.z, actor=shown.actor, control=shown.control, waiting=shown.waiting,
        )  # fmt: skip
        self.reconstruct.assembler.fill_position(shown.z, positions, surface)
        self.learning.join.show(shown)
        if self.shadow is not None and self.shadow.live:
            self.shadow.show(event, record, rows, shown)
        if not self._skipped("counters", record.place):
            self.learning.hold.push(t, EVENT, (SHOWN, surface, keys, categories, positions))

    def infer(self, ranking: int, acts: list[Act]) -> Shown | None:
        """`infer_shown`: see `ShownInputs.inferred`; what was shown is counted too."""
        shown = self.inputs.inferred(ranking, acts)
        if shown is not None and not self._skipped("counters", shown.offset):
            self.learning.hold.push(
                shown.t, EVENT, (SHOWN, shown.surface, shown.items, shown.categories, shown.positions)
            )
        return shown

    def _make(
        self, event: events.RankingEvent, t: int, rows: NDArray[np.int32], actor: int
    ) -> NDArray[np.float16]:
        self.release(t - self.learning.join.rules.hold)
        self.count_ops()
        return self.reconstruct.z(event, t, rows, self.users.get(actor) if actor else None)

    # release

    def release(self, through: int) -> None:
        """Let out what is due: ops are collected (`count_ops` applies them), labels go to the join."""
        self.learning.release(through, self._let_out)
        if self.shadow is not None and self.shadow.live:
            self.shadow.release(through)

    def _let_out(self, t: int, held: Held) -> None:
        if held[0] == SHOWN:
            _, surface, keys, categories, positions = held
            add = self._builder.add
            for item, category, position in zip(
                keys.tolist(), categories.tolist(), positions.tolist(), strict=True
            ):
                add(t, IMPRESSION, item, category, position, surface)
            return
        _, kind, item, category, ranking, counted, offset, recents = held
        position, surface = self.learning.join.act(t, ranking, item, kind, offset) if ranking else (0, 0)
        if counted:
            self._builder.add(t, kind, item, category, position, surface, recents)

    def count_ops(self) -> None:
        """Apply the ops collected to the counters."""
        if len(self._builder):
            part = self._builder.build()
            self.realtime.apply(part)
            self._parts.append(part)

    def taken_ops(self) -> Ops | None:
        """The ops applied since the last call, as one; None where there were none."""
        parts, self._parts = self._parts, []
        return Ops.concat(parts) if parts else None


def pack_held(held: Held) -> list[Any]:
    """A held event as plain values, for a checkpoint."""
    if held[0] == SHOWN:
        return [held[0], held[1], *(part.tolist() for part in held[2:])]
    return [*held[:7], [part.tolist() for part in held[7]]]


def unpack_held(plain: list[Any]) -> Held:
    """The inverse of `pack_held`."""
    if plain[0] == SHOWN:
        kinds = (np.uint64, np.uint64, np.int16)
        return (SHOWN, plain[1], *(np.array(part, kind) for part, kind in zip(plain[2:], kinds, strict=True)))
    items, times, kinds_ = plain[7]
    recents = Recents(np.array(items, np.uint64), np.array(times, np.int64), np.array(kinds_, np.uint8))
    return (*plain[:7], recents if items else NO_RECENTS)
