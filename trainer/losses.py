"""The losses of the base model, all on the whole network at once. No optimiser, no data.

click: BCE; purchase: BCE on the product of both heads over all impressions (CTCVR, ESMM: Ma et al. 2018, eq.
3); coarse: BCE on the same labels + distillation from the fine click logit (also on unshown candidates) +
sampled softmax with log-q correction (Yi et al. 2019, eq. 5); next item: sampled softmax over shared
negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.batches import Batch
from trainer.network import Network


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss in the sum; `purchase` is 0 where a log holds no purchase after a click."""

    click: float = 1.0
    purchase: float = 1.0
    coarse: float = 0.5
    distil: float = 0.5
    retrieve: float = 0.2
    next_item: float = 0.2


def forward(network: Network, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Item towers (distinct, dim), user and query towers (groups, dim), hidden (rows, hidden) of a batch."""
    items = network.items(batch.items, batch.titles)
    inside = (batch.history.kinds > 0)[:, :, None]
    towers = items[batch.history_items] * inside
    users = network.users(batch.users, batch.history._replace(towers=towers))
    queries = network.queries(batch.queries) * batch.searched[:, None]
    hidden = network.fine(users[batch.rows], queries[batch.rows], items[batch.candidates])
    return items, users, queries, hidden


def ctcvr_loss(click: Tensor, purchase: Tensor, label: Tensor) -> Tensor:
    """BCE of P(click) · P(purchase | click) from the two logits, in log space."""
    log_p = F.logsigmoid(click) + F.logsigmoid(purchase)
    log_not = torch.log1p(-torch.exp(log_p).clamp(max=1 - 1e-6))
    return -(label * log_p + (1 - label) * log_not).mean()


def sampled_softmax(score: Tensor, score_log_q: Tensor, others: Tensor, log_q: Tensor, out: Tensor) -> Tensor:
    """Mean −log softmax of score f32[m] against others f32[m, n] after log-q correction; `out` bool[m, n] is
    left out.
    """
    corrected = (others - log_q).masked_fill(out, float("-inf"))
    mine = score - score_log_q
    return (torch.logaddexp(mine, torch.logsumexp(corrected, dim=1)) - mine).mean()


def losses(network: Network, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
    """Every weighted loss of a batch by name; their sum is what training lowers."""
    items, users, queries, hidden = forward(network, batch)
    click, purchase = network.heads(hidden)
    on = batch.labelled
    left = network.coarse_user(users) + network.coarse_query(queries)  # (groups, coarse)
    right, bias = network.coarse_item(items), network.coarse_bias(items).squeeze(1)
    coarse = (left[batch.rows] * right[batch.candidates]).sum(1) + bias[batch.candidates]
    parts = {
        "click": F.binary_cross_entropy_with_logits(click[on], batch.click[on]),
        "coarse": F.binary_cross_entropy_with_logits(coarse[on], batch.click[on]),
        "distil": F.binary_cross_entropy_with_logits(coarse, torch.sigmoid(click.detach())),
    }
    if weights.purchase:
        parts["purchase"] = ctcvr_loss(click[on], purchase[on], batch.purchase[on])
    taken = torch.nonzero(batch.taken).squeeze(1)
    if len(taken):
        group, item = batch.rows[taken], batch.candidates[taken]
        out, log_q = batch.forbidden[group], batch.taken_log_q[taken]
        against = (left @ right[batch.shared].T + bias[batch.shared])[group]
        parts["retrieve"] = sampled_softmax(coarse[taken], log_q, against, batch.shared_log_q, out)
        if weights.next_item:
            heading = network.next_item(users)
            mine = (heading[group] * items[item]).sum(1)
            against = (heading @ items[batch.shared].T)[group]
            parts["next_item"] = sampled_softmax(mine, log_q, against, batch.shared_log_q, out)
    return {name: getattr(weights, name) * part for name, part in parts.items()}
