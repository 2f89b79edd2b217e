"""Accounts of early positives, over random histories: what they owe is paid or forgotten, each exactly once, and
what is learned is the gradient of the whole batch in another order.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.hold import EVENT
from trainer.join import JoinRules, Shown
from trainer.learner import SETTLED
from trainer.publish import Learning

D, RATE = 4, 1e-6  # so small that the order of the steps has no say
START = 1_700_000_000_000
CLICK, BUY = 1, 4
RULES = JoinRules(
    negative_after=300, click_window=3_000, purchase_wait=500, purchase_window=5_000, hold=0, capacity=400,
    clicks=100,
)  # fmt: skip
TOLERANCE = 0.002
HEADS = ("click", "purchase")
Floats = NDArray[np.float64]


def prior() -> dict[str, tuple[Floats, Floats]]:
    rng = np.random.default_rng(7)
    return {head: (rng.normal(0, 0.7, D), np.diag(rng.uniform(0.2, 1.0, D))) for head in HEADS}


@dataclass
class Shop:
    """A Learning of which everything is done in cuts, and what it was told to learn."""

    rules: JoinRules = RULES
    v: int = 0
    t: int = START
    shown: list[tuple[int, int]] = field(default_factory=list)  # time and number of items of each ranking
    means: dict[int, dict[str, Floats]] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    chunks: dict[str, bytes] = field(default_factory=dict)  # of the join, as far as stored
    told: dict[str, Floats] = field(default_factory=lambda: {head: np.zeros(D) for head in HEADS})

    def __post_init__(self) -> None:
        self.learning = self._fresh()

    def _fresh(self) -> Learning:
        made = Learning(prior(), np.array([[0, D]], np.int64), self.rules, noise=0.0, rate=RATE)
        for name, head in made.learner.heads.items():
            head.add = self._watch(name, head.add)  # type: ignore[method-assign]
        return made

    def _watch(self, name: str, add: Any) -> Any:
        """Sums up the gradient at the prior of all that is told, early positives the first time only."""
        mean = prior()[name][0]

        def watched(z: Any, rows: Any, observe: Any) -> None:
            sound = np.isfinite(z).all(axis=1) & rows["teach"] & (rows["phase"] != SETTLED)
            inputs = z[sound].astype(np.float64)
            p = 1 / (1 + np.exp(-inputs @ mean))
            self.told[name] += (rows["label"][sound] - p + rows["back"][sound]) @ inputs
            add(z, rows, observe)

        return watched

    def restart(self) -> None:
        """Go on from a checkpoint."""
        old = self.learning
        learner, gate = old.learner.chunks(), old.gate.chunks()
        self.chunks |= old.join.changed_chunks()
        hold = old.hold.state(list)
        made = self.learning = self._fresh()
        made.join.restore(self.chunks)
        made.hold.load(hold, tuple)
        made.learner.restore(learner)
        made.gate.restore(gate)
        made.skipped, made.served = list(old.skipped), old.served

    def follow(self, **more: int) -> None:
        """Other settings."""
        resized = "capacity" in more
        self.rules = replace(self.rules, **more)
        self.learning.follow(self.rules, noise=0.0, rate=RATE, resized=resized)

    def show(self, n: int, t: int, *, poisoned: bool = False, waiting: bool = False) -> None:
        number = len(self.shown) + 1
        self.shown.append((t, n))
        z = np.random.default_rng(number).normal(0, 1, (n, D)).astype(np.float16)
        z[:, 0] = 1
        z[0, 1] = np.nan if poisoned else z[0, 1]
        keys = np.arange(n, dtype=np.uint64)
        positions = np.arange(1, n + 1, dtype=np.int16)
        self.learning.join.show(Shown(number, t, number, 0, keys, keys, positions, z, waiting=waiting))

    def act(self, t: int, ranking: int, item: int, behaviour: int) -> None:
        self.learning.hold.push(t, EVENT, (ranking, item, behaviour))

    def begin(self) -> None:
        """Start of a cut."""
        self.v += 1
        self.learning.join.begin(self.v)

    def end_cut(self, ms: int) -> None:
        """So much time has passed."""
        made = self.learning
        self.t += ms
        made.release(self.t, lambda t, act: made.join.act(t, *act))
        made.push(self.v, self.t, {"event/0": len(self.shown) + 1})
        self.means[self.v], self.offsets[self.v] = made.learner.means(), len(self.shown) + 1
        self.even()

    def even(self) -> None:
        """As many owe as are early in the rings; nobody owes where none does."""
        for head, ring in (("click", self.learning.join.shown), ("purchase", self.learning.join.clicks)):
            lead = self.learning.learner.heads[head].lead
            slots = ring.slots(ring.oldest, ring.next - ring.oldest)
            live = ring.live[slots]
            assert lead.open == int((live["early"] & ~live["untaught"]).sum())
            assert np.isfinite(lead.owes)
            if not lead.open:
                assert lead.owes == 0.0

    def end(self) -> None:
        """All windows are over."""
        for _ in range(3):
            self.begin()
            self.end_cut(10_000)
        for head in self.learning.learner.heads.values():
            assert (head.lead.open, head.lead.owes) == (0, 0.0)

    def state(self) -> list[Any]:
        """Everything that a checkpoint holds."""
        made = self.learning
        rings = [ring.digest() for ring in made.join._rings().values()]
        return [made.learner.chunks(), made.gate.chunks(), made.hold.state(list), rings, made.join.counts]


def some_second(shop: Shop, rnd: random.Random, trouble: float = 0.0) -> None:
    """A cut in which lists are shown and acted on, soon or late, also twice, also by a purchase without a click."""
    shop.begin()
    if rnd.random() < trouble:
        make_trouble(shop, rnd)
    for _ in range(rnd.randrange(4)):
        t = shop.t + rnd.randrange(100)
        waiting = rnd.random() < 0.2
        shop.show(rnd.randrange(1, 7), t, poisoned=rnd.random() < 0.1, waiting=waiting)
        for _ in range(rnd.randrange(4)):
            at = t + rnd.choice((rnd.randrange(300), rnd.randrange(900), rnd.randrange(4_000)))
            n = shop.shown[-1][1]
            shop.act(at, len(shop.shown), rnd.randrange(n), rnd.choice((CLICK, CLICK, 2, BUY)))
    shop.end_cut(rnd.choice((20, 100, 100, 400)))


def make_trouble(shop: Shop, rnd: random.Random) -> None:
    """Something that a control record or the gate does at the start of a cut."""
    made = shop.learning
    sound = [v for v, means in shop.means.items() if all(np.isfinite(mean).all() for mean in means.values())]
    if any(not np.isfinite(mean).all() for mean in made.learner.means().values()):
        made.roll_back(sound[-1], shop.means[sound[-1]], shop.t, [])
        made.gate._release(shop.t, accept=False)
        return
    kind = rnd.choice(("rollback", "rollback", "skip", "hold", "release", "resize", "slower", "nan"))
    if kind == "rollback":
        to = rnd.choice([0, *sound[-4:]])
        skip = (shop.offsets.get(to, 0), len(shop.shown) + 1)
        made.roll_back(to, shop.means.get(to), shop.t, rnd.choice(([skip], [])))
    elif kind == "skip":
        made.skip([(rnd.randrange(1 + len(shop.shown)), len(shop.shown) + 1)])
    elif kind == "hold":
        made.gate.state.held, made.gate.state.since = "a test", shop.t
    elif kind == "release" and made.gate.state.held is not None:
        made.gate._release(shop.t, accept=False)
    elif kind == "resize":
        shop.follow(capacity=rnd.choice((12, 30, 400)))
    elif kind == "slower":
        shop.follow(negative_after=rnd.choice((90, 700)))
    elif kind == "nan" and sound:
        made.learner.heads[rnd.choice(HEADS)].kalman.mean[rnd.randrange(D)] = np.nan


SEEDS = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, capacity=st.sampled_from([400, 12]), restarts=st.booleans())
def test_in_total_nothing_but_the_order_has_changed(seed: int, capacity: int, restarts: bool) -> None:
    """The mean has moved by rate · P · Σ gradient, also where rows make place early, also after restarts."""
    rnd = random.Random(seed)
    shop = Shop(replace(RULES, capacity=capacity, clicks=capacity // 4))
    for _ in range(12):
        some_second(shop, rnd)
        if restarts and rnd.random() < 0.5:
            shop.restart()
    shop.end()
    for head, (mean, covariance) in prior().items():
        moved = (shop.learning.learner.heads[head].kalman.mean - mean) / RATE
        np.testing.assert_allclose(moved, covariance @ shop.told[head], atol=TOLERANCE)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS)
def test_whatever_happens_nobody_owes_for_ever_or_pays_twice(seed: int) -> None:
    """Rollbacks, skips, holds, other settings, weights that are not numbers: `Shop.even` holds after every cut."""
    rnd = random.Random(seed)
    shop = Shop()
    for _ in range(25):
        some_second(shop, rnd, trouble=0.4)
    shop.end()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_a_restart_at_any_cut_changes_no_bit(seed: int) -> None:
    found = []
    for restarts in (False, True):
        rnd, other = random.Random(seed), random.Random(seed + 1)
        shop = Shop()
        for _ in range(15):
            some_second(shop, rnd, trouble=0.2)
            if restarts and other.random() < 0.5:
                shop.restart()
        shop.end()
        found.append(shop.state())
    assert found[0] == found[1]
