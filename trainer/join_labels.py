"""Labels become examples: of rows of the join, each exactly once, in the order in which they are decided.

When a row is decided, and as what, is `trainer/join.py`'s; learning is `trainer/learner.py`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.last_layer import sigmoid
from trainer.gate_stats import CLICKS, SHORT, N
from trainer.join_rows import ACCEPTED, OPEN, REJECTED
from trainer.join_state import JoinState
from trainer.learner import EARLY, EXAMPLE, SETTLED, Scored
from trainer.rings import Ring
from trainer.thinning import draws


class Labels(JoinState):
    """See the module."""

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
            rows["seq"], rows["scored"], rows["more"] = -1, live["scored"][slot], live["more"][slot]
            rows["back"] = live["scored"][slot] if teach else 0.0
        elif np.isfinite(ring.z[slot]).all():
            rows["phase"], live["early"][slot] = EARLY, True
            live["cut"][slot], live["scored"][slot], live["untaught"][slot] = self.cut, np.nan, not teach
        live["state"][slot] = ACCEPTED
        ring.touch(slot)
        self.learner.heads[head].add(ring.z[slots], rows, self.observe)
        self.count("corrected" if corrects else "positives")

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
        ring.live["state"][slots] = REJECTED
        ring.live["cut"][slots] = self.cut
        ring.live["untaught"][slots] = not teach
        ring.live["scored"][slots] = np.nan
        ring.touch(slots)
        if ring is self.shown and self.kept < 1.0:
            slots = self._thin(slots)
        rows = self._rows(ring, slots, t, label=0.0, teach=teach)
        rows["more"] = ring.live["more"][slots]
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
        p *= 1.0 + scored.rows["more"][kept]
        ring.live["scored"][slots[mine]] = np.where(lost, 0.0, p)[mine]
        ring.live["untaught"][slots[mine & lost]] = True
        ring.touch(slots)

    def _thin(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of a ranking's negatives that are learned, for all of them; of the others nothing is taken back."""
        live, fixed = self.shown.live, self.shown.fixed[slots]
        rank = int(fixed["ranking"][0]) % self.rules.capacity
        keep = draws(int(self.rankings.fixed["hash"][rank]), fixed["item"]) < self.kept
        live["more"][slots] = np.where(keep, 1.0 / self.kept - 1.0, -1.0)
        live["scored"][slots[~keep]] = 0.0
        self.count("thinned", int((~keep).sum()))
        return slots[keep]

    def begin(self, cut: int, kept: float = 1.0) -> None:
        """Start of a cut that learns this share of its negatives."""
        self.cut, self.kept = cut, kept
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

    def _score(self, slots: NDArray[np.int64], ring: Ring, head: str) -> None:
        """Have rows scored that wait in a batch, before they are taken, corrected or settled."""
        if len(slots) == 1:
            one = ring.live[slots[0]]
            if one["state"] != REJECTED and not one["early"]:
                return
        live = ring.live[slots]
        if (((live["state"] == REJECTED) | live["early"]) & np.isnan(live["scored"])).any():
            self.learner.heads[head].flush(self.observe)
