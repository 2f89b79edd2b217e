"""The two heads that learn: examples are scored first, by the live and the frozen weights, then learned.

It fills micro-batches whose bounds depend on the order of the examples alone. It knows no labels' rules
(`trainer/join.py`) and judges nothing (`trainer/gate.py` sees every scored batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.last_layer import logits, sigmoid
from service.weight_version import HEADS
from trainer.kalman import BATCH, KalmanHead
from trainer.lead import Lead
from trainer.level import Level

Floats = NDArray[np.float64]
Prior = Mapping[str, tuple[Floats, Floats]]

WHOLE, EARLY, SETTLED = range(3)

SEEN = np.dtype([("p", "<f8"), ("live", "<f8"), ("frozen", "<f8")])
"""An item as it was shown: p by the live weights; logits by live and frozen weights, less their level."""

EXAMPLE = np.dtype(
    [
        ("seq", "<i8"),  # the row of the join that this example speaks of
        ("t", "<i8"),  # ms, when its label was decided
        ("category", "<u8"),
        ("label", "<f8"),
        ("back", "<f8"),  # residual of an earlier negative, taken back from the mean
        ("scored", "<f8"),  # live p when first scored; nan for a first label
        ("since", "<i8"),  # ms, when first scored
        ("shown", "<i8"),  # ms, when the item was shown (of a purchase: clicked)
        ("seen", SEEN),  # at that time: what the gate judges; nan: not by weights that still count
        ("more", "<f8"),  # weight of this negative, or of the one that is taken back, less 1 (`trainer/thinning.py`)
        ("control", "?"),  # shown by the frozen prior (control arm)
        ("teach", "?"),  # moves the weights; otherwise only watched
        ("phase", "u1"),  # WHOLE, or of a positive that comes before its list's negatives (`trainer/lead.py`)
    ]
)
"""One row an example. A correction (a click after the negative was learned) has `scored` ≥ 0.

An EARLY positive comes a second time, SETTLED, with the negatives of its list: learned the first time, seen by the
gate the second; `teach` there: it was learned, and what it owes is paid."""


@dataclass(frozen=True)
class Scored:
    """A batch as it was scored before it was learned: logits f64[n] of the live and the frozen weights.

    What the gate judges is `rows["seen"]`, from when the items were shown."""

    head: str
    rows: NDArray[np.void]
    live: Floats
    frozen: Floats


class HeadLearner:
    """One head: its filter, its frozen prior, and the examples that wait for a full batch."""

    def __init__(
        self, head: str, prior: Prior, bounds: NDArray[np.int64], noise: float, rate: float, wait: int
    ) -> None:
        """bounds: terms of the last layer (`service.last_layer.term_bounds`); wait: ms from shown to negative."""
        mean, covariance = prior[head]
        self.head = head
        self.kalman = KalmanHead(mean, covariance, noise=noise, rate=rate)
        self.frozen = np.array(mean, np.float64)
        self.poisoned = 0
        self._bounds = bounds
        self._z = np.zeros((self.kalman.d, BATCH), np.float32)
        self._rows = np.zeros(BATCH, EXAMPLE)
        self._n = 0
        self.level = Level()
        self.lead = Lead(self.kalman.d, wait)

    def see(self, t: int, z: NDArray[np.float16], *, again: bool = False) -> NDArray[np.void]:
        """Items were shown at t (ms), f16 (n, d); again: with other inputs than at first.

        Returns how the weights of now see them, SEEN (n,): nan where that is no number."""
        finite = np.isfinite(z)
        sound = slice(None) if finite.all() else finite.all(axis=1)
        inputs = z[sound].astype(np.float64, order="C")
        seen = np.full(len(z), np.nan, SEEN)
        found = np.empty((2, len(inputs)))
        found[0], found[1] = inputs @ self.kalman.mean, inputs @ self.frozen
        known = bool(len(inputs)) and bool(np.isfinite(found[0]).all())
        if known:
            seen["p"][sound] = p = sigmoid(found[0])
            if not again:
                self.lead.see(t, inputs, p)
        else:  # weights that are not numbers: the gate rolls them back
            found[0] = found[1]
        if len(inputs):
            seen["live"][sound], seen["frozen"][sound] = self.level.above(found)
        return seen

    def add(self, z: NDArray[np.float16], rows: NDArray[np.void], observe: Callable[[Scored], None]) -> None:
        """Take examples in order: z f16 (n, d), rows of EXAMPLE (n,). Rows with a z that is not finite are
        dropped and counted. `observe` is called with each batch that fills up."""
        finite = np.isfinite(z)
        if not finite.all():
            sound = finite.all(axis=1)
            self.poisoned += int(len(z) - sound.sum())
            z, rows = z[sound], rows[sound]
        start = 0
        while start < len(rows):
            take = min(BATCH - self._n, len(rows) - start)
            self._z[:, self._n : self._n + take] = z[start : start + take].T
            self._rows[self._n : self._n + take] = rows[start : start + take]
            self._n += take
            start += take
            if self._n == BATCH:
                self.flush(observe)

    def flush(self, observe: Callable[[Scored], None]) -> None:
        """Score and learn what waits, a full batch or not."""
        n, self._n = self._n, 0
        if n == 0:
            return
        rows, z_t = self._rows[:n].copy(), np.ascontiguousarray(self._z[:, :n])
        live, frozen = logits(z_t, np.stack([self.kalman.mean, self.frozen]), self._bounds)
        observe(Scored(self.head, rows, live, frozen))
        p = sigmoid(live)
        teach = rows["teach"] & (rows["phase"] != SETTLED)
        whole = np.isnan(rows["scored"])
        first, weight = teach & whole, np.where(whole, 1.0 + rows["more"], 1.0)
        residual = np.where(teach, (rows["label"] - p) * weight + rows["back"], 0.0)
        self.kalman.advance(int(rows["t"][-1]))
        z = z_t.T.astype(np.float64)
        level = self._level(rows, z, residual)
        self.kalman.learn(z, residual, np.where(first, p * (1.0 - p) * weight, 0.0), level)

    def _level(self, rows: NDArray[np.void], z: Floats, residual: Floats) -> Floats:
        """What evens out the lead of the early positives, and pays for those whose negatives came."""
        early, settled = (rows["teach"] & (rows["phase"] == phase) for phase in (EARLY, SETTLED))
        early &= np.isfinite(residual)  # by weights that are not numbers nothing is learned (`Join.observe`)
        share = 1.0 / (1.0 + self.kalman.reach(z[early]) * residual[early])
        taken = self.lead.borrow(z[early], rows["shown"][early], residual[early], share)
        return self.lead.settle(int(settled.sum())) - taken

    def forget(self, n: int) -> None:
        """n early positives, already scored, owe nothing: they are in no mean, or their negatives will not be."""
        self.lead.settle(n)

    @property
    def waiting(self) -> int:
        """Examples in the batch that is not full yet."""
        return self._n


class Learner:
    """Both heads around the prior of one base."""

    def __init__(
        self, prior: Prior, bounds: NDArray[np.int64], *, noise: float, rate: float, waits: tuple[int, int]
    ) -> None:
        """waits: ms from shown to negative, and from click to no purchase."""
        self.heads = {
            head: HeadLearner(head, prior, bounds, noise, rate, wait)
            for head, wait in zip(HEADS, waits, strict=True)
        }

    def follow(self, *, noise: float, rate: float, waits: tuple[int, int]) -> None:
        """Go on by other settings (see __init__)."""
        for head, wait in zip(self.heads.values(), waits, strict=True):
            head.kalman.noise, head.kalman.rate = noise, rate
            head.lead.follow(wait)

    def forget(self) -> None:
        """Nobody owes: the lists of all early positives were dropped, their negatives will not come."""
        for head in self.heads.values():
            head.forget(head.lead.open)

    def flush(self, observe: Callable[[Scored], None]) -> None:
        """End of a cut: nothing waits beyond it."""
        for head in self.heads.values():
            head.flush(observe)

    def means(self) -> dict[str, Floats]:
        """Copies of the live weights of both heads, f64[d]."""
        return {name: head.kalman.mean.copy() for name, head in self.heads.items()}

    def priors(self) -> dict[str, Floats]:
        """The frozen weights of both heads, f64[d]."""
        return {name: head.frozen.copy() for name, head in self.heads.items()}

    def set_means(self, means: Mapping[str, Floats]) -> None:
        """Put weights back (a rollback): covariances stay."""
        for name, mean in means.items():
            self.heads[name].kalman.mean = np.array(mean, np.float64)

    def chunks(self) -> dict[str, bytes]:
        """State of both filters; valid between cuts, when nothing waits."""
        found: dict[str, bytes] = {}
        for name, head in self.heads.items():
            found |= {
                name: head.kalman.state(),
                f"{name}/lead": head.lead.state(),
                f"{name}/level": head.level.state(),
            }
        return found

    def restore(self, chunks: Mapping[str, bytes]) -> None:
        """The inverse of `chunks`."""
        for name, head in self.heads.items():
            head.kalman.load(chunks[name])
            head.lead.load(chunks[f"{name}/lead"])
            head.level.load(chunks[f"{name}/level"])
