"""Fits the network to an example set: epochs, optimisers, early stop on the later slice. Writes no file.

Dense layers by AdamW; tables by lazy Adam on the rows that a batch touched (SparseAdam). One torch thread
and seeded generators: the same examples and seed give the same weights to the bit on the same machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trainer.batches import ItemArrays, Sampler, Sampling
from trainer.example_groups import ExampleSet
from trainer.losses import LossWeights, forward, losses
from trainer.network import Network

Progress = Callable[[float], None]
"""Called with the share of the work that is done (0 to 1)."""


def _quiet(share: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class FitOptions:
    """How to train; the sampling's negatives are drawn anew in every epoch."""

    epochs: int = 4
    seed: int = 17
    rate: float = 2e-3
    table_rate: float = 5e-3
    decay: float = 1e-2
    patience: int = 1  # epochs without gain on the later slice before stopping
    sampling: Sampling = field(default_factory=Sampling)
    weights: LossWeights = field(default_factory=LossWeights)
    validation_groups: int = 4_000


@dataclass
class FitReport:
    """Per epoch: mean of each training loss, and figures on the later slice."""

    train: list[dict[str, float]] = field(default_factory=list)
    later: list[dict[str, float]] = field(default_factory=list)
    best: int = 0


def auc(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Area under the ROC curve; ties count half; nan with one class only."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels) > 0
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mid-ranks, from 1
    return float((ranks[inverse][labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def evaluate(network: Network, sampler: Sampler, start: int, end: int, groups: int) -> dict[str, float]:
    """AUC and log loss of the fine click logit and AUC of the coarse one on groups in [start, end) ms."""
    fine, coarse, labels, seen = [], [], [], 0
    network.eval()
    with torch.no_grad():
        for batch in sampler.epoch(start, end):
            items, users, queries, hidden = forward(network, batch)
            on = batch.labelled
            fine.append(network.heads(hidden)[0][on].numpy())
            left = network.coarse_user(users) + network.coarse_query(queries)
            product = (left[batch.rows] * network.coarse_item(items)[batch.candidates]).sum(1)
            coarse.append((product + network.coarse_bias(items).squeeze(1)[batch.candidates])[on].numpy())
            labels.append(batch.click[on].numpy())
            seen += len(batch.searched)
            if seen >= groups:
                break
    network.train()
    if not labels:
        return {}
    scores, truth = np.concatenate(fine).astype(np.float64), np.concatenate(labels)
    loss = float(np.mean(np.logaddexp(0, scores) - truth * scores))
    return {"auc": auc(scores, truth), "log_loss": loss, "coarse_auc": auc(np.concatenate(coarse), truth)}


class Fitter:
    """One training run."""

    def __init__(
        self, network: Network, examples: ExampleSet, items: ItemArrays, options: FitOptions
    ) -> None:
        self.network = network
        self.options = options
        self._examples = examples
        self._items = items
        tables = [network.user_table, network.item_table, network.word_table]
        ids = {id(table) for table in tables}
        dense = [p for p in network.parameters() if id(p) not in ids]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.SparseAdam(tables, lr=options.table_rate),
            torch.optim.AdamW(dense, lr=options.rate, weight_decay=options.decay),
        ]
        self._dense = dense

    def _sampler(self, seed: int, **changes: Any) -> Sampler:
        sampling = Sampling(**{**self.options.sampling.__dict__, **changes})
        return Sampler(self._examples, self._items, sampling, seed)

    def _step(self, batch: Any) -> dict[str, float]:
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        parts = losses(self.network, batch, self.options.weights)
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._dense, 5.0)
        for optimiser in self._optimisers:
            optimiser.step()
        return {name: float(part.detach()) for name, part in parts.items()}

    def _epoch(self, number: int, end: int, progress: Progress) -> dict[str, float]:
        sampler, sums, batches = self._sampler(self.options.seed + number), dict[str, float](), 0
        total = max(1, self._examples.groups // self.options.sampling.groups)
        for batch in sampler.epoch(0, end):
            for name, value in self._step(batch).items():
                sums[name] = sums.get(name, 0.0) + value
            batches += 1
            progress(min(1.0, batches / total))
        return {name: value / max(1, batches) for name, value in sums.items()}

    def later(self, start: int, end: int) -> dict[str, float]:
        """Figures on [start, end): against the mix of negatives, and against uniform and popular ones alone."""
        plain = {"drop_user": 0.0, "drop_item": 0.0, "titles_as_queries": 0.0, "shared": 1}
        groups, seed = self.options.validation_groups, self.options.seed
        figures = evaluate(self.network, self._sampler(seed, **plain), start, end, groups)
        for name, popular in (("auc_uniform", 0.0), ("auc_popular", 1.0)):
            sampler = self._sampler(seed, **plain, popular=popular)
            figures[name] = evaluate(self.network, sampler, start, end, groups).get("auc", float("nan"))
        return figures

    def run(self, split: int, end: int, progress: Progress = _quiet) -> FitReport:
        """Train on groups before `split` ms, stop early on those in [split, end); the best epoch's weights
        stay.
        """
        report, best, best_loss = FitReport(), copy.deepcopy(self.network.state_dict()), float("inf")
        epochs = self.options.epochs
        for number in range(epochs):
            report.train.append(self._epoch(number, split, _part(progress, number, epochs)))
            report.later.append(self.later(split, end))
            loss = report.later[-1].get("log_loss", -float(number))
            if loss < best_loss:
                best_loss, report.best = loss, number
                best = copy.deepcopy(self.network.state_dict())
            elif number - report.best >= self.options.patience:
                break
        self.network.load_state_dict(best)
        return report

    def carry_on(self, end: int, epochs: int, progress: Progress = _quiet) -> None:
        """Train the same network on over all groups before `end` ms, so that it knows the newest when it
        serves.
        """
        for number in range(epochs):
            self._epoch(self.options.epochs + number, end, _part(progress, number, epochs))


def _part(progress: Progress, number: int, of: int) -> Progress:
    return lambda share: progress((number + share) / of)
