"""How IDs become inputs of the network: k signed positions out of B rows, in bags (DESIGN §1, "three
codings").

A key (xxh3-64 of the ID, features/keys.py) becomes `k` rows of a table of `B` rows, each with value
±1/sqrt(k): a sparse random projection, so that any ID, known or not, costs the same memory. An item's bag
also holds its category and brand (coded like IDs) and, with smaller weight, its attached keys
(features/attached.py). Pure functions of the key and CODING_VERSION; the same on every platform. Holds no
weights and no vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features import coding_kernels as kernels

CODING_VERSION = 1
"""Changes whenever the same input would be coded otherwise; an artifact of another version is refused."""

K_ID = 8
K_WORD = 4
HISTORY = 50
"""Interactions that the user tower sees: the last 50."""

ATTACHED_WEIGHT = 0.5

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

_SEED = 0x5265704C52310000 | CODING_VERSION << 8  # "RepLR1", the version, then the number of the draw
_SECRET = 0x1CAD21F72C81017C ^ 0xDB979083E96DD4DE  # XXH3's default secret, words 1 and 2

_GAPS_MS = np.array([10_000, 60_000, 600_000, 3_600_000, 86_400_000, 604_800_000], np.int64)
GAPS = len(_GAPS_MS) + 2
"""Number of gap buckets: 0 for the first interaction, then up to 10 s, 1 min, 10 min, 1 h, 1 d, 7 d, longer.
"""


class Bags(NamedTuple):
    """Rows and values of n bags: bag j holds entries starts[j] to starts[j + 1]."""

    rows: I64  # (entries,)
    values: F32  # (entries,)
    starts: I64  # (n + 1,)


class Keys(NamedTuple):
    """Weighted keys of n bags, before coding; same layout as Bags."""

    keys: U64
    weights: F32
    starts: I64


def _flip(seed: int) -> int:
    """XXH3-64 for an input of 8 bytes: what is mixed into the key ("small inputs, 4 to 8 bytes", XXH3
    specification).
    """
    swapped = int.from_bytes((seed & 0xFFFFFFFF).to_bytes(4, "little"), "big")
    return (_SECRET - (seed ^ swapped << 32)) & 0xFFFFFFFFFFFFFFFF


_FLIPS = np.array([_flip(_SEED + draw) for draw in range(8)], np.uint64)


def code_bags(parts: Keys, k: int, rows: int) -> Bags:
    """Code every key of every bag in a table of `rows` rows: k codes a key (k even), bag after bag.

    Draw j is the XXH3-64 of the key's 8 little-endian bytes with seed j (as the xxhash library gives it; a
    test compares) and yields two codes: 31 bits choose the row, one bit the sign; value = ±weight/sqrt(k).
    """
    chosen = np.empty(len(parts.keys) * k, np.int64)
    values = np.empty(len(parts.keys) * k, np.float32)
    kernels.code_keys(parts.keys, _FLIPS[: k // 2], k, rows, parts.weights, chosen, values)
    return Bags(chosen, values, parts.starts * k)


def item_parts(ids: U64, categories: U64, brands: U64, neighbours: U64, strengths: F32) -> Keys:
    """The keys of n items' bags: ID, category, brand (0: none) and attached neighbours u64[n, a] with
    strengths.

    Strengths are in [0, 1], 0 where there is no neighbour; an item's attached part weighs ATTACHED_WEIGHT at
    most.
    """
    n = len(ids)
    total = np.sqrt((strengths * strengths).sum(axis=1, keepdims=True, dtype=np.float32))
    scaled = np.float32(ATTACHED_WEIGHT) * strengths / np.maximum(total, np.float32(1))
    keys = np.concatenate([ids[:, None], categories[:, None], brands[:, None], neighbours], axis=1)
    weights = np.concatenate([np.ones((n, 3), np.float32), scaled.astype(np.float32)], axis=1)
    present = (keys != 0) & (weights != 0)
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(present.sum(axis=1), out=starts[1:])
    return Keys(keys[present], weights[present], starts)


def word_parts(texts: list[U64]) -> Keys:
    """The keys of n texts' bags from their word keys; a text of m words weighs each 1/sqrt(m)."""
    lengths = np.fromiter((len(words) for words in texts), np.int64, len(texts))
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    weights = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    keys = np.concatenate(texts) if texts else np.empty(0, np.uint64)
    return Keys(keys.astype(np.uint64), weights, starts)


def user_parts(users: U64) -> Keys:
    """The keys of n users' bags: the actor key alone; 0 (nobody) is an empty bag."""
    present = users != 0
    starts = np.zeros(len(users) + 1, np.int64)
    np.cumsum(present, out=starts[1:])
    return Keys(users[present], np.ones(int(present.sum()), np.float32), starts)


def sum_bags(table: npt.NDArray[np.float16], bags: Bags) -> F32:
    """The sparse first layer: f32[n, dim], the weighted sum of the named rows of an f16 table; empty bags
    are 0.
    """
    out = np.empty((len(bags.starts) - 1, table.shape[1]), np.float32)
    kernels.sum_rows(table.view(np.uint16), bags.rows, bags.values, bags.starts, out)
    return out


def gap_buckets(times: I64) -> I64:
    """Bucket of the time between each interaction and the one before it (ms, oldest first); the first is 0.

    Only gaps between interactions count, not the time until now: a user's vector holds until her next
    interaction.
    """
    buckets = np.zeros(len(times), np.int64)
    buckets[1:] = np.searchsorted(_GAPS_MS, np.diff(times), side="left") + 1
    return buckets


def table_rows(ids: int, *, budget_bytes: int | None = None, dim: int = 64, floor: int = 4_096) -> int:
    """Rows of a table at first training: 1/20 of the IDs, at least `floor`, within a byte budget (f16) if
    given.
    """
    rows = max(floor, -(-ids // 20))
    return rows if budget_bytes is None else max(64, min(rows, budget_bytes // (2 * dim)))
