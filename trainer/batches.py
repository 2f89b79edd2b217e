"""From groups on disk to batches of tensors: candidates, sampled negatives, histories, bags. No loss, no
optimiser.

Negatives are a mix of uniform and popular items, both drawn from what was known at the group's time: a dense
item number below `known` is uniform over the items that existed, a place before `seen` in the stream of
positives is popularity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features import coding
from features.attached import Attached
from features.coding import F32, I64, K_ID, K_WORD, U64
from trainer.example_groups import CLICKED, PURCHASED, SHOWN, Arrays, ExampleSet
from trainer.item_book import ItemBook
from trainer.network import Bag, Histories, NetworkConfig


@dataclass(frozen=True)
class Sampling:
    """How a batch is drawn."""

    groups: int = 64
    positives: int = 8  # of one group, at most
    shown: int = 48  # impressions of one group, at most
    negatives: int = 16  # drawn for a group without impressions
    unshown: int = 4  # drawn for every group: no label, distillation only
    shared: int = 1_024  # negatives of the sampled softmax, one set a batch
    popular: float = 0.5  # share of negatives drawn by popularity
    titles_as_queries: float = 0.0  # share of groups that become a search for words of a positive's title
    drop_user: float = 0.3  # the user's own code is left out, so that a new user is nothing strange
    drop_item: float = 0.2  # an item's own code likewise


class Batch(NamedTuple):
    """Tensors of one batch. `items` are the distinct items named; every other item column points into them."""

    users: Bag
    items: Bag
    titles: Bag
    queries: Bag  # (groups,): empty for recommendation
    searched: Tensor  # (groups,) bool: has a query
    history_items: Tensor  # (groups, steps) i64 into items; the start step points at 0 and is masked
    history: Histories  # towers are empty here: the network fills them in
    rows: Tensor  # (rows,) i64: the group of each candidate row
    candidates: Tensor  # (rows,) i64 into items
    click: Tensor  # (rows,) f32
    purchase: Tensor  # (rows,) f32
    labelled: Tensor  # (rows,) bool; the others are unshown: distillation only
    taken: Tensor  # (rows,) bool: positive
    shared: Tensor  # (negatives,) i64 into items
    shared_log_q: Tensor  # (negatives,)
    taken_log_q: Tensor  # (rows,) log of the expected draws of the candidate
    forbidden: Tensor  # (groups, negatives) bool: not known then, or taken by this group


class ItemArrays:
    """The book's columns as arrays, and the bags of chosen items."""

    def __init__(self, book: ItemBook, attached: Attached, config: NetworkConfig) -> None:
        self.keys = np.array(book.keys, np.uint64)
        self.categories = np.array(book.categories, np.uint64)
        self.brands = np.array(book.brands, np.uint64)
        self.titles = book.titles
        self.attached = attached
        self.config = config

    def bags(self, chosen: I64, drop: npt.NDArray[np.bool_] | None = None) -> tuple[Bag, Bag]:
        """Bags of item keys and of title words; `drop` leaves out the item's own key."""
        keys = self.keys[chosen]
        neighbours, strengths = self.attached.look_up(keys)
        if drop is not None:
            keys = np.where(drop, np.uint64(0), keys)
        parts = coding.item_parts(keys, self.categories[chosen], self.brands[chosen], neighbours, strengths)
        words = coding.word_parts([self.titles[item] for item in chosen])
        return _bag(parts, K_ID, self.config.item_rows), _bag(words, K_WORD, self.config.word_rows)


def _bag(parts: coding.Keys, k: int, rows: int) -> Bag:
    bags = coding.code_bags(parts, k, rows)
    return Bag(*(torch.from_numpy(a) for a in (bags.rows, bags.values, bags.starts[:-1])))


class _Group(NamedTuple):
    """One group after sampling."""

    actor: int
    history: I64  # (steps, 3): item, kind, ms
    words: U64
    items: I64
    click: F32
    purchase: F32
    labelled: npt.NDArray[np.bool_]
    known: int
    taken: I64  # everything the group took, sampled or not


class Sampler:
    """Draws batches from an example set; one generator, so that a seed gives the same batches."""

    def __init__(self, examples: ExampleSet, items: ItemArrays, sampling: Sampling, seed: int) -> None:
        self._examples = examples
        self._items = items
        self._sampling = sampling
        self._rng = np.random.default_rng(seed)
        self._stream = examples.positives()
        share = np.bincount(self._stream, minlength=len(items.keys)) / max(1, len(self._stream))
        uniform = 1 / max(1, len(items.keys))
        self._q = sampling.popular * share + (1 - sampling.popular) * uniform

    def epoch(self, start: int, end: int) -> Iterator[Batch]:
        """All groups with time in [start, end) ms: chunks in time order, groups within a chunk shuffled.

        In time order, so that an epoch ends with the newest: with chunks shuffled the later slice's AUC
        moved by .05 with the chunk that came last (Online Retail).
        """
        for chunk in self._examples.chunks():
            inside = np.flatnonzero((chunk["t"] >= start) & (chunk["t"] < end))
            self._rng.shuffle(inside)
            for at in range(0, len(inside), self._sampling.groups):
                drawn = [self._draw(chunk, int(g)) for g in inside[at : at + self._sampling.groups]]
                usable = [group for group in drawn if len(group.items)]
                if usable:
                    yield self._batch(usable)

    def _negatives(self, n: int, known: int, seen: int) -> I64:
        """n items known at the time: uniform or by popularity, with replacement."""
        rng = self._rng
        if not known:
            return np.empty(0, np.int64)
        uniform = rng.integers(0, known, n)
        if not seen:
            return uniform
        popular = self._stream[rng.integers(0, seen, n)].astype(np.int64)
        return np.where(rng.random(n) < self._sampling.popular, popular, uniform)

    def _draw(self, chunk: Arrays, g: int) -> _Group:
        s, rng = self._sampling, self._rng
        part = {
            name: chunk[name][chunk[f"{starts}_starts"][g] : chunk[f"{starts}_starts"][g + 1]]
            for name, starts in (
                ("history", "history"),
                ("items", "item"),
                ("flags", "item"),
                ("words", "word"),
            )
        }
        items, flags, words = part["items"], part["flags"], part["words"]
        known, seen = int(chunk["known"][g]), int(chunk["seen"][g])
        taken = items[flags & CLICKED > 0]
        if not len(words) and len(taken) and rng.random() < s.titles_as_queries:
            words = self._title_query(taken)
            fits = self._holds(items, words) == (flags & CLICKED > 0)
            items, flags = items[fits], flags[fits]
        shown_only = len(items) > 0 and bool((flags & SHOWN).all())
        keep = _choose(rng, flags, s)
        items, flags = items[keep], flags[keep]
        drawn = self._negatives(s.unshown if shown_only else s.negatives + s.unshown, known, seen)
        drawn = drawn[~np.isin(drawn, np.concatenate([items, taken]))]
        labelled = np.ones(len(items) + len(drawn), bool)
        unlabelled = s.unshown if not shown_only else len(drawn)
        labelled[max(len(items), len(labelled) - unlabelled) :] = False
        none = np.zeros(len(drawn), np.float32)
        return _Group(
            int(chunk["actor"][g]),
            part["history"],
            words,
            np.concatenate([items, drawn]),
            np.concatenate([(flags & CLICKED > 0).astype(np.float32), none]),
            np.concatenate([(flags & PURCHASED > 0).astype(np.float32), none]),
            labelled,
            known,
            taken,
        )

    def _title_query(self, taken: I64) -> U64:
        """One to three words of a taken item's title."""
        source = self._items.titles[int(self._rng.choice(taken))]
        return self._rng.permutation(source)[: self._rng.integers(1, 4)]

    def _holds(self, items: I64, words: U64) -> npt.NDArray[np.bool_]:
        """Whose title holds all words: a search for them is no evidence for or against the others."""
        return np.array([bool(np.isin(words, self._items.titles[int(item)]).all()) for item in items], bool)

    def _batch(self, groups: list[_Group]) -> Batch:
        s, rng = self._sampling, self._rng
        known = max(group.known for group in groups)
        shared = self._negatives(s.shared, known, len(self._stream))
        candidates = np.concatenate([group.items for group in groups])
        lengths = [len(group.items) for group in groups]
        steps = np.concatenate([group.history for group in groups])
        distinct, where = np.unique(np.concatenate([shared, candidates, steps[:, 0]]), return_inverse=True)
        drop = rng.random(len(distinct)) < s.drop_item
        items, titles = self._items.bags(distinct, drop)
        at_candidates, at_steps = len(shared), len(shared) + len(candidates)
        history_items, history = _histories(groups, where[at_steps:])
        actors = np.array([group.actor for group in groups], np.uint64)
        actors[[not len(group.history) for group in groups]] = 0  # an ID without a past says nothing
        actors[rng.random(len(actors)) < s.drop_user] = 0
        click = np.concatenate([group.click for group in groups])
        forbidden = shared[None] >= np.array([group.known for group in groups])[:, None]
        for g, group in enumerate(groups):
            forbidden[g] |= np.isin(shared, group.taken)
        arrays: list[npt.NDArray[Any]] = [
            np.repeat(np.arange(len(groups)), lengths),
            where[at_candidates:at_steps],
            click,
            np.concatenate([group.purchase for group in groups]),
            np.concatenate([group.labelled for group in groups]),
            click > 0,
            where[:at_candidates],
            np.log(self._q[shared] * s.shared + 1e-9).astype(np.float32),
            np.log(self._q[candidates] * s.shared + 1e-9).astype(np.float32),
            forbidden,
        ]
        return Batch(
            _bag(coding.user_parts(actors), K_ID, self._items.config.user_rows),
            items,
            titles,
            _bag(coding.word_parts([group.words for group in groups]), K_WORD, self._items.config.word_rows),
            torch.tensor([len(group.words) > 0 for group in groups]),
            history_items,
            history,
            *(torch.from_numpy(array) for array in arrays),
        )


def _choose(rng: np.random.Generator, flags: npt.NDArray[np.uint8], s: Sampling) -> I64:
    """Which of a group's items become rows: up to `positives` taken ones, the rest of `shown` impressions."""
    taken, others = np.flatnonzero(flags & CLICKED), np.flatnonzero((flags & CLICKED) == 0)
    if len(taken) > s.positives:
        taken = rng.choice(taken, s.positives, replace=False)
    room = max(0, s.shown - len(taken))
    if len(others) > room:
        others = rng.choice(others, room, replace=False)
    return np.sort(np.concatenate([taken, others]))


def _histories(groups: list[_Group], where: I64) -> tuple[Tensor, Histories]:
    """Padded histories behind one start step; item columns point into the batch's distinct items."""
    lengths = np.array([len(group.history) for group in groups])
    width = int(lengths.max()) + 1
    items, kinds, gaps, ages = (np.zeros((len(groups), width), np.int64) for _ in range(4))
    at = 0
    for g, group in enumerate(groups):
        n = lengths[g]
        if n:
            items[g, 1 : n + 1] = where[at : at + n]
            kinds[g, 1 : n + 1] = group.history[:, 1]
            gaps[g, 1 : n + 1] = coding.gap_buckets(group.history[:, 2])
            ages[g, 1 : n + 1] = np.arange(n, 0, -1)
        at += n
    steps = [torch.from_numpy(array) for array in (kinds, gaps, ages, lengths + 1)]
    return torch.from_numpy(items), Histories(torch.empty(0), steps[0], steps[1], steps[2], steps[3])
