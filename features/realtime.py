"""Real-time state: decayed counters of items and categories, and co-visitation lists; moved by ops and by
nothing else.

Trainer and rankers hold one each: equal ops give equal bits (`digest`). It computes no features
(`features/assembler.py` does) and knows no log. Bounded: `max_items` rows, `max_lists` lists of `neighbours`
entries; what does not fit is counted. Memory is taken as rows come into use. Its chunks are
`features/realtime_chunks.py`'s.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.covisitation_kernels import deflate
from features.keys import KeyIndex
from features.ops import IMPRESSION, Ops, OpsBuilder
from features.realtime_chunks import ITEMS_A_CHUNK, LISTS_A_CHUNK, RealtimeChunks
from features.realtime_hash_kernels import (
    BASE_TIME,
    HASH,
    LATEST,
    N_LISTS,
    NEVER,
    REFUSED_LISTS,
    SCALARS,
    content_hash,
    count_new,
)
from features.realtime_kernels import POSITION_BUCKETS, STREAMS, apply_ops
from features.shared_pages import OwnPages, Pages

__all__ = ["IMPRESSION", "WINDOWS_MS", "Ops", "OpsBuilder", "RealtimeConfig", "RealtimeState"]

MINUTE, HOUR, DAY = 60_000.0, 3_600_000.0, 86_400_000.0
WINDOWS_MS = (MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY)
"""Time constants of the counters: a count is worth 1/e after its window."""


@dataclass(frozen=True, slots=True)
class RealtimeConfig:
    """Sizes and constants of the state. Two states with other constants never meet: they are part of the
    digest.

    taus_ms: lags of co-visitation, ascending; gains: worth of impression, click, favourite, cart, purchase
    and refund in a pair (the geometric mean of both ends); backward: worth of later → earlier against earlier
    → later.
    """

    max_items: int = 2_000_000
    max_categories: int = 65_536
    max_lists: int = 250_000
    neighbours: int = 64
    taus_ms: tuple[float, ...] = (HOUR, 6 * HOUR, DAY, 7 * DAY)
    half_life_ms: float = 60 * DAY
    gains: tuple[float, ...] = (0.0, 1.0, 1.5, 2.0, 3.0, 0.0)
    backward: float = 0.5


class RealtimeState(RealtimeChunks):
    """Counters and co-visitation, driven by `apply`. Reading beside a writer needs `lock`."""

    def __init__(
        self, config: RealtimeConfig | None = None, make_pages: Callable[[], Pages] = OwnPages
    ) -> None:
        """make_pages: where the tables lie; a state over pages of another process is only read."""
        self._make_pages = make_pages
        self.config = config or RealtimeConfig()
        self.lock = threading.Lock()
        self.epoch = 0
        self._allocate()

    def _allocate(self) -> None:
        self.epoch += 1
        c, width = self.config, STREAMS * len(WINDOWS_MS)
        taus = len(c.taus_ms)
        self.windows = np.array(WINDOWS_MS)
        self.taus = np.array(c.taus_ms)
        self.gains = np.array(c.gains)
        pages = self.pages = self._make_pages()
        self.items = KeyIndex(c.max_items, pages)
        self.categories = KeyIndex(c.max_categories, pages)
        self.item_counts = pages.zeros((c.max_items, width), np.float32)
        self.item_last = pages.zeros(c.max_items, np.int64)
        self.degree = pages.zeros((c.max_items, taus), np.float32)
        self.degree_total = pages.zeros(taus, np.float64)
        self.lists = pages.zeros(c.max_items, np.int32)
        self.category_counts = pages.zeros((c.max_categories, width), np.float32)
        self.category_last = pages.zeros(c.max_categories, np.int64)
        self.list_slots = pages.zeros((c.max_lists, c.neighbours), np.int32)
        self.list_len = pages.zeros(c.max_lists, np.int32)
        self.list_weights = pages.zeros((c.max_lists, c.neighbours, taus), np.float32)
        self._owner_of = pages.zeros(c.max_lists, np.int32)
        self.totals = pages.zeros((1, width), np.float32)
        self.totals_last = pages.zeros(1, np.int64)
        self.shown = pages.zeros((2, POSITION_BUCKETS), np.float64)
        self.clicked = pages.zeros((2, POSITION_BUCKETS), np.float64)
        self.scalars = pages.zeros(SCALARS, np.int64)
        if pages.fresh:
            self.totals_last[:] = NEVER
            self.scalars[BASE_TIME] = self.scalars[LATEST] = NEVER
        self._reset_chunks()

    def empty(self) -> RealtimeState:
        """One of the same kind, without content."""
        return RealtimeState(self.config, self._make_pages)

    @property
    def latest(self) -> int | None:
        """Time (ms) of the newest op applied; None before the first."""
        t = int(self.scalars[LATEST])
        return None if t == NEVER else t

    @property
    def refused(self) -> dict[str, int]:
        """What did not fit: items and categories without counters, pairs without a list."""
        return {
            "items": self.items.refused,
            "categories": self.categories.refused,
            "lists": int(self.scalars[REFUSED_LISTS]),
        }

    def scale(self, t: int) -> float:
        """What one pair learned at t (ms) is worth in list weights, which grow with time instead of
        decaying.
        """
        base = int(self.scalars[BASE_TIME])
        return 1.0 if base == NEVER else 2.0 ** ((t - base) / self.config.half_life_ms)

    def slots(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Counter rows i32[n] of item keys u64[n]; −1 where an item has none."""
        return self.items.get_many(keys)

    def apply(self, ops: Ops) -> None:
        """Take ops in order. However they are cut into calls, the state is the same to the bit."""
        if not len(ops):
            return
        with self.lock:
            self._apply(ops)

    def _apply(self, ops: Ops) -> None:
        s = self.scalars
        if s[BASE_TIME] == NEVER:
            s[BASE_TIME] = ops.t[0]
        order, r_slots = self._intern(ops)
        category = self._intern_categories(ops.category)
        done = 0
        while done < len(ops):
            done = apply_ops(
                ops.t, ops.kind, order, category, ops.position, ops.surface, ops.recent_start, r_slots,
                ops.recent_t, ops.recent_kind, self.items.keys, self.item_counts, self.item_last,
                self.degree, self.degree_total, self.lists, self._dirty["items"], ITEMS_A_CHUNK,
                self.categories.keys, self.category_counts, self.category_last, self._dirty["categories"],
                self.totals, self.totals_last, self.shown, self.clicked, self.list_slots, self.list_len,
                self.list_weights, self._owner_of, self._dirty["lists"], LISTS_A_CHUNK, self.windows,
                self.taus, self.gains, self.config.backward, self.config.half_life_ms, s, done,
            )  # fmt: skip
            if done < len(ops):
                self._deflate(int(ops.t[done]))

    def _deflate(self, t: int) -> None:
        s = self.scalars
        while deflate(
            len(self.items),
            self.degree,
            self.degree_total,
            self.list_weights,
            self.list_len,
            s,
            self.config.half_life_ms,
            t,
        ):
            self._all_dirty = True
        s[HASH] = self._content_hash()

    def _intern(self, ops: Ops) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Rows of the ops' items and of their recents, new ones taken in the order item, then its recents."""
        n = len(ops)
        at = ops.recent_start[:-1].astype(np.int64) + np.arange(n)
        keys = np.empty(n + len(ops.recent_item), np.uint64)
        is_op = np.zeros(len(keys), bool)
        is_op[at] = True
        keys[is_op] = ops.item
        keys[~is_op] = ops.recent_item
        before = len(self.items)
        slots = self.items.intern_many(keys)
        self._count_new(before, len(self.items), self.items.keys, True)
        return slots[is_op], slots[~is_op]

    def _intern_categories(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        rows = np.full(len(keys), -1, np.int32)
        named = keys != 0
        if named.any():
            before = len(self.categories)
            rows[named] = self.categories.intern_many(keys[named])
            self._count_new(before, len(self.categories), self.categories.keys, False)
        return rows

    def _count_new(self, start: int, end: int, keys: npt.NDArray[np.uint64], is_item: bool) -> None:
        if end == start:
            return
        if is_item:
            self.lists[start:end] = -1
        (self.item_last if is_item else self.category_last)[start:end] = NEVER
        self._dirty["items" if is_item else "categories"][
            start // ITEMS_A_CHUNK : (end - 1) // ITEMS_A_CHUNK + 1
        ] = 1
        count_new(start, end, keys, 0 if is_item else 1 << 40, self.degree, is_item, self.scalars)

    def _content_hash(self) -> int:
        return int(
            np.uint64(
                content_hash(
                    len(self.items), self.items.keys, self.item_counts, self.item_last, self.degree,
                    self._owner_of, self.list_slots, self.list_len, self.list_weights,
                    int(self.scalars[N_LISTS]), len(self.categories), self.categories.keys,
                    self.category_counts, self.category_last,
                )
            ).view(np.int64)
        )  # fmt: skip

    def digest(self) -> str:
        """sha256 over constants, small tables and the carried content hash of all rows: equal for equal
        state.
        """
        h = hashlib.sha256(repr(self.config).encode())
        h.update(self._globals())
        return h.hexdigest()

    def verify(self) -> bool:
        """True where the content hash carried along equals the one computed from scratch (reads
        everything).
        """
        return self._content_hash() == int(self.scalars[HASH])

    def neighbours(self, keys: npt.NDArray[np.uint64], limit: int) -> npt.NDArray[np.uint64]:
        """Distinct keys of at most `limit` neighbours of each given item, heaviest first (longest lag)."""
        with self.lock:
            found: list[npt.NDArray[np.int32]] = []
            for slot in self.slots(keys):
                at = self.lists[slot] if slot >= 0 else -1
                if at >= 0:
                    n = self.list_len[at]
                    heaviest = np.argsort(-self.list_weights[at, :n, -1], kind="stable")[:limit]
                    found.append(self.list_slots[at, heaviest])
            if not found:
                return np.zeros(0, np.uint64)
            slots = np.concatenate(found)
            _, first = np.unique(slots, return_index=True)
            return self.items.keys[slots[np.sort(first)]]
