"""The rows of the label join: shown items, rankings, clicks that wait for a purchase, and the rules' numbers.

Only forms and constants; `trainer/join.py` moves them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.learner import SEEN

CLICK, BOUGHT = 1, 4  # behaviour codes: every one from CLICK to BOUGHT implies a click
JOIN_WAIT_MS = 5_000
OPEN, REJECTED, ACCEPTED = range(3)  # no label yet; learned as a negative; as a positive

SHOWN = np.dtype(
    [("item", "<u8"), ("category", "<u8"), ("ranking", "<i8"), ("position", "<i2"), ("control", "?")]
)
PENDING = np.dtype(
    [("item", "<u8"), ("category", "<u8"), ("hash", "<u8"), ("t", "<i8"), ("shown", "<i8"),
     ("offset", "<i8"), ("control", "?")]
)  # fmt: skip
LABEL_1 = np.dtype(
    [("scored", "<f8"), ("seen", SEEN), ("cut", "<i8"), ("state", "u1"), ("untaught", "?"), ("early", "?")]
)
"""What releases before thinning wrote."""

LABEL = np.dtype([*((name, LABEL_1[name]) for name in LABEL_1.names or ()), ("more", "<f8")])
"""`scored`: what a later positive takes back of a negative, P(click) times its weight; `more`: that weight, less 1."""

RANKING = np.dtype(
    [("hash", "<u8"), ("t", "<i8"), ("first", "<i8"), ("n", "<i8"), ("offset", "<i8"), ("deadline", "<i8"),
     ("actor", "<u8"), ("surface", "u1")]
)  # fmt: skip
NO_COLUMNS = np.dtype([("unused", "u1")])


@dataclass(frozen=True)
class JoinRules:
    """Windows in ms and bounds in rows (see `service/settings.py`)."""

    negative_after: int = 30_000
    click_window: int = 600_000
    purchase_wait: int = 1_800_000
    purchase_window: int = 86_400_000
    hold: int = 5_000
    capacity: int = 200_000
    clicks: int = 50_000
    at_once: bool = True  # labels that wait for a served record follow when it comes; else when its time is over


@dataclass(frozen=True)
class Shown:
    """The items of one `ranking`: keys u64[n], categories u64[n], positions i16[n], z f16[n, d].

    hash: of tenant and id; offset: place of its event (inferred: of the first that told of it); waiting: its served
    record may still come."""

    hash: int
    t: int
    offset: int
    surface: int
    items: NDArray[np.uint64]
    categories: NDArray[np.uint64]
    positions: NDArray[np.int16]
    z: NDArray[np.float16]
    actor: int = 0
    control: bool = False
    waiting: bool = False


Act = tuple[int, int, int, int]
"""Time, item key, behaviour and place of an interaction."""
