"""The prior of the last layer: a batch logistic regression on z as of each event, with its posterior
covariance.

Newton's method in f64 with a ridge that a later slice of time chooses; a gate compares the network's part at
four weightings and keeps the best. It makes no examples (`trainer/prior_examples.py`) and writes no artifact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
ALPHAS = (0.0, 0.25, 0.5, 1.0)
STEPS = 25
BLOCK = 8_192


@dataclass(frozen=True, slots=True)
class Examples:
    """n examples of one head, in time order. z: f16[n, d]; label: f32[n] in {0, 1}; weight: f32[n] ≥ 0."""

    z: npt.NDArray[np.float16]
    label: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def part(self, start: int, end: int) -> Examples:
        """Examples start … end − 1."""
        return Examples(self.z[start:end], self.label[start:end], self.weight[start:end])


@dataclass(frozen=True, slots=True)
class Prior:
    """mean f64[d], covariance f64[d, d] (inverse Hessian at the mean), and what was chosen: ridge, alpha,
    losses.
    """

    mean: F64
    covariance: F64
    ridge: float
    alpha: float
    losses: dict[str, float]


def log_loss(weights: F64, examples: Examples) -> float:
    """Weighted mean of the logistic loss."""
    total = 0.0
    for start in range(0, len(examples), BLOCK):
        part = examples.part(start, start + BLOCK)
        logit = part.z.astype(np.float64) @ weights
        total += float(part.weight @ (np.logaddexp(0.0, logit) - part.label * logit))
    return total / float(examples.weight.sum())


def _derivatives(weights: F64, examples: Examples) -> tuple[float, F64, F64]:
    d = examples.z.shape[1]
    loss, gradient, hessian = 0.0, np.zeros(d), np.zeros((d, d))
    for start in range(0, len(examples), BLOCK):
        part = examples.part(start, start + BLOCK)
        z = part.z.astype(np.float64)
        logit = z @ weights
        p = 1.0 / (1.0 + np.exp(-np.clip(logit, -40.0, 40.0)))
        loss += float(part.weight @ (np.logaddexp(0.0, logit) - part.label * logit))
        gradient += z.T @ (part.weight * (p - part.label))
        root = np.sqrt(part.weight * p * (1.0 - p))[:, None] * z
        hessian += root.T @ root
    return loss, gradient, hessian


def newton(examples: Examples, ridge: F64, start: F64, steps: int = STEPS) -> tuple[F64, F64]:
    """(mean, Hessian with ridge): minimum of the summed loss + ½ Σ ridge·w², by damped Newton steps from
    `start`.
    """
    w = start.copy()
    loss, gradient, hessian = _derivatives(w, examples)
    loss += 0.5 * float(ridge @ (w * w))
    for _ in range(steps):
        gradient += ridge * w
        step = np.linalg.solve(hessian + np.diag(ridge), gradient)
        if float(gradient @ step) < 1e-9 * (1.0 + abs(loss)):
            break
        size = 1.0
        while True:
            trial = w - size * step
            new, new_gradient, new_hessian = _derivatives(trial, examples)
            new += 0.5 * float(ridge @ (trial * trial))
            if new <= loss or size < 1e-3:
                break
            size *= 0.5
        w, loss, gradient, hessian = trial, new, new_gradient, new_hessian
    return w, hessian + np.diag(ridge)


def _penalty(d: int, ridge: float, intercept: int, total: float) -> F64:
    """Ridge on every dimension but the intercept, as a share of the examples' weight."""
    penalty = np.full(d, max(ridge * total * 1e-4, 1e-6))
    penalty[intercept] = 1e-6
    return penalty


def choose_ridge(
    train: Examples, later: Examples, intercept: int, ridges: Sequence[float] = RIDGES
) -> tuple[float, F64, dict[str, float]]:
    """(ridge, mean at it, loss on the later slice by ridge): from strong to weak, each fit starting at the
    last.
    """
    total = float(train.weight.sum())
    best: tuple[float, float, F64] | None = None
    losses: dict[str, float] = {}
    w = np.zeros(train.z.shape[1])
    for ridge in sorted(ridges, reverse=True):
        w, _ = newton(train, _penalty(len(w), ridge, intercept, total), w)
        loss = losses[f"ridge {ridge:g}"] = log_loss(w, later)
        if best is None or loss < best[0]:
            best = (loss, ridge, w)
    assert best is not None
    return best[1], best[2], losses


def _scaled(examples: Examples, hidden: int, alpha: float) -> Examples:
    """Hidden dimensions multiplied by alpha: their ridge grows by 1 / alpha² against the rest."""
    if alpha == 1.0 or hidden == 0:
        return examples
    z = examples.z.copy()
    z[:, :hidden] *= np.float16(alpha)
    return Examples(z, examples.label, examples.weight)


def fit(
    examples: Examples,
    *,
    hidden: int,
    intercept: int,
    later_share: float = 0.2,
    ridges: Sequence[float] = RIDGES,
    alphas: Sequence[float] = ALPHAS,
) -> Prior:
    """The prior of one head from examples in time order; the last `later_share` of them chooses ridge and
    alpha.

    With the choice made it is fitted again on all. With alpha < 1 the mean's hidden part is scaled back to z
    as served.
    """
    cut = int(len(examples) * (1.0 - later_share))
    losses: dict[str, float] = {}
    best: tuple[float, float, float, F64] | None = None
    for alpha in alphas if hidden else (0.0,):
        train, later = (
            _scaled(part, hidden, alpha)
            for part in (examples.part(0, cut), examples.part(cut, len(examples)))
        )
        ridge, w, found = choose_ridge(train, later, intercept, ridges)
        losses.update({f"alpha {alpha:g}, {name}": loss for name, loss in found.items()})
        loss = min(found.values())
        if best is None or loss < best[0] - 1e-5:
            best = (loss, alpha, ridge, w)
    assert best is not None
    _, alpha, ridge, w = best
    everything = _scaled(examples, hidden, alpha)
    mean, hessian = newton(everything, _penalty(len(w), ridge, intercept, float(examples.weight.sum())), w)
    scale = np.ones(len(mean))
    scale[:hidden] = alpha
    covariance = np.linalg.inv(hessian) * np.outer(scale, scale)
    covariance[np.diag_indices_from(covariance)] += np.where(scale == 0.0, 1e-6, 0.0)
    return Prior(mean * scale, (covariance + covariance.T) / 2, ridge, alpha, losses)
