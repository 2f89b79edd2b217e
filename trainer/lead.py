"""The lead of positives over their negatives, kept level: a click is learned when it comes, its list's
negatives half a minute later. It learns nothing by itself (`learner.py`).

Learned alone, early positives would lift every score: on a cold learner clicks took P(click) from .12 to .65
against a true .05. The gradient of the log loss is Σ_clicked z − Σ_shown p z; of the second sum the
part that belongs to the early clicks is known at once, from the inputs shown lately. So an early positive is
learned as r (z − c), with c the mean of the shown inputs weighted by p (as scored now), and r c is *owed*:
it is paid when the negatives of its list are learned. Where a full step would leap (a wide prior, whose covariance
only the negatives will shrink) a share of it is taken now, and the rest is owed too. In total nothing but the order
has changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MEMORY = 512.0  # shown inputs


class Lead:
    """Mean of what was shown, f64[d], and what early positives owe: a vector f64[d] and their number."""

    def __init__(self, d: int) -> None:
        self._sum = np.zeros(d)
        self._weight = 0.0
        self._owed = np.zeros(d)
        self.open = 0

    def see(self, z: Floats, p: Floats) -> None:
        """Items were shown: inputs f64 (n, d), finite, and their p f64 (n,) by the live weights (nan: passed over)."""
        if not np.isfinite(p).all():
            return
        if (
            self._weight == 0.0
        ):  # one more at the origin: the very first click, of a list of one, moves something
            self._weight = float(p.mean())
        fade = float(np.exp(-len(p) / MEMORY))
        self._sum *= fade
        self._sum += p @ z
        self._weight = self._weight * fade + float(p.sum())

    def borrow(self, z: Floats, residual: Floats, share: Floats) -> Floats:
        """Early positives: inputs f64 (n, d), their residuals (n,), and the share (n,) of the step that is taken
        now. Returns what to take off the gradient, f64[d]."""
        if not (
            len(z) and np.isfinite(residual).all()
        ):  # weights that are not numbers: the gate rolls them back
            return np.zeros_like(self._owed)
        now = residual * share
        level = self._sum / self._weight if self._weight > 0 else self._sum
        taken: Floats = (residual - now) @ z + float(now.sum()) * level
        self._owed += taken
        self.open += len(z)
        return taken

    def settle(self, n: int) -> Floats:
        """The negatives of n early positives are learned: what to add to the gradient, f64[d]."""
        paid = self._share(n)
        self._owed -= paid
        self.open -= min(n, self.open)
        return paid

    @property
    def owes(self) -> float:
        """Norm of what early positives owe."""
        return float(np.linalg.norm(self._owed))

    def _share(self, n: int) -> Floats:
        return self._owed * (min(n, self.open) / self.open) if self.open else np.zeros_like(self._owed)

    def state(self) -> bytes:
        """Everything, little endian f64."""
        return (
            np.concatenate([[self._weight, float(self.open)], self._sum, self._owed]).astype("<f8").tobytes()
        )

    def load(self, data: bytes) -> None:
        """The inverse of `state`, for the same d; raises ValueError for another size."""
        values = np.frombuffer(data, "<f8")
        d = self._sum.size
        if values.size != 2 + 2 * d:
            raise ValueError(f"a lead of {values.size} numbers does not fit {d} inputs")
        self._weight, self.open = float(values[0]), int(values[1])
        self._sum, self._owed = values[2 : 2 + d].copy(), values[2 + d :].copy()
