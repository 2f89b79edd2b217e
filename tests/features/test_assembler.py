"""z by definition: every real-time feature against a slow computation of what its name says; one column a
candidate.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from realtime_kit import SMALL, T0, Oracle, random_ops

from features import assembler_item_kernels as item_kernels
from features import assembler_kernels as kernels
from features.assembler import Assembler, RequestView, ZLayout
from features.catalogue import Catalogue
from features.events import ItemEvent
from features.keys import item_key, text_key
from features.ops import OpsBuilder
from features.realtime import WINDOWS_MS, RealtimeState
from features.realtime_hash_kernels import NEVER
from features.schema import Schema
from features.user_state import UserState

DAY = 86_400_000.0
ITEMS = [f"i{k}" for k in range(30)]
CATEGORIES = ["", "a", "b", "c"]
SCHEMA = Schema.from_dict(
    {
        "schema": 1,
        "fields": [
            {"name": "category", "scope": "item", "role": "category"},
            {"name": "price", "scope": "item", "role": "price"},
            {"name": "margin", "scope": "item", "role": "numeric", "default": 0.5, "mean": 0.25, "std": 0.5},
            {"name": "hour", "scope": "request", "role": "numeric", "mean": 12, "std": 6},
            {"name": "bm25", "scope": "candidate", "role": "numeric", "default": 1, "std": 2},
        ],
        "behaviours": {"click": ["click"]},
    }
)


def item(k: int) -> ItemEvent:
    fields = {"category": CATEGORIES[k % 4], "price": float(k)} if k % 4 else {"margin": 1.0}
    return ItemEvent(id=f"e{k}", timestamp=1, tenant="t", item=ITEMS[k], op="patch", fields=fields)


class World:
    """A catalogue, a real-time state with its oracle, and one actor's history, all random."""

    def __init__(self, seed: int = 5, n: int = 1_200) -> None:
        self.catalogue = Catalogue(SCHEMA, 1_000)
        for k in range(len(ITEMS)):
            self.catalogue.apply(item(k))
        self.keys = np.array([item_key(name) for name in ITEMS], np.uint64)
        raw = random_ops(seed, n, items=len(ITEMS))
        builder = OpsBuilder()
        self.users: dict[int, UserState] = {}
        random = np.random.default_rng(seed)
        for i in range(len(raw)):
            k = int(raw.item[i]) - 1
            kind, t = int(raw.kind[i]), int(raw.t[i])
            user = self.users.setdefault(int(random.integers(3)), UserState(9, 60))
            recents = user.recents(t)
            category = int(self.catalogue.category[k])
            builder.add(
                t, kind, int(self.keys[k]), category, int(raw.position[i]), int(raw.surface[i]), recents
            )
            if kind:
                user.append(int(self.keys[k]), kind, t)
        ops = builder.build()
        self.realtime, self.oracle = RealtimeState(SMALL), Oracle(SMALL)
        self.realtime.apply(ops)
        self.oracle.apply(ops)
        self.t = int(ops.t.max()) + 20_000
        self.layout = ZLayout(4, SCHEMA)
        self.assembler = Assembler(self.layout, SCHEMA, self.catalogue, self.realtime)

    def z(self, history: UserState | None, rows: list[int], **more: object) -> np.ndarray:
        """zT for rows, as f64."""
        request = RequestView(self.t, 0, history)
        hidden = np.zeros((len(rows), 4), np.float32)
        return self.assembler.assemble(request, np.array(rows, np.int32), hidden).astype(np.float64)

    def expected(self, history: UserState, k: int) -> dict[str, float]:
        """The rt features of item k by name."""
        return {
            **self._counters(k),
            **own_features(history, int(self.keys[k]), self.t),
            **self._own_category(history, k),
            **self._i2i(history, int(self.keys[k])),
        }

    def _counters(self, k: int) -> dict[str, float]:
        windows = ("1m", "10m", "1h", "1d", "7d", "30d")
        key, category = int(self.keys[k]), int(self.catalogue.category[k])
        c = self.oracle.counts(("item", key), self.t)
        g = self.oracle.counts(("category", category), self.t)
        total = self.oracle.counts(("all", 0), self.t)[1:].sum(axis=0)
        found: dict[str, float] = {}
        for j, w in enumerate(windows):
            for s, name in ((1, "click"), (2, "cart"), (3, "buy")):
                found[f"item.{name}.{w}"] = 0.3 * math.log1p(c[s, j])
            found[f"item.share.{w}"] = 0.5 * math.log1p(1_000 * c[1:, j].sum() / (total[j] + 10))
            if j >= 1:
                found[f"item.rate.{w}"] = 0.5 * math.log((c[1, j] + 2) / (c[0, j] + 2))
            if j >= 2:
                found[f"category.share.{w}"] = 0.5 * math.log1p(100 * g[1:, j].sum() / (total[j] + 10))
            if j >= 3:
                found[f"item.conversion.{w}"] = 0.3 * math.log((c[3, j] + 1) / (c[1, j] + 10))
            if 2 <= j <= 4:
                found[f"item.trend.{w}"] = c[1:, j].sum() / (c[1:, j + 1].sum() + 1)
            if 3 <= j <= 4:
                found[f"category.rate.{w}"] = 0.5 * math.log((g[1, j] + 10) / (g[0, j] + 10))
        return found

    def _own_category(self, history: UserState, k: int) -> dict[str, float]:
        category = int(self.catalogue.category[k])
        row_of = {int(key): row for row, key in enumerate(self.keys)}
        mine = [int(self.catalogue.category[row_of[int(key)]]) for key in history.items][::-1]
        hits = [n for n, one in enumerate(mine) if one == category and category]
        found = dict.fromkeys(("share", "count", "age.1h", "age.1d", "age.7d", "bought"), 0.0)
        if hits:
            found["share"] = sum(0.9**n for n in hits) / sum(0.9**n for n in range(len(mine)))
            found["count"] = 0.3 * math.log1p(len(hits))
            age = self.t - int(history.times[::-1][hits[0]])
            for name, tau in (("1h", DAY / 24), ("1d", DAY), ("7d", 7 * DAY)):
                found[f"age.{name}"] = math.exp(-age / tau)
            found["bought"] = float(any(history.kinds[::-1][n] == 4 for n in hits))
        return {f"own_category.{name}": value for name, value in found.items()}

    def _i2i(self, history: UserState, key: int) -> dict[str, float]:
        o, taus, names = self.oracle, len(SMALL.taus_ms), ("1h", "6h", "1d", "7d")
        recent: list[tuple[int, int]] = []
        for one, kind in zip(history.items[::-1].tolist(), history.kinds[::-1].tolist(), strict=True):
            if one not in [other for other, _ in recent]:
                recent.append((one, kind))
        base = 2.0 ** ((self.t - o.base) / SMALL.half_life_ms)
        total = sum(o.degree.values()) + 2 * base
        sums = np.zeros((5, taus))
        there = o.degree[key] + 2 * base
        for n, (one, kind) in enumerate(recent[:20]):
            w = o.lists[one].get(key)
            if w is None:
                continue
            fall = 0.85**n * math.sqrt(SMALL.gains[kind])
            here = o.degree[one] + 2 * base
            cosine = fall * w / np.sqrt(here * there)
            sums[0] += cosine * (n == 0)
            sums[1] += cosine * (n < 5)
            sums[2] += cosine
            sums[3] += fall * w / here
            sums[4] += fall * w / here * total / there
        found = {}
        for line, form in enumerate(("last1", "last5", "last20", "given20", "lift20")):
            for j, name in enumerate(names):
                scaled = 0.3 * math.log1p(sums[4, j]) if line == 4 else 0.5 * math.log1p(100 * sums[line, j])
                found[f"i2i.{form}.{name}"] = scaled
        return found


def own_features(history: UserState, key: int, t: int) -> dict[str, float]:
    """The actor's own history with one item, by name."""
    all_rows = list(zip(history.items.tolist(), history.times.tolist(), history.kinds.tolist(), strict=True))
    rows = [(time, kind) for one, time, kind in all_rows if one == key]
    names = [name.removeprefix("rt.") for name in ZLayout(0, SCHEMA).names if name.startswith("rt.own.")]
    found = dict.fromkeys(names, 0.0)
    if not rows:
        return found
    kinds = [kind for _, kind in rows]
    for code, name in enumerate(("click", "favourite", "cart", "buy", "refund"), start=1):
        found[f"own.{name}"] = float(code in kinds)
    found["own.count"] = 0.5 * math.log1p(len(rows))
    spans = {"10m": DAY / 144, "2h": DAY / 12, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "90d": 90 * DAY}
    for name, tau in spans.items():
        found[f"own.age.{name}"] = math.exp(-(t - rows[-1][0]) / tau)
    buys = [time for time, kind in rows if kind == 4]
    last_buy = max((n for n, kind in enumerate(kinds) if kind == 4), default=-1)
    opened = [time for time, kind in rows[last_buy + 1 :] if kind in (1, 2, 3)]
    if opened:
        found["own.open"] = 1.0
        for name in ("2h", "1d", "7d"):
            found[f"own.open.{name}"] = math.exp(-(t - opened[-1]) / spans[name])
    if buys:
        for name in ("10m", "1d", "7d", "30d", "90d"):
            found[f"own.bought.{name}"] = math.exp(-(t - buys[-1]) / spans[name])
        found["own.buys"] = 0.5 * math.log1p(len(buys))
        if buys[-1] > buys[0]:
            rhythm = (buys[-1] - buys[0]) / (len(buys) - 1) + DAY / 24
            found["own.due"] = math.exp(-(math.log((t - buys[-1] + DAY / 24) / rhythm) ** 2))
    order = list(dict.fromkeys(one for one, _, _ in reversed(all_rows)))
    rank = order.index(key)
    found["own.last"] = float(rank == 0)
    found["own.last_bought"] = float(rank == 0 and kinds[-1] == 4)
    found["own.rank"] = 1 / (1 + rank)
    found["own.rank_slow"] = math.exp(-rank / 20)
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_every_real_time_feature_is_what_its_name_says(world: World) -> None:
    names = [name.removeprefix("rt.") for name in world.layout.names[world.layout.block("rt")]]
    assert len(names) == len(set(names))
    silent = set(names)
    for history in world.users.values():
        block = world.z(history, list(range(len(ITEMS))))[world.layout.block("rt")]
        for k in range(len(ITEMS)):
            expected = {**world.expected(history, k), "new.share": 0.0}
            assert expected.keys() == set(names)
            for line, name in enumerate(names):
                assert block[line, k] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), (name, k)
        silent -= {name for name, line in zip(names, block, strict=True) if line.any()}
    assert silent == {"new.share"}  # the rest has been seen at work


def test_nobody_and_an_empty_history_are_the_same_and_count_as_new(world: World) -> None:
    nobody, empty = world.z(None, [1, 2]), world.z(UserState(5), [1, 2])
    np.testing.assert_array_equal(nobody, empty)
    names = list(world.layout.names)
    new = nobody[names.index("rt.new.share")]
    np.testing.assert_array_equal(new, nobody[names.index("rt.item.share.7d")])
    own = [k for k, name in enumerate(names) if name.startswith(("rt.own", "rt.i2i"))]
    assert not nobody[own].any()


def test_a_column_does_not_depend_on_the_batch(world: World) -> None:
    rows = [int(row) for row in np.random.default_rng(0).integers(-1, len(ITEMS), 203)]
    whole = world.z(world.users[1], rows)
    for j, row in enumerate(rows):
        np.testing.assert_array_equal(world.z(world.users[1], [row])[:, 0], whole[:, j])


@pytest.mark.parametrize(("n", "h"), [(0, 64), (1, 1), (63, 16), (64, 17), (65, 64), (200, 40)])
def test_hidden_vectors_are_transposed_and_rounded(n: int, h: int) -> None:
    hidden = np.random.default_rng(n).normal(0, 900, (n, h)).astype(np.float32)
    out = np.full((h, n + 5), 7.0, np.float32)
    item_kernels.fill_hidden(hidden, out, 3)
    np.testing.assert_array_equal(out[:, 3 : n + 3], np.clip(hidden, -1000, 1000).astype(np.float16).T)
    assert (out[:, :3] == 7).all()
    assert (out[:, n + 3 :] == 7).all()


def test_counters_of_a_category_are_the_same_among_many() -> None:
    random = np.random.default_rng(4)
    codes = random.integers(-1, 200, 700).astype(np.int32)
    groups = np.where(random.random(190) < 0.1, -1, random.permutation(190)).astype(np.int32)
    counts = random.gamma(1, 20, (190, 24)).astype(np.float32)
    last = np.where(random.random(190) < 0.1, NEVER, T0 - random.integers(0, 10**8, 190))
    windows = np.array(WINDOWS_MS)
    totals = kernels.totals_at(counts.sum(0), T0, T0, windows)

    def made(of: np.ndarray) -> np.ndarray:
        c, ages = np.empty((5 * kernels.W, kernels.BLOCK), np.float32), np.empty(kernels.BLOCK)
        out = np.empty((kernels.CATEGORY, len(of)), np.float32)
        kernels.fill_category_counters(T0, of, groups, counts, last, windows, totals, c, ages, out)
        return out

    together = made(codes)
    assert together.any(axis=1).all()
    for j, code in enumerate(codes):
        np.testing.assert_array_equal(made(codes[j : j + 1])[:, 0], together[:, j])
        assert code >= 0 or not together[:, j].any()


def test_values_lie_on_the_f16_grid_and_the_layout_is_fixed(world: World) -> None:
    hidden = np.random.default_rng(0).normal(0, 500, (7, 4)).astype(np.float32)
    z = world.assembler.assemble(
        RequestView(world.t, 1, world.users[0]), np.arange(7, dtype=np.int32), hidden
    )
    assert z.shape == (world.layout.d, 7)
    assert z.dtype == np.float32
    assert z.flags.c_contiguous
    np.testing.assert_array_equal(z, z.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(z[:4], np.clip(hidden, -1000, 1000).astype(np.float16).T)
    assert (z[world.layout.block("intercept")] == 1).all()
    assert not z[world.layout.block("pos")].any()


def test_unknown_rows_and_a_world_without_anything(world: World) -> None:
    z = world.z(world.users[0], [-1])
    assert np.isfinite(z).all()
    empty = Assembler(world.layout, SCHEMA, Catalogue(SCHEMA, 10), RealtimeState(SMALL))
    z = empty.assemble(RequestView(T0, 0, world.users[0]), np.array([-1, -1], np.int32))
    assert np.isfinite(z).all()
    assert empty.assemble(RequestView(T0), np.zeros(0, np.int32)).shape == (world.layout.d, 0)


def test_fields_are_standardised_with_defaults(world: World) -> None:
    request = RequestView(world.t, 0, None, {"hour": 18.0, "other": 3.0})
    rows = np.array([0, 1, -1], np.int32)
    given = np.array([[3.0], [math.nan], [5.0]], np.float32)
    z = world.assembler.assemble(request, rows, None, given)[world.layout.block("field")]
    np.testing.assert_array_equal(z, [[1.5, 0.5, 0.5], [1, 1, 1], [1.5, 0.5, 2.5]])
    bare = world.assembler.assemble(RequestView(world.t, 0, None, {"hour": math.nan}), rows)
    np.testing.assert_array_equal(bare[world.layout.block("field")][1:], [[-2, -2, -2], [0.5, 0.5, 0.5]])


def test_category_block_is_one_signed_place_each(world: World) -> None:
    z = world.z(None, list(range(len(ITEMS))))
    block = z[world.layout.block("cat")]
    for k in range(len(ITEMS)):
        category, bands = block[:16, k], block[32:, k]
        assert np.count_nonzero(category) == (1 if k % 4 else 0)
        if k % 4:
            key = text_key("category", CATEGORIES[k % 4])
            assert category[key % 16] == (1 if key & 16 else -1)
        assert bands.sum() == 1
        assert bands[0] == (0 if k % 4 else 1)
    assert not block[16:32].any()


def test_what_is_new_is_seen_at_the_next_call() -> None:
    world = World(seed=2, n=50)
    world.z(None, [0])
    world.catalogue.apply(
        ItemEvent(id="n", timestamp=1, tenant="t", item="late", op="patch", fields={"category": "z"})
    )
    row = int(world.catalogue.rows(["late"])[0])
    builder = OpsBuilder()
    builder.add(world.t, 1, item_key("late"), text_key("category", "z"))
    world.realtime.apply(builder.build())
    names = list(world.layout.names)
    z = world.z(None, [row])
    assert z[names.index("rt.item.click.1d"), 0] > 0
    assert z[names.index("rt.category.share.1d"), 0] > 0
    chunks = world.realtime.changed_chunks()
    world.realtime.restore(chunks)
    np.testing.assert_array_equal(world.z(None, [row]), z)


def test_a_catalogue_that_grows_is_followed_as_if_it_had_been_there() -> None:
    world = World(seed=3, n=200)
    for end in (31, 32, 70, 71, 500, 1_000):  # 1,000: full
        for k in range(len(world.catalogue), end):
            world.catalogue.intern(f"more-{k}")
        world.realtime.items.intern(item_key(f"more-{end + 1}"))  # counted before the catalogue knows it
        rows = np.arange(-1, end, dtype=np.int32)
        fresh = Assembler(world.layout, SCHEMA, world.catalogue, world.realtime)
        view = RequestView(world.t, history=next(iter(world.users.values())))
        assert np.array_equal(world.assembler.assemble(view, rows), fresh.assemble(view, rows))


def test_positions_are_filled_for_the_trainer(world: World) -> None:
    rows = np.ones((10, world.layout.d), np.float16)
    positions = np.array([1, 2, 3, 5, 8, 12, 20, 30, 31, 0])
    world.layout.fill_position(rows, positions, 1)
    names = [world.layout.names[k] for k in range(world.layout.d)]
    where = world.layout.block("pos")
    on = [[names[k] for k in range(where.start, where.stop) if row[k]] for row in rows]
    buckets = ["2", "3", "4-5", "6-8", "9-12", "13-20", "21-30", "31+"]
    assert on == [[], *([f"pos.search.{name}"] for name in buckets), []]


def test_layout_names_terms_and_limits() -> None:
    layout = ZLayout(64, SCHEMA)
    assert layout.d == len(layout.names) == len(set(layout.names)) <= 256
    assert layout.names[64] == "intercept"
    where = [slice_ for _, slice_ in layout.terms()]
    covered = [k for part in where for k in range(part.start, part.stop)]
    assert covered == list(range(layout.d))
    assert layout.block("rest") == slice(64, layout.d)
    assert ZLayout(64, SCHEMA).fingerprint == layout.fingerprint != ZLayout(63, SCHEMA).fingerprint
    with pytest.raises(ValueError, match="at most 256"):
        ZLayout(200, SCHEMA)
