"""Measures of a ranking: recall, AUC against sampled negatives, each with a standard error. It ranks
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def rank_of(scores: F64, target: int) -> float:
    """Place of a target among all scores, 0 = first; ties count half (mid-rank)."""
    own = scores[target]
    above = np.count_nonzero(scores > own)
    return float(above) + 0.5 * float(np.count_nonzero(scores == own) - 1)


def auc_of(own: float, negatives: F64) -> float:
    """Share of negatives that score below; ties count half."""
    return float(np.count_nonzero(negatives < own) + 0.5 * np.count_nonzero(negatives == own)) / len(
        negatives
    )


NAMES: Sequence[str] = ("recall@20", "auc_uniform", "auc_popular", "recall@20_whole")


@dataclass
class Tally:
    """Figures of scored targets, one row each: known pair?, then NAMES.

    recall@20 of a known pair, and recall@20_whole, are over the whole catalogue; that of a new pair is over
    the items that the user had not touched before (else her own items fill the first places and hide the
    rest).
    """

    rows: list[tuple[bool, float, float, float, float]] = field(default_factory=list)

    def add(self, known: bool, rank: float, auc_uniform: float, auc_popular: float, rank_new: float) -> None:
        """One target; ranks from 0: in the whole catalogue, and among the items not touched before."""
        hit, hit_new = float(rank < 20), float(rank_new < 20)
        self.rows.append((known, hit if known else hit_new, auc_uniform, auc_popular, hit))

    def summary(self) -> dict[str, dict[str, float]]:
        """For all (over the whole catalogue), known and new pairs: count, figures, the standard error of
        each.
        """
        table = np.array(self.rows, np.float64).reshape(-1, 5)
        known = table[:, 0] > 0
        everything = table[:, 1:].copy()
        everything[:, 0] = table[:, 4]
        return {"all": _mean(everything), "known": _mean(table[known, 1:]), "new": _mean(table[~known, 1:])}


def _mean(table: F64) -> dict[str, float]:
    n = len(table)
    found: dict[str, float] = {"count": float(n)}
    if n:
        error = table.std(axis=0) / np.sqrt(n)
        for k, name in enumerate(NAMES):
            found[name] = float(table[:, k].mean())
            found[f"{name}_se"] = float(error[k])
    return found
