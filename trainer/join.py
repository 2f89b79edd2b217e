"""The label join: shown items wait for what their users do, and become examples, each exactly once.

Times are event times (ms) as released by the hold, so the wall clock has no part. The rules are those of
docs/joins-and-delays.md. What it holds stands in `join_state.py`, what becomes of a row in `join_labels.py`. It neither
reads the log nor computes z, and leaves learning to `learner.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.hold import INFER, NEGATIVE, PURCHASE, RETRY, SERVED
from trainer.join_labels import Labels
from trainer.join_rows import ACCEPTED, BOUGHT, CLICK, JOIN_WAIT_MS, OPEN, Act, JoinRules, Shown

__all__ = ["Act", "Join", "JoinRules", "Shown"]


class Join(Labels):
    """Shown items and what was done with them, in the order in which the hold lets them out."""

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
        self.rankings.append(1)
        self.rankings.fixed[rank % self.rules.capacity] = row
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
        self._wait_no_longer(ranking)
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
            self._await(int(row["deadline"]) - self.rules.hold, ranking, (t, item, behaviour, offset))
        else:
            self._label(t, row, slot, item, behaviour)
        return int(self.shown.fixed["position"][slot]), int(row["surface"])

    def _await(self, due: int, ranking: int, act: Act) -> None:
        """The served record of this ranking may still come, until `due`: its label waits for the inputs."""
        t, item, behaviour, offset = act
        if not self.rules.at_once:
            self.hold.push(due, RETRY, (t, ranking, item, behaviour, offset))
            return
        acts = self._early.setdefault(ranking, [])
        if not acts:
            self.hold.push(due, SERVED, ranking)
        acts.append(act)

    def _wait_no_longer(self, ranking: int) -> None:
        """The served record of this ranking has come, or will not."""
        for t, item, behaviour, offset in self._early.pop(ranking, []):
            self.act(t, ranking, item, behaviour, offset, again=True)

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
        first, fixed = int(row["first"]), self.shown.fixed
        places = self.shown.span(first, int(row["n"]))
        for k in (fixed["item"][places] == item).nonzero()[0].tolist():
            slot: int = (first + k) % self.shown.capacity
            if fixed["ranking"][slot] == rank:  # not overwritten since
                return slot
        return None

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
        number = self.clicks.next
        at = number % self.rules.clicks
        self.clicks.append(1)
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

    # timers

    def fire(self, due: int, kind: int, payload: Any) -> None:
        """A timer of this join is due."""
        if kind == NEGATIVE:
            self._due_negatives(due, int(payload))
        elif kind == PURCHASE:
            if payload >= self.clicks.oldest:
                self._reject_click(int(payload), due)
        elif kind == INFER:
            self._infer(int(payload))
        elif kind == SERVED:
            self._wait_no_longer(int(payload))
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
        self._wait_no_longer(int(row["hash"]))  # clicks that waited for inputs as long as the negatives come first
        slots = self.shown.slots(int(row["first"]), int(row["n"]))
        self._reject(rank, slots[self.shown.fixed["ranking"][slots] == rank], due)
