"""What a finished base model scores on a slice of a log it was not trained on, through the ranker's own
code.

The same figures stand in the manifest (`metrics.held_out`) and are computed again by a test, so that an
artifact that no longer fits the code is noticed. Counters start WARM_MS before the slice, so that the check
is cheap: the figures are for comparing with themselves, not with a backtest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from features.events import Event, ItemEvent
from service.artifact import Artifact
from service.scorer import Scorer
from service.settings import Settings
from trainer.fitting import auc
from trainer.network_part import NetworkPart
from trainer.prior_log import HeadExamples, PriorLog

WARM_MS = 30 * 86_400_000


def _recent(events: Iterable[Event], start: int) -> Iterator[Event]:
    return (event for event in events if event.timestamp >= start or isinstance(event, ItemEvent))


def check_figures(
    artifact: Artifact, events: Iterable[Event], start: int, settings: Settings
) -> dict[str, float]:
    """AUC, log loss and Σ predicted / Σ observed of the click head on events (in time order) from `start` ms
    on.
    """
    log = PriorLog(
        artifact.schema,
        NetworkPart(Scorer(artifact)),
        network_from=0,
        examples_from=start,
        every=1,
        hold_ms=settings.hold_ms,
        windows_ms=(settings.click_window_ms, settings.purchase_window_ms),
        max_items=settings.max_items,
        seed=0,
    )
    log.run(_recent(events, start - WARM_MS))
    return {"from": start, **_figures(log.click, artifact.prior["click"][0])}


def _figures(examples: HeadExamples, mean: np.ndarray) -> dict[str, float]:
    if not len(examples):
        return {"examples": 0}
    z, label = np.concatenate(examples.z), np.concatenate(examples.label)
    logit = z.astype(np.float64) @ mean
    return {
        "examples": len(label),
        "auc": auc(logit, label),
        "log_loss": float(np.mean(np.logaddexp(0, logit) - label * logit)),
        "calibration": float((1 / (1 + np.exp(-logit))).sum() / max(1.0, float(label.sum()))),
    }
