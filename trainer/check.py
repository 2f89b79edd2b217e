"""What a finished base model scores on a slice of a log it was not trained on, through the ranker's own
code.

The same figures stand in the manifest (`metrics.held_out`) and are computed again by a test, so that an
artifact that no longer fits the code is noticed. Counters start WARM_MS before the slice, so that the check
is cheap: the figures are for comparing with themselves, not with a backtest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from features.events import Event, ItemEvent
from service.artifact import Artifact
from service.scorer import Scorer
from service.settings import Settings
from trainer.fitting import auc
from trainer.network_part import NetworkPart
from trainer.prior_log import HeadExamples, PriorLog

F64 = npt.NDArray[np.float64]
Head = tuple[F64, float]
"""Weights f64[hidden] and bias of one of the network's own heads."""

WARM_MS = 30 * 86_400_000


def _recent(events: Iterable[Event], start: int) -> Iterator[Event]:
    return (event for event in events if event.timestamp >= start or isinstance(event, ItemEvent))


def held_out_examples(
    artifact: Artifact, events: Iterable[Event], start: int, settings: Settings
) -> PriorLog:
    """Examples of events (in time order) from `start` ms on, with the artifact's own network in z."""
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
    return log


def check_figures(
    artifact: Artifact, events: Iterable[Event], start: int, settings: Settings
) -> dict[str, float]:
    """AUC, log loss and Σ predicted / Σ observed of the click head on events (in time order) from `start` ms on."""
    log = held_out_examples(artifact, events, start, settings)
    return {"from": start, **_figures(log.click, artifact.prior["click"][0])}


def head_logits(examples: HeadExamples, head: Head) -> F64:
    """The network's own logits of examples: z's hidden block times the head's weights, plus its bias."""
    parts = [z[:, : len(head[0])].astype(np.float64) @ head[0] for z in examples.z]
    return np.concatenate(parts or [np.zeros(0)]) + head[1]


def matched(head: Head, before: F64, after: F64) -> Head:
    """The head of a network trained on, scaled to how that network's logits lay before it was (on rows new to both).

    Training on makes logits larger than what their weight in the prior was judged with. Uses no labels.
    """
    if len(before) < 2 or after.std() == 0:
        return head
    scale = float(np.clip(before.std() / after.std(), 0.5, 1.0))
    return head[0] * scale, float(before.mean() - scale * (after.mean() - head[1]))


def _figures(examples: HeadExamples, mean: F64) -> dict[str, float]:
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
