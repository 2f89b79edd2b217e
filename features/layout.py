"""Names and places of the inputs of the last layer (z): docs/formats.md §4. It computes none of them."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from features.realtime_kernels import POSITION_BUCKETS, position_bucket
from features.schema import Schema

WINDOW_NAMES = ("1m", "10m", "1h", "1d", "7d", "30d")
TAU_NAMES = ("1h", "6h", "1d", "7d")
CATEGORY_BUCKETS, BRAND_BUCKETS, PRICE_BANDS = 16, 16, 8
POSITION_NAMES = ("2", "3", "4-5", "6-8", "9-12", "13-20", "21-30", "31+")
SURFACE_NAMES = ("recommendation", "search")
MAX_D = 256


def item_names() -> list[str]:
    """Counters of the candidate: logs of counts, share of all traffic, clicks over expected clicks,
    trends.
    """
    names = [f"item.{stream}.{w}" for stream in ("click", "cart", "buy") for w in WINDOW_NAMES]
    names += [f"item.share.{w}" for w in WINDOW_NAMES]
    names += [f"item.rate.{w}" for w in WINDOW_NAMES[1:]]
    names += [f"item.conversion.{w}" for w in WINDOW_NAMES[3:]]
    return [*names, "item.trend.1h", "item.trend.1d", "item.trend.7d"]


def category_names() -> list[str]:
    """Counters of the candidate's category."""
    return [*(f"category.share.{w}" for w in WINDOW_NAMES[2:]), "category.rate.1d", "category.rate.7d"]


def own_names() -> list[str]:
    """The actor's own history with the candidate."""
    names = [f"own.{kind}" for kind in ("click", "favourite", "cart", "buy", "refund")]
    names += ["own.count", *(f"own.age.{w}" for w in ("10m", "2h", "1d", "7d", "30d", "90d"))]
    names += ["own.open", *(f"own.open.{w}" for w in ("2h", "1d", "7d"))]
    names += [f"own.bought.{w}" for w in ("10m", "1d", "7d", "30d", "90d")]
    return [*names, "own.buys", "own.due", "own.last", "own.last_bought", "own.rank", "own.rank_slow"]


def own_category_names() -> list[str]:
    """The actor's own history with the candidate's category."""
    names = ["own_category.share", "own_category.count"]
    return [*names, *(f"own_category.age.{w}" for w in ("1h", "1d", "7d")), "own_category.bought"]


def i2i_names() -> list[str]:
    """Co-visitation with the actor's last 1, 5 and 20 items."""
    names = [f"i2i.last{depth}.{tau}" for depth in (1, 5, 20) for tau in TAU_NAMES]
    return names + [f"i2i.{form}20.{tau}" for form in ("given", "lift") for tau in TAU_NAMES]


RT_NAMES = tuple(
    f"rt.{name}"
    for name in (
        *item_names(),
        *category_names(),
        *own_names(),
        *own_category_names(),
        *i2i_names(),
        "new.share",
    )
)


class ZLayout:
    """Order of z's dimensions for a number of hidden dimensions and a schema.

    Blocks: hidden, intercept, rt, field, pos, cat. `rest` is all but hidden. At most MAX_D dimensions:
    ValueError.
    """

    def __init__(self, hidden: int, schema: Schema) -> None:
        fields = [f"field.{field.name}" for field in schema.numeric]
        price = ["cat.price.none", *(f"cat.price.{k}" for k in range(1, PRICE_BANDS))]
        blocks = {
            "hidden": [f"hidden.{k}" for k in range(hidden)],
            "intercept": ["intercept"],
            "rt": list(RT_NAMES),
            "field": fields,
            "pos": [f"pos.{side}.{place}" for side in SURFACE_NAMES for place in POSITION_NAMES],
            "cat": [f"cat.category.{k}" for k in range(CATEGORY_BUCKETS)]
            + [f"cat.brand.{k}" for k in range(BRAND_BUCKETS)]
            + price,
        }
        self.hidden = hidden
        self.names: tuple[str, ...] = tuple(name for names in blocks.values() for name in names)
        self.d = len(self.names)
        if self.d > MAX_D:
            raise ValueError(f"z has {self.d} dimensions, at most {MAX_D} are possible: fewer numeric fields")
        self._blocks: dict[str, slice] = {}
        at = 0
        for name, names in blocks.items():
            self._blocks[name] = slice(at, at + len(names))
            at += len(names)
        self._blocks["rest"] = slice(hidden, self.d)
        self.fingerprint = hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def block(self, name: str) -> slice:
        """Where a block stands: hidden, intercept, rt, field, pos, cat, rest."""
        return self._blocks[name]

    def terms(self) -> list[tuple[str, slice]]:
        """(name, slice) of every term of the logit in listed order; rt and field dimensions stand alone."""
        found = []
        for name in ("hidden", "intercept", "rt", "field", "pos", "cat"):
            where = self._blocks[name]
            if name in ("rt", "field"):
                found += [(self.names[k], slice(k, k + 1)) for k in range(where.start, where.stop)]
            elif where.stop > where.start:
                found.append((name, where))
        return found

    def fill_position(
        self, z_rows: npt.NDArray[np.floating], positions: npt.NDArray[np.integer], surface: int
    ) -> None:
        """Write the position × surface block of rows (n, d) in place: positions i[n], 1 = first, 0 unknown.

        Position 1 is the reference: all zero, which is also what serving scores.
        """
        where = self._blocks["pos"]
        z_rows[:, where] = 0
        start = where.start + min(surface, 1) * (POSITION_BUCKETS - 1)
        for row, position in enumerate(positions):
            bucket = position_bucket(int(position))
            if bucket:
                z_rows[row, start + bucket - 1] = 1
