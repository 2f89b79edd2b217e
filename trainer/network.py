"""The RepL network as a torch module, and its configuration. Nothing here trains it or reads a log.

Sparse first layer: bags of signed codes (features/coding.py) over three tables, only the non-zeros forward
and backward. Item tower, user tower (own codes, pool and LSTM over the last interactions), query tower
(absent for recommendation: a zero vector and no gradient), fine network on [u, q, i, (u + q) · i], two
heads, coarse head. The served twin is the ONNX graphs of trainer/onnx_export.py; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from features.coding import GAPS, HISTORY

TABLE_SCALE = 0.2
BEHAVIOURS = 6
"""Codes 1 to 5 of features/schema.py; 0 marks the start of a history."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes. `user_rows`, `item_rows`, `word_rows` are the tables' rows, fixed at first training."""

    user_rows: int
    item_rows: int
    word_rows: int
    dim: int = 64
    wide: int = 128
    hidden: int = 64
    coarse: int = 32


class Bag(NamedTuple):
    """A batch of bags of codes: rows i64[entries], values f32[entries], offsets i64[n] (starts, without the
    end).
    """

    rows: Tensor
    values: Tensor
    offsets: Tensor


class Histories(NamedTuple):
    """Padded on the right, oldest first, after one start step (vector 0, kind 0, gap 0)."""

    towers: Tensor  # (batch, steps, dim)
    kinds: Tensor  # (batch, steps) i64
    gaps: Tensor  # (batch, steps) i64
    ages: Tensor  # (batch, steps) i64: 1 for the newest; 0 for the start step
    lengths: Tensor  # (batch,) i64, the start step counted


def _table(rows: int, dim: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, dim) * TABLE_SCALE)


class Network(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, wide = config.dim, config.wide
        self.user_table = _table(config.user_rows, dim)
        self.item_table = _table(config.item_rows, dim)
        self.word_table = _table(config.word_rows, dim)
        self.item_1 = nn.Linear(2 * dim, wide)
        self.item_2 = nn.Linear(wide, dim)
        self.kinds = nn.Embedding(BEHAVIOURS, dim)
        self.gaps = nn.Embedding(GAPS, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.pool_kind = nn.Parameter(torch.zeros(BEHAVIOURS))
        ages = torch.arange(HISTORY + 1, dtype=torch.float32)
        self.pool_age = nn.Parameter(-0.1 * (ages - 1).clamp(min=0))
        self.user_1 = nn.Linear(3 * dim, wide)
        self.user_2 = nn.Linear(wide, dim)
        self.query_1 = nn.Linear(dim, wide)
        self.query_2 = nn.Linear(wide, dim)
        self.fine_1 = nn.Linear(4 * dim, wide)
        self.fine_2 = nn.Linear(wide, config.hidden)
        self.click = nn.Linear(config.hidden, 1)
        self.purchase = nn.Linear(config.hidden, 1)
        self.coarse_item = nn.Linear(dim, config.coarse, bias=False)
        self.coarse_user = nn.Linear(dim, config.coarse, bias=False)
        self.coarse_query = nn.Linear(dim, config.coarse, bias=False)
        self.coarse_bias = nn.Linear(dim, 1)
        self.next_item = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Variances that keep their size from layer to layer (He et al. 2015): the towers' product must not vanish."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                gain = 2.0 if name.endswith("_1") else 1.0  # a ReLU follows
                nn.init.normal_(layer.weight, std=(gain / layer.in_features) ** 0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, std=0.1)

    @staticmethod
    def bag(table: Tensor, bag: Bag) -> Tensor:
        """Sparse fully connected layer: (n, dim); the gradient is sparse."""
        return F.embedding_bag(
            bag.rows, table, bag.offsets, mode="sum", per_sample_weights=bag.values, sparse=True
        )

    def items(self, keys: Bag, words: Bag) -> Tensor:
        """Item tower vectors (n, dim) from item keys (ID, category, brand, attached) and title words."""
        x = torch.cat([self.bag(self.item_table, keys), self.bag(self.word_table, words)], dim=1)
        return self.item_2(F.relu(self.item_1(x)))  # type: ignore[no-any-return]

    def queries(self, words: Bag) -> Tensor:
        """Query tower vectors (n, dim) from the words of n queries."""
        x = self.bag(self.word_table, words)
        return self.query_2(F.relu(self.query_1(x)))  # type: ignore[no-any-return]

    def users(self, keys: Bag, history: Histories) -> Tensor:
        """User tower vectors (batch, dim) from actor keys and their last interactions."""
        own = self.bag(self.user_table, keys)
        steps = history.towers + self.kinds(history.kinds) + self.gaps(history.gaps)
        states, _ = self.lstm(steps)
        last = states[torch.arange(len(states)), history.lengths - 1]  # (batch, dim)
        pool = self._pool(history)
        return self.user_2(F.relu(self.user_1(torch.cat([own, pool, last], dim=1))))  # type: ignore[no-any-return]

    def _pool(self, history: Histories) -> Tensor:
        """Mean of the history's item vectors, weighted by behaviour and recency; the start step adds weight
        to 0.
        """
        logits = self.pool_kind[history.kinds] + self.pool_age[history.ages]
        outside = torch.arange(logits.shape[1]) >= history.lengths[:, None]
        share = torch.softmax(logits.masked_fill(outside, float("-inf")), dim=1)
        return torch.einsum("bs,bsd->bd", share, history.towers)

    def fine(self, user: Tensor, query: Tensor, item: Tensor) -> Tensor:
        """Hidden vectors (n, hidden) of n (user, query, item) rows."""
        x = torch.cat([user, query, item, (user + query) * item], dim=1)
        return F.relu(self.fine_2(F.relu(self.fine_1(x))))

    def heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n,) of click and of purchase given click, linear on the hidden vectors."""
        return self.click(hidden).squeeze(1), self.purchase(hidden).squeeze(1)

    def coarse(self, user: Tensor, query: Tensor, item: Tensor) -> Tensor:
        """Pre-ranking logits (batch, n) of every item for every (user, query): product of 32-d projections +
        bias.
        """
        left = self.coarse_user(user) + self.coarse_query(query)
        return left @ self.coarse_item(item).T + self.coarse_bias(item).T  # type: ignore[no-any-return]
