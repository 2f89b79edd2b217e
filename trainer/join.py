"""The label join: shown items wait for what their users do, and become examples, each exactly once.

Times are event times (ms) as released by the hold, so the wall clock has no part. The rules are those of
docs/joins-and-delays.md. It neither reads the log nor computes z, and leaves learning to `learner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.last_layer import sigmoid
from trainer.gate import Gate
from trainer.gate_stats import CLICKS, SHORT, N
from trainer.hold import INFER, NEGATIVE, PURCHASE, RETRY, Hold
from trainer.join_rows import (
    ACCEPTED,
    BOUGHT,
    CLICK,
    JOIN_WAIT_MS,
    LABEL,
    NO_COLUMNS,
    OPEN,
    PENDING,
    RANKING,
    REJECTED,
    SHOWN,
    Act,
    JoinRules,
    Shown,
)
from trainer.learner import EARLY, EXAMPLE, SETTLED, Learner, Scored
from trainer.rings import Ring

__all__ = ["Act", "Join", "JoinRules", "Shown"]


@dataclass
class Join:
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
    infer: Callable[[int, list[Act]], Shown | None] | None = None  # `infer_shown`, see `_infer`

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all that waits (another base: its inputs are none of the new one's)."""
        rules = self.rules
        self.shown = Ring(rules.capacity, SHOWN, LABEL, self.d)
        self.rankings = Ring(rules.capacity, RANKING, NO_COLUMNS, 0)
        self.clicks = Ring(rules.clicks, PENDING, LABEL, self.d)
        self._ranking_of: dict[int, int] = {}
        self._first_ranking = 0
        self._click_of: dict[tuple[int, int], int] = {}
        self._unshown: dict[int, list[Act]] = {}

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of the status."""
        if n:
            self.counts[name] = self.counts.get(name, 0) + n

    # what is shown

    def show(self, shown: Shown) -> None:
        """Take the items of a ranking; the oldest rows make place, decided as they then are."""
        if shown.hash in self._ranking_of:
            self.count("repeated_rankings")
            return
        n = min(len(shown.items), self.rules.capacity)
        self.count("oversized", len(shown.items) - n)
        self._evict(n)
        rank = self.rankings.next
        deadline = shown.t + JOIN_WAIT_MS if shown.waiting else 0
        row = (shown.hash, shown.t, self.shown.next, n, shown.offset, deadline, shown.actor, shown.surface)
        self.rankings.fixed[self.rankings.append(1)[0]] = row
        self._ranking_of[shown.hash] = rank
        slots = self.shown.append(n)
        fixed = self.shown.fixed
        fixed["item"][slots], fixed["category"][slots] = shown.items[:n], shown.categories[:n]
        fixed["ranking"][slots], fixed["position"][slots] = rank, shown.positions[:n]
        fixed["control"][slots] = shown.control
        self.shown.live["scored"][slots] = np.nan
        self.shown.z[slots] = shown.z[:n]
        self.hold.push(shown.t + self.rules.negative_after, NEGATIVE, rank)
        self.shown.live["seen"][slots] = self.learner.heads["click"].see(shown.t, shown.z[:n])
        self.count("shown", n)

    def replace(self, ranking: int, z: NDArray[np.float16], t: int, *, control: bool) -> bool:
        """The served record of a waiting ranking came, at time t: its inputs replace those made here.

        z: f16 (n, d), rows of nan where the record has no such item. False when it is too late."""
        rank = self._ranking_of.get(ranking)
        if rank is None or self.rankings.fixed["first"][rank % self.rules.capacity] < self.shown.oldest:
            return False
        row = self.rankings.fixed[rank % self.rules.capacity]
        slots = self.shown.slots(int(row["first"]), int(row["n"]))
        deadline = int(row["deadline"])
        if not deadline or t > deadline or (self.shown.live["state"][slots] != OPEN).any():
            self.count("served_late")
            return False
        have = ~np.isnan(z[:, 0])
        self.shown.z[slots[have]] = z[have]
        self.shown.live["seen"][slots[have]] = self.learner.heads["click"].see(
            int(row["t"]), z[have], again=True
        )
        self.shown.touch(slots)
        self.shown.fixed["control"][slots] = control
        self.shown.rewrite(slots)
        row["deadline"] = 0
        self.rankings.rewrite(np.array([rank % self.rules.capacity]))
        return True

    def waiting(self, ranking: int) -> Shown | None:
        """A ranking that waits for its served record, by hash, with the inputs it has so far."""
        rank = self._ranking_of.get(ranking)
        row = None if rank is None else self.rankings.fixed[rank % self.rules.capacity]
        if row is None or not row["deadline"] or row["first"] < self.shown.oldest:
            return None
        slots = self.shown.slots(int(row["first"]), int(row["n"]))
        of, z = self.shown.fixed[slots], self.shown.z[slots]
        return Shown(ranking, int(row["t"]), int(row["offset"]), int(row["surface"]), of["item"],
                     of["category"], of["position"], z, int(row["actor"]), waiting=True)  # fmt: skip

    def foretold(self, ranking: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]] | None:
        """P(click) of a ranking's items by the weights when they were shown (nan: not known), and their states; None
        where they are not held any more."""
        rank = self._ranking_of.get(ranking)
        row = None if rank is None else self.rankings.fixed[rank % self.rules.capacity]
        if row is None or row["first"] < self.shown.oldest:
            return None
        live = self.shown.live[self.shown.slots(int(row["first"]), int(row["n"]))]
        return live["seen"]["p"], live["state"]

    def _evict(self, n: int) -> None:
        """Decide the rows that n new ones will overwrite: those still open are negatives now."""
        ring = self.shown
        first, end = ring.oldest, ring.next + n - ring.capacity
        if end <= first:
            return
        slots = ring.slots(first, end - first)
        open_slots = slots[ring.live["state"][slots] == OPEN]
        self.count("evicted", len(slots))
        self.count("evicted_open", len(open_slots))
        while self._first_ranking < self.rankings.next:
            row = self.rankings.fixed[self._first_ranking % self.rules.capacity]
            if row["first"] >= end:
                break
            at = slots[ring.fixed["ranking"][slots] == self._first_ranking]
            self._reject(self._first_ranking, at, int(row["t"]))
            if row["first"] + row["n"] > end:
                break
            self._ranking_of.pop(int(row["hash"]), None)
            self._first_ranking += 1
        self._score(slots, ring, "click")

    def _score(self, slots: NDArray[np.int64], ring: Ring, head: str) -> None:
        """Have rows scored that wait in a batch, before they are taken, corrected or settled."""
        live = ring.live[slots]
        if (((live["state"] == REJECTED) | live["early"]) & np.isnan(live["scored"])).any():
            self.learner.heads[head].flush(self.observe)

    # what is done

    def known(self, ranking: int) -> bool:
        """Whether what this ranking (its hash) showed is known, from its event or inferred."""
        return ranking in self._ranking_of

    def act(
        self, t: int, ranking: int, item: int, behaviour: int, offset: int = -1, *, again: bool = False
    ) -> tuple[int, int]:
        """An interaction that names a ranking (by hash), released at time t; offset: of its event.

        Returns (position, surface) of the shown item, (0, 0) where it is not known."""
        rank = self._ranking_of.get(ranking)
        slot = None if rank is None else self._slot(rank, item)
        if rank is None or slot is None:
            if behaviour == BOUGHT and (ranking, item) in self._click_of:
                self._buy(t, ranking, item)
            elif rank is None and not again:
                self.hold.push(t + JOIN_WAIT_MS, RETRY, (t, ranking, item, behaviour, offset))
            elif rank is None and self.infer is not None:
                self._gather(ranking, (t, item, behaviour, offset))
            else:
                self.count("unjoined" if rank is None else "not_shown")
            return 0, 0
        row = self.rankings.fixed[rank % self.rules.capacity]
        if not again and row["deadline"] and t < row["deadline"] - self.rules.hold:
            due = int(row["deadline"]) - self.rules.hold
            self.hold.push(due, RETRY, (t, ranking, item, behaviour, offset))
        else:
            self._label(t, row, slot, item, behaviour)
        return int(self.shown.fixed["position"][slot]), int(row["surface"])

    def _gather(self, ranking: int, act: Act) -> None:
        """No `ranking` event came: what was shown is inferred once the time for a negative is over."""
        acts = self._unshown.setdefault(ranking, [])
        if not acts:
            self.hold.push(act[0] + self.rules.negative_after, INFER, ranking)
        acts.append(act)

    def _infer(self, ranking: int) -> None:
        """Shown = the answer down to one below the last item that was clicked; then the clicks themselves."""
        acts = self._unshown.pop(ranking, [])
        shown = None if self.infer is None or ranking in self._ranking_of else self.infer(ranking, acts)
        if shown is not None:
            self.show(shown)
            self.count("inferred", len(shown.items))
        for t, item, behaviour, offset in acts:
            if ranking in self._ranking_of:
                self.act(t, ranking, item, behaviour, offset, again=True)
            else:
                self.count("unjoined")

    def _slot(self, rank: int, item: int) -> int | None:
        row = self.rankings.fixed[rank % self.rules.capacity]
        slots = self.shown.slots(int(row["first"]), int(row["n"]))
        fixed = self.shown.fixed[slots]
        found = slots[(fixed["item"] == item) & (fixed["ranking"] == rank)]
        return int(found[0]) if len(found) else None

    def _label(self, t: int, row: np.void, slot: int, item: int, behaviour: int) -> None:
        if not CLICK <= behaviour <= BOUGHT:
            return
        state = self.shown.live["state"][slot]
        if state != ACCEPTED:
            if t - row["t"] > self.rules.click_window:
                self.count("late_clicks")
                return
            self._accept_click(t, row, slot)
        elif behaviour == CLICK:
            self.count("repeated_clicks")
        if behaviour == BOUGHT:
            self._buy(t, int(row["hash"]), item)

    def _accept_click(self, t: int, row: np.void, slot: int) -> None:
        self._positive("click", self.shown, slot, t, int(row["t"]) + self.rules.negative_after,
                       self._teaches(int(row["offset"]), int(row["t"])))  # fmt: skip
        self.count("clicks")
        oldest = self.clicks.next - self.rules.clicks
        if oldest >= 0:
            self._evict_click(oldest)
        number, at = self.clicks.next, int(self.clicks.append(1)[0])
        shown = self.shown.fixed[slot]
        self.clicks.fixed[at] = (
            shown["item"], shown["category"], row["hash"], t, row["t"], row["offset"], shown["control"]
        )  # fmt: skip
        self.clicks.live["scored"][at] = np.nan
        self.clicks.z[at] = self.shown.z[slot]
        self.clicks.live["seen"][at] = self.learner.heads["purchase"].see(t, self.clicks.z[at : at + 1])[0]
        self._click_of[(int(row["hash"]), int(shown["item"]))] = number
        self.hold.push(t + self.rules.purchase_wait, PURCHASE, number)

    def _evict_click(self, number: int) -> None:
        at = number % self.rules.clicks
        row = self.clicks.fixed[at]
        self.count("evicted_clicks", int(self.clicks.live["state"][at] == OPEN))
        self._reject_click(number, int(row["t"]))
        self._score(np.array([at]), self.clicks, "purchase")
        key = (int(row["hash"]), int(row["item"]))
        if self._click_of.get(key) == number:
            del self._click_of[key]

    def _buy(self, t: int, ranking: int, item: int) -> None:
        number = self._click_of.get((ranking, item))
        if number is None:
            self.count("unjoined_purchases")
            return
        at = number % self.rules.clicks
        row = self.clicks.fixed[at]
        if self.clicks.live["state"][at] == ACCEPTED:
            self.count("repeated_purchases")
        elif t - row["t"] > self.rules.purchase_window:
            self.count("late_purchases")
        else:
            teach = self._teaches(int(row["offset"]), int(row["shown"]))
            self._positive("purchase", self.clicks, at, t, int(row["t"]) + self.rules.purchase_wait, teach)
            self.count("purchases")

    # labels become examples

    def _teaches(self, offset: int, shown: int) -> bool:
        return self.gate.teaches(shown) and self.taught(offset)

    def _rows(
        self, ring: Ring, slots: NDArray[np.int64], t: int, *, label: float, teach: Any
    ) -> NDArray[np.void]:
        """Examples of EXAMPLE of these rows, decided at time t; a first label, of a whole list."""
        rows = np.zeros(len(slots), EXAMPLE)
        rows["seq"], rows["t"], rows["since"], rows["label"], rows["teach"] = slots, t, t, label, teach
        fixed = ring.fixed[slots]
        rows["category"], rows["control"] = fixed["category"], fixed["control"]
        rows["shown"] = self._shown_at(ring, fixed)
        rows["scored"], rows["seen"] = np.nan, ring.live["seen"][slots]
        return rows

    def _shown_at(self, ring: Ring, fixed: NDArray[np.void]) -> NDArray[np.int64]:
        """When these rows' items were shown, ms; of clicks: when they were clicked."""
        if ring is self.clicks:
            return np.asarray(fixed["t"], np.int64)
        return np.asarray(self.rankings.fixed["t"][fixed["ranking"] % self.rules.capacity], np.int64)

    def _positive(self, head: str, ring: Ring, slot: int, t: int, since: int, teach: bool) -> None:
        """A first positive, or one that takes an earlier negative back."""
        live, slots = ring.live, np.array([slot])
        corrects = live["state"][slot] == REJECTED
        self._score(slots, ring, head)
        teach = teach and not live["untaught"][slot]
        rows = self._rows(ring, slots, t, label=1.0, teach=teach)
        rows["since"] = since
        if corrects:
            rows["seq"], rows["scored"] = -1, live["scored"][slot]
            rows["back"] = live["scored"][slot] if teach else 0.0
        elif np.isfinite(ring.z[slot]).all():
            rows["phase"], live["early"][slot] = EARLY, True
            live["cut"][slot], live["scored"][slot], live["untaught"][slot] = self.cut, np.nan, not teach
        live["state"][slot] = ACCEPTED
        ring.touch(slot)
        self.learner.heads[head].add(ring.z[slots], rows, self.observe)
        self.count("corrected" if corrects else "positives")

    def fire(self, due: int, kind: int, payload: Any) -> None:
        """A timer of this join is due."""
        if kind == NEGATIVE:
            self._due_negatives(due, int(payload))
        elif kind == PURCHASE:
            if payload >= self.clicks.oldest:
                self._reject_click(int(payload), due)
        elif kind == INFER:
            self._infer(int(payload))
        elif kind == RETRY:
            t, ranking, item, behaviour, offset = payload
            self.act(int(t), ranking, item, behaviour, offset, again=True)

    def _due_negatives(self, due: int, rank: int) -> None:
        if rank < self._first_ranking:
            return
        row = self.rankings.fixed[rank % self.rules.capacity]
        if row["deadline"] and due < row["deadline"] - self.rules.hold:
            self.hold.push(int(row["deadline"]) - self.rules.hold, NEGATIVE, rank)
            return
        slots = self.shown.slots(int(row["first"]), int(row["n"]))
        self._reject(rank, slots[self.shown.fixed["ranking"][slots] == rank], due)

    def _reject(self, rank: int, slots: NDArray[np.int64], t: int) -> None:
        """Time is up for these shown items of a ranking: those not clicked are negatives."""
        row = self.rankings.fixed[rank % self.rules.capacity]
        teach = self._teaches(int(row["offset"]), int(row["t"]))
        still = slots[self.shown.live["state"][slots] == OPEN]
        if len(still):
            self._negatives("click", self.shown, still, t, teach)
        self._settle("click", self.shown, slots, t, teach=teach)

    def _settle(self, head: str, ring: Ring, slots: NDArray[np.int64], t: int, *, teach: bool) -> None:
        """The negatives of these rows' lists have come, learned or not: no positive is early now."""
        early = slots[ring.live["early"][slots]]
        if not len(early):
            return
        self._score(early, ring, head)
        lent = ~ring.live["untaught"][early]
        if not teach:
            self.learner.heads[head].forget(int(lent.sum()))
        rows = self._rows(ring, early, t, label=1.0, teach=teach & lent)
        rows["seq"], rows["phase"] = -1, SETTLED
        ring.live["early"][early] = False
        ring.touch(early)
        self.learner.heads[head].add(ring.z[early], rows, self.observe)

    def _reject_click(self, number: int, t: int) -> None:
        """Time is up for a click: a negative, unless it was bought."""
        at = np.array([number % self.rules.clicks])
        row = self.clicks.fixed[at[0]]
        teach = self._teaches(int(row["offset"]), int(row["shown"]))
        if self.clicks.live["state"][at[0]] == OPEN:
            self._negatives("purchase", self.clicks, at, t, teach)
        self._settle("purchase", self.clicks, at, t, teach=teach)

    def _negatives(self, head: str, ring: Ring, slots: NDArray[np.int64], t: int, teach: bool) -> None:
        rows = self._rows(ring, slots, t, label=0.0, teach=teach)
        ring.live["state"][slots] = REJECTED
        ring.live["cut"][slots] = self.cut
        ring.live["untaught"][slots] = not teach
        ring.live["scored"][slots] = np.nan
        ring.touch(slots)
        sound = np.isfinite(ring.z[slots]).all(axis=1)
        ring.live["scored"][slots[~sound]] = 0.0
        ring.live["untaught"][slots[~sound]] = True
        self.learner.heads[head].add(ring.z[slots], rows, self.observe)
        self.count(f"negatives_{head}", len(slots))

    def observe(self, scored: Scored) -> None:
        """A batch was scored: the gate looks at it, negatives keep p, to be taken back if a click comes. By weights
        that are not numbers (the gate rolls them back) nothing is learned: nothing to take back, nothing owed."""
        self.gate.observe(scored)
        ring = self.shown if scored.head == "click" else self.clicks
        kept = scored.rows["seq"] >= 0
        slots = scored.rows["seq"][kept]
        mine = np.isnan(ring.live["scored"][slots])
        p = sigmoid(scored.live[kept])
        lost = ~np.isfinite(p)
        ring.live["scored"][slots[mine]] = np.where(lost, 0.0, p)[mine]
        ring.live["untaught"][slots[mine & lost]] = True
        ring.touch(slots)

    def begin(self, cut: int) -> None:
        """Start of a cut."""
        self.cut = cut
        for head, stats in (("click", self.gate.stats), ("purchase", self.gate.purchase)):
            self.learner.heads[head].lead.expect(*stats.sums[SHORT, [CLICKS, N]].tolist())

    def undo_after(self, cut: int) -> None:
        """The weights went back to those of `cut`: what was learned since is in no mean any more."""
        for head, ring in (("click", self.shown), ("purchase", self.clicks)):
            slots = ring.slots(ring.oldest, ring.next - ring.oldest)
            since = slots[ring.live["cut"][slots] > cut]
            lent = ring.live["early"][since] & ~ring.live["untaught"][since]
            self.learner.heads[head].forget(int(lent.sum()))
            lost = since[lent | (ring.live["state"][since] == REJECTED)]
            ring.live["untaught"][lost] = True
            ring.live["seen"]["p"][slots] = np.nan  # what the lost weights foretold judges none that are served
            ring.touch(slots)

    # chunks

    def _rings(self) -> dict[str, Ring]:
        return {"shown": self.shown, "rankings": self.rankings, "clicks": self.clicks}

    def chunk_names(self) -> list[str]:
        """All chunks that exist."""
        rings = self._rings().items()
        return ["counts", *(f"{name}/{part}" for name, ring in rings for part in ring.chunk_names())]

    def changed_chunks(self) -> dict[str, bytes]:
        """Chunks changed since `mark_clean`."""
        counts, unshown = sorted(self.counts.items()), list(self._unshown.items())
        scalars = (self._first_ranking, counts, unshown)
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
        form = tuple[int, list[tuple[str, int]], list[tuple[int, list[Act]]]]
        self._first_ranking, counts, unshown = msgspec.msgpack.decode(chunks["counts"], type=form)
        self._unshown = dict(unshown)
        self.counts = dict(counts)
        for rank in range(self._first_ranking, self.rankings.next):
            self._ranking_of[int(self.rankings.fixed["hash"][rank % self.rules.capacity])] = rank
        for number in range(self.clicks.oldest, self.clicks.next):
            row = self.clicks.fixed[number % self.rules.clicks]
            self._click_of[(int(row["hash"]), int(row["item"]))] = number
