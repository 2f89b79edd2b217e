"""The lead of positives over their negatives, kept level: a click is learned when it comes, its list's
negatives half a minute later. It learns nothing by itself (`learner.py`).

Learned alone, early positives would lift every score: on a cold learner clicks took P(click) from .12 to .65
against a true .05. The gradient of the log loss is Σ_clicked z − Σ_shown p z; of the second sum the
part that belongs to the early clicks is known at once, from what was shown when they were. So an early positive is
learned as r (z − c), with c the mean of the inputs shown at that time, weighted by p, and r c is *owed*:
it is paid when the negatives of its list are learned. Where a full step would leap (a wide prior, whose covariance
only the negatives will shrink) a share of it is taken now, and the rest is owed too. In total nothing but the order
has changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

MEMORY, MEMORY_MS = 512.0, 30_000.0  # of the running mean: shown inputs, and event time
WAIT = 32  # parts of the wait, each with a mean of its own
LEVELS = 48
PSEUDO = 200.0  # shown items


class Lead:
    """Means of what was shown lately, f64[LEVELS, d], and what early positives owe: a vector f64[d], their number."""

    def __init__(self, d: int, wait: int) -> None:
        """wait: ms from shown to negative, the longest that a positive is early."""
        self._part = max(1, wait // WAIT)  # ms
        self._sum = np.zeros(d)
        self._weight = self._count = 0.0
        self._at = 0
        self._levels = np.zeros((LEVELS, d))
        self._parts = np.full(LEVELS, -1, np.int64)  # which part of time stands there
        self._owed = np.zeros(d)
        self.open = 0
        self._due = 1.0  # share of the mean's p that clicks came up to lately, see `expect`

    def follow(self, wait: int) -> None:
        """From now on positives are early by so many ms at most: means kept for parts of another length are dropped."""
        part = max(1, wait // WAIT)
        if part != self._part:
            self._part = part
            self._parts[:] = -1

    def expect(self, clicks: float, shown: float) -> None:
        """Of so many items shown, and settled, lately so many were clicked."""
        p = self._weight / self._count if self._count else 0.0
        rate = (clicks + PSEUDO * p) / (shown + PSEUDO)
        self._due = min(1.0, p / rate) if rate > 0 else 1.0

    def see(self, t: int, z: Floats, p: Floats) -> None:
        """Items were shown at t (ms): inputs f64 (n, d), finite, and their p f64 (n,) by the live weights."""
        fade = float(np.exp(-len(p) / MEMORY - max(0, t - self._at) / MEMORY_MS))
        self._at = max(self._at, t)
        self._sum = self._sum * fade + p @ z
        self._weight = self._weight * fade + float(p.sum())
        self._count = self._count * fade + len(p)
        part = t // self._part
        slot = part % LEVELS
        if part >= self._parts[slot]:
            self._parts[slot] = part
            self._levels[slot] = self._mean()

    def _mean(self) -> Floats:
        """The running mean, as if one more item had been shown, at the origin: a click of a lonely list of one
        moves something."""
        if not self._weight > 0:
            return self._sum
        return self._sum / self._weight * (self._count / (self._count + 1.0))

    def _level(self, shown: Times) -> Floats:
        """The mean of what was shown when these items were, f64 (n, d); where it is not kept, the running one."""
        parts = shown // self._part
        slots = parts % LEVELS
        kept = self._parts[slots] == parts
        return np.where(kept[:, None], self._levels[slots], self._mean())

    def borrow(self, z: Floats, shown: Times, residual: Floats, share: Floats) -> Floats:
        """Early positives: inputs f64 (n, d), when they were shown (n,), their residuals (n,), finite, and the
        share (n,) of the step that is taken now. Returns what to take off the gradient, f64[d]."""
        if not len(z):
            return np.zeros_like(self._owed)
        now = residual * share
        taken: Floats = (residual - now) @ z + self._due * (now @ self._level(shown))
        self._owed += taken
        self.open += len(z)
        return taken

    def settle(self, n: int) -> Floats:
        """The negatives of n early positives are learned: what to add to the gradient, f64[d]."""
        n = min(n, self.open)
        paid: Floats = self._owed * (n / self.open if n else 0.0)
        self._owed -= paid
        self.open -= n
        return paid

    @property
    def owes(self) -> float:
        """Norm of what early positives owe."""
        return float(np.linalg.norm(self._owed))

    def state(self) -> bytes:
        """Everything, little endian."""
        head = np.array([self._weight, self._count, float(self._at), float(self.open)])
        numbers = np.concatenate([head, self._sum, self._owed, self._levels.ravel()])
        return numbers.astype("<f8").tobytes() + self._parts.astype("<i8").tobytes()

    def load(self, data: bytes) -> None:
        """The inverse of `state`, for the same d; raises ValueError for another size."""
        d = self._sum.size
        n = 4 + 2 * d + LEVELS * d
        if len(data) != 8 * (n + LEVELS):
            raise ValueError(f"a lead of {len(data)} bytes does not fit {d} inputs")
        values = np.frombuffer(data, "<f8", n)
        self._weight, self._count, self._at, self.open = (
            float(values[0]), float(values[1]), int(values[2]), int(values[3])
        )  # fmt: skip
        self._sum, self._owed = values[4 : 4 + d].copy(), values[4 + d : 4 + 2 * d].copy()
        self._levels = values[4 + 2 * d :].reshape(LEVELS, d).copy()
        self._parts = np.frombuffer(data, "<i8", LEVELS, 8 * n).astype(np.int64)
