"""A logistic Kalman filter with full covariance: one head of the last layer, learned example by example.

It is the extended Kalman filter of a logistic observation (Fahrmeir 1992; a single Gauss-Newton step an
example) in information form, on micro-batches of up to 32 examples linearised at their first mean:

    A     = diag(√(rate w)) Z               w = p (1 − p), 0 for an example without new information
    P    ←  P − P Aᵀ (I + A P Aᵀ)⁻¹ A P     (Woodbury)
    mean ←  mean + rate · P Zᵀ r            r = label − p, plus a residual that is taken back

`rate` is the weight of an example's likelihood: its first step is that share of the full one, and the covariance
shrinks accordingly. Were only the step made smaller, what is learned early would never be evened out, and taking
a residual back with today's covariance would not undo it. With one example a batch this is the plain sequential
filter. It knows nothing of labels, events or the gate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BATCH = 32


class KalmanHead:
    """Mean f64[d] and covariance f64[d, d] of one head; deterministic to the bit on one machine and build."""

    def __init__(self, mean: Floats, covariance: Floats, *, noise: float, rate: float) -> None:
        """Start from the prior. noise: variance a second of event time; rate: weight of an example, in (0, 1].

        Raises ValueError where the shapes do not agree or the covariance is not finite.
        """
        if covariance.shape != (mean.size, mean.size):
            raise ValueError(f"covariance {covariance.shape} does not fit a mean of {mean.size}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("the prior is not finite")
        self.mean = np.array(mean, np.float64)
        self.covariance = np.ascontiguousarray((covariance + covariance.T) / 2)
        self.noise = noise
        self.rate = rate
        self.at: int | None = None
        self.resets = 0  # times the covariance lost positive definiteness and became the prior's again
        self._prior = self.covariance.copy()
        self._ceiling = np.diag(self.covariance).copy()

    @property
    def d(self) -> int:
        """Number of inputs."""
        return int(self.mean.size)

    def advance(self, t: int) -> None:
        """Add the process noise of the event time up to t (ms), no variance above its prior."""
        if self.at is not None and t > self.at and self.noise > 0:
            variance = np.einsum("ii->i", self.covariance)
            room = np.maximum(self._ceiling - variance, 0.0)
            variance += np.minimum(room, self.noise * (t - self.at) / 1000.0)
        self.at = t if self.at is None else max(self.at, t)

    def learn(self, z: Floats, residual: Floats, curvature: Floats, level: Floats | float = 0.0) -> None:
        """One micro-batch. z f64 (n, d), n ≤ 32; residual f64 (n,): label − p, plus what is taken back;
        curvature f64 (n,): p (1 − p), or 0 where the example brings no new information; level f64 (d,): added
        to the gradient (see `trainer/lead.py`)."""
        informed = curvature > 0.0
        if informed.any():
            self._shrink(z[informed] * np.sqrt(self.rate * curvature[informed])[:, None])
        self.mean += self.rate * (self.covariance @ (residual @ z + level))

    def reach(self, z: Floats) -> Floats:
        """By how much a residual of 1 moves the logit of its own inputs, f64 (n,)."""
        logits: Floats = np.einsum("nd,nd->n", z @ self.covariance, z)
        return self.rate * logits

    def _shrink(self, a: Floats) -> None:
        gain = a @ self.covariance  # (n, d)
        inner = gain @ a.T
        inner[np.diag_indices(len(a))] += 1.0
        try:
            factor = np.linalg.cholesky((inner + inner.T) / 2)
        except np.linalg.LinAlgError:
            self._reset()
            return
        half = np.linalg.inv(factor) @ gain  # (n, d)
        self.covariance -= half.T @ half
        if not np.diag(self.covariance).min() > 0:
            self._reset()

    def _reset(self) -> None:
        self.covariance = self._prior.copy()
        self.resets += 1

    def state(self) -> bytes:
        """Mean, upper triangle of the covariance and time, little endian f64."""
        upper = self.covariance[np.triu_indices(self.d)]
        at = np.array([np.nan if self.at is None else float(self.at)])
        return np.concatenate([self.mean, upper, at]).astype("<f8").tobytes()

    def load(self, data: bytes) -> None:
        """The inverse of `state`, for a head of the same d; raises ValueError for another size."""
        d = self.d
        values = np.frombuffer(data, "<f8")
        if values.size != d + d * (d + 1) // 2 + 1:
            raise ValueError(f"a state of {values.size} numbers does not fit a head of {d} inputs")
        self.mean = values[:d].astype(np.float64)
        upper = np.zeros((d, d))
        upper[np.triu_indices(d)] = values[d:-1]
        self.covariance = upper + np.triu(upper, 1).T
        self.at = None if np.isnan(values[-1]) else int(values[-1])
