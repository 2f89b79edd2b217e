"""The prior of each head: the last layer fitted in batch, with the network's part weighted by what it adds.

Two steps, so that the network is judged out of sample and is nevertheless fresh when it serves:
1. examples from before `network_from`: a ridge logistic regression on `rest` alone (trainer/prior.py);
2. examples from then on, around the posterior of step 1 (its precision times KEEP, for what has changed
   since): `rest` and one more input, the network's own logit. Its weight is what the network adds. The
   hidden block's mean is that weight times the network's head, so that it carries over to the network as
   trained on. A gate compares with and without on the last examples, paired by group, and keeps the better
   weighting. Writes no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from service.artifact import Calibration
from trainer.fitting import auc
from trainer.prior import Examples, choose_ridge
from trainer.prior_log import HeadExamples

F64 = npt.NDArray[np.float64]

KEEP = 0.5
LATER = 0.25
"""Share of the examples of step 2 that the gate and the calibration look at."""

SCALES = (0.0, 0.25, 0.5, 1.0)
MIN_EXAMPLES = 500
MIN_CLASS = 50
WEAK_RATE = 0.1
"""P(purchase | click) of a head without labels: one in ten, with variance 1 on the intercept."""

LEVEL_VARIANCE = 1.0
WEAK_VARIANCE, HIDDEN_VARIANCE = 1e-2, 1e-2
BLOCK = 8_192


@dataclass
class HeadPrior:
    """Mean f64[d] and covariance f64[d, d] of one head, and how they came about."""

    mean: F64
    covariance: F64
    scale: float = 0.0
    weak: bool = False
    calibration: Calibration = field(default_factory=Calibration)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Rows of one head, the network's logit among them: rest f16[n, r], logit f32[n], group i64[n]
    (ascending).
    """

    rest: npt.NDArray[np.float16]
    logit: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def part(self, start: int, end: int) -> Data:
        return Data(*(getattr(self, name)[start:end] for name in self.__dataclass_fields__))

    def block(self, start: int, network: bool) -> F64:
        """Inputs f64[rows, r (+ 1)] of BLOCK rows from `start`."""
        rest = self.rest[start : start + BLOCK].astype(np.float64)
        if not network:
            return rest
        return np.concatenate([rest, self.logit[start : start + BLOCK, None]], axis=1)

    def logits(self, w: F64) -> F64:
        """Logits under w f64[r] (without the network) or f64[r + 1]."""
        network = len(w) > self.rest.shape[1]
        starts = range(0, len(self), BLOCK)
        return np.concatenate([self.block(start, network) @ w for start in starts] or [np.zeros(0)])


def data_of(examples: HeadExamples, hidden: int, head: tuple[F64, float], start: int, end: int) -> Data:
    """Rows of the groups with time in [start, end) ms; head: weights f64[hidden] and bias of the network's
    own head.
    """
    chosen = [g for g, t in enumerate(examples.times) if start <= t < end]
    if not chosen:
        empty = np.zeros(0, np.float32)
        return Data(np.zeros((0, 0), np.float16), empty, empty, empty, np.zeros(0, np.int64))
    z = np.concatenate([examples.z[g] for g in chosen])
    logit = z[:, :hidden].astype(np.float64) @ head[0] + head[1]
    return Data(
        np.ascontiguousarray(z[:, hidden:]),
        logit.astype(np.float32),
        np.concatenate([examples.label[g] for g in chosen]),
        np.concatenate([examples.weight[g] for g in chosen]),
        np.repeat(np.arange(len(chosen)), [len(examples.label[g]) for g in chosen]),
    )


def posterior(data: Data, mean: F64, precision: F64, steps: int = 25) -> tuple[F64, F64]:
    """(mode, Hessian) of the logistic likelihood around a Gaussian prior, by damped Newton steps."""
    w, network = mean.copy(), len(mean) > data.rest.shape[1]

    def derivatives(w: F64) -> tuple[float, F64, F64]:
        away = w - mean
        loss, gradient, hessian = 0.5 * float(away @ precision @ away), precision @ away, precision.copy()
        for start in range(0, len(data), BLOCK):
            z = data.block(start, network)
            label, weight = data.label[start : start + BLOCK], data.weight[start : start + BLOCK]
            logit = z @ w
            p = _sigmoid(logit)
            loss += float(weight @ (np.logaddexp(0, logit) - label * logit))
            gradient += z.T @ (weight * (p - label))
            root = np.sqrt(weight * p * (1 - p))[:, None] * z
            hessian += root.T @ root
        return loss, gradient, hessian

    loss, gradient, hessian = derivatives(w)
    for _ in range(steps):
        step = np.linalg.solve(hessian, gradient)
        if float(gradient @ step) < 1e-6 * (1 + abs(loss)):
            break
        size = 1.0
        while True:
            trial = derivatives(w - size * step)
            if trial[0] <= loss or size < 1e-3:
                break
            size *= 0.5
        w, (loss, gradient, hessian) = w - size * step, trial
    return w, hessian


def row_losses(logit: F64, data: Data) -> F64:
    """Weighted logistic loss of each row."""
    return np.asarray(data.weight * (np.logaddexp(0, logit) - data.label * logit), np.float64)


def paired_gain(with_it: F64, without: F64, data: Data) -> tuple[float, float]:
    """Mean loss without minus with, and its standard error over groups."""
    difference = np.bincount(
        data.group - data.group[0], row_losses(without, data) - row_losses(with_it, data)
    )
    total = float(data.weight.sum())
    return float(difference.sum() / total), float(difference.std() * np.sqrt(len(difference)) / total)


def calibrate(logit: F64, data: Data, level_known: bool = True) -> Calibration:
    """Slope and offset that make the logits right on the slice, and Σ predicted / Σ observed before.

    Without a known level the offset makes Σ predicted = Σ observed over the sample's rows, each counted once.
    """
    slope, offset = _logistic_line(logit, data.label, data.weight)
    slope = float(np.clip(slope, 0.5, 2))
    ratio = float(data.weight @ _sigmoid(logit) / max(1e-9, float(data.weight @ data.label)))
    if not level_known:
        for _ in range(50):
            p = _sigmoid(slope * logit + offset)
            offset -= float(np.clip((p - data.label).sum() / max(1e-9, (p * (1 - p)).sum()), -1, 1))
    return Calibration(slope, offset, ratio)


def _sigmoid(logit: F64) -> F64:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -40, 40))))


def _logistic_line(
    logit: F64, label: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """Slope and offset of a logistic regression on one input, by Newton steps."""
    w = np.array([1.0, 0.0])
    z = np.stack([logit, np.ones_like(logit)], axis=1)
    for _ in range(20):
        p = _sigmoid(z @ w)
        curve = weight * p * (1 - p)
        step = np.linalg.solve((z.T * curve) @ z + np.eye(2) * 1e-6, z.T @ (weight * (p - label)))
        w = w - step
        if np.abs(step).max() < 1e-8:
            break
    return float(w[0]), float(w[1])


def weak_prior(d: int, intercept: int) -> HeadPrior:
    """The prior of a head without labels: WEAK_RATE at the intercept, nothing known of the rest."""
    mean, covariance = np.zeros(d), np.eye(d) * WEAK_VARIANCE
    mean[intercept] = np.log(WEAK_RATE / (1 - WEAK_RATE))
    covariance[intercept, intercept] = 1.0
    return HeadPrior(mean, covariance, weak=True)


class _Fit:
    """Both steps for one head; `intercept` counts within `rest`."""

    def __init__(self, early: Data, width: int, intercept: int) -> None:
        if len(early) < MIN_EXAMPLES or not 0 < early.label.sum() < len(early):
            self.mean, self.precision, self.ridge = np.zeros(width), np.eye(width) * 10.0, 0.0
            self.precision[intercept, intercept] = 1e-3
            return
        cut = int(len(early) * (1 - LATER))
        examples = Examples(early.rest, early.label, early.weight)
        parts = examples.part(0, cut), examples.part(cut, len(early))
        self.ridge, _, _ = choose_ridge(*parts, intercept, (1e-2, 1e-1, 1.0))
        penalty = np.full(width, self.ridge * float(early.weight.sum()) * 1e-4)
        penalty[intercept] = 1e-3
        around = posterior(early, np.zeros(width), np.diag(penalty))
        self.mean, self.precision = around[0], around[1] * KEEP

    def step_two(self, data: Data, network: bool) -> tuple[F64, F64]:
        """(mode, Hessian) with or without the network's logit, whose own prior is broad and around 0."""
        if not network:
            return posterior(data, self.mean, self.precision)
        n = len(self.mean)
        precision = np.zeros((n + 1, n + 1))
        precision[:n, :n] = self.precision
        precision[n, n] = 1.0
        return posterior(data, np.append(self.mean, 0.0), precision)


def _mix(without: F64, with_it: F64, scale: float) -> F64:
    return np.asarray(scale * with_it + (1 - scale) * np.append(without, 0.0))


def _gate(fit: _Fit, data: Data, level_known: bool) -> tuple[float, Calibration, dict[str, Any]]:
    """Scale of the network's part, calibration of the choice and figures, all on the last examples."""
    cut = int(np.searchsorted(data.group, data.group[int(len(data) * (1 - LATER))]))
    train, later = data.part(0, cut), data.part(cut, len(data))
    without, with_it = fit.step_two(train, False)[0], fit.step_two(train, True)[0]
    logits = {scale: later.logits(_mix(without, with_it, scale)) for scale in SCALES}
    total = float(later.weight.sum())
    losses = {scale: float(row_losses(logit, later).sum() / total) for scale, logit in logits.items()}
    best = min(SCALES, key=lambda scale: losses[scale])
    gain, error = paired_gain(logits[best], logits[0.0], later)
    if with_it[-1] <= 0 or gain < error:
        best = 0.0
    figures = {
        "auc": auc(logits[best], later.label),
        "auc_without_network": auc(logits[0.0], later.label),
        "log_loss": losses[best],
        "log_loss_without_network": losses[0.0],
        "log_loss_by_scale": {f"{scale:g}": loss for scale, loss in losses.items()},
        "gain": gain,
        "gain_se": error,
        "examples": len(later),
        "ridge": fit.ridge,
    }
    return best, calibrate(logits[best], later, level_known), figures


def fit_head(
    examples: HeadExamples,
    *,
    d: int,
    hidden: int,
    intercept: int,
    head: tuple[F64, float],
    final_head: tuple[F64, float],
    network_from: int,
    level_known: bool,
) -> HeadPrior:
    """The prior of one head from its examples.

    `head` is the network's own head (weights, bias) as it made the examples, `final_head` that of the network that
    will serve; `intercept` is the place of the intercept in z. A head with too few labels gets the weak prior. Without
    impressions (`level_known` false) the level is a convention, the share of positives in the sample, and the
    intercept's variance LEVEL_VARIANCE, so that what is shown and clicked sets it soon.
    """
    if min(examples.classes) < MIN_CLASS or len(examples) < MIN_EXAMPLES:
        return weak_prior(d, intercept)
    early = data_of(examples, hidden, head, 0, network_from)
    data = data_of(examples, hidden, head, network_from, 1 << 62)
    if len(data) < MIN_EXAMPLES or min(data.label.sum(), len(data) - data.label.sum()) < MIN_CLASS:
        return weak_prior(d, intercept)
    fit = _Fit(early, d - hidden, intercept - hidden)
    scale, calibration, metrics = _gate(fit, data, level_known)
    mode, hessian = fit.step_two(data, False)
    weight = 0.0
    if scale:
        mixed = _mix(mode, fit.step_two(data, True)[0], scale)
        mode, weight = mixed[:-1], float(mixed[-1])
    mean = np.concatenate([weight * final_head[0], mode])
    mean[intercept] += weight * final_head[1]
    covariance = np.zeros((d, d))
    covariance[:hidden, :hidden] = np.eye(hidden) * HIDDEN_VARIANCE
    covariance[hidden:, hidden:] = np.linalg.inv(hessian)
    mean *= calibration.slope
    mean[intercept] += calibration.offset
    covariance *= calibration.slope**2
    if not level_known:
        covariance[intercept, intercept] += LEVEL_VARIANCE
    metrics["network_weight"] = weight
    return HeadPrior(mean, (covariance + covariance.T) / 2, scale, False, calibration, metrics)
