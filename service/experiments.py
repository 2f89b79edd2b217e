"""Which experiment a request is in, which arm of it, and what that arm does: a pure function of who asks, and when.

Experiments are tried in the order of the settings; the first whose hash takes the actor has her. The control share
(`service/arms.py`) goes before: it is in no experiment. It ranks nothing and reads no store.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from features.keys import actor_key, text_key
from service.experiment_settings import ArmSettings, Does, ExperimentSettings
from service.objectives import order

Mode = Literal["rank", "passthrough"]
Places = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


class Play(NamedTuple):
    """How a request is answered: assignment by experiment, and what is done. `does` noop: in the order sent."""

    mode: Mode = "rank"
    experiments: Mapping[str, str] = {}
    does: Does = "live"
    version: int | None = None
    top: int | None = None

    @property
    def keeps_order(self) -> bool:
        """Whether candidates are answered in the order they came."""
        return self.does == "noop"


LIVE = Play()
PASSTHROUGH = Play("passthrough", does="noop")


def unit_key(user: str | None, session: str | None, request_id: str) -> int:
    """Who is assigned, and the unit that reports count by: the user, else the session, else the request alone."""
    return actor_key(user, session) or text_key("request", request_id)


def salted(salt: str) -> bytes:
    """What is hashed before the 8 bytes of a unit's key."""
    return f"experiment\0{salt}\0".encode()


def place_of(prefix: bytes, key: int) -> float:
    """The place of a unit in [0, 1) under a salt."""
    return xxh3_64_intdigest(prefix + key.to_bytes(8, "little")) / 2**64


class _Experiment:
    """One experiment, ready to assign."""

    def __init__(self, name: str, settings: ExperimentSettings) -> None:
        self.name, self.surface = name, settings.surface
        self.start, self.end = settings.period()
        self.prefix = salted(settings.salt or name)
        self.bounds = bounds_of(settings)
        self.plays = [_play(name, arm, does) for arm, does in settings.arms.items()]
        self.versions = frozenset(arm.version for arm in settings.arms.values() if arm.version is not None)

    def arm(self, key: int) -> int | None:
        """The arm of a unit; None: not in it."""
        at = bisect_right(self.bounds, place_of(self.prefix, key))
        return at if at < len(self.bounds) else None


def bounds_of(settings: ExperimentSettings) -> list[float]:
    """Where each arm's part of [0, 1) ends, in their order; exactly 1 where they take all traffic."""
    ends: list[float] = np.cumsum([arm.share for arm in settings.arms.values()]).tolist()
    return [*ends[:-1], 1.0 if abs(ends[-1] - 1) < 1e-9 else ends[-1]]


def _play(name: str, arm: str, settings: ArmSettings) -> Play:
    return Play("rank", {name: arm}, settings.does, settings.version, settings.top)


class Experiments:
    """Those of the settings, in their order."""

    def __init__(self, settings: Mapping[str, ExperimentSettings]) -> None:
        self._all = [_Experiment(name, one) for name, one in settings.items()]
        self.versions = frozenset[int]().union(*(one.versions for one in self._all))

    def __len__(self) -> int:
        return len(self._all)

    def play(self, key: int, t: int, surface: int, have: Mapping[int, object]) -> Play:
        """What is done for a unit at time t (ms). `have`: the versions whose weights are here; an experiment that
        misses one is off as a whole, so that its arms stay comparable: it assigns nobody, and nobody else takes hers.
        """
        for one in self._all:
            if (one.surface is not None and one.surface != surface) or not one.start <= t < one.end:
                continue
            at = one.arm(key)
            if at is not None:
                return one.plays[at] if one.versions <= have.keys() else LIVE
        return LIVE

    def off(self, have: Mapping[int, object]) -> dict[str, bool]:
        """By experiment: is it off, for want of a version?"""
        return {one.name: not one.versions <= have.keys() for one in self._all}


def shuffled(keys: F32, play: Play, request_id: str, whole: int) -> tuple[Places, F32]:
    """Places in the order of an arm `shuffle`, and the propensity of what stands at each: f32, by place.

    The best `play.top` (else `whole`) of the ranking are put into an order drawn by the request's id, each of m! with
    the same chance: any of them stands at a given place with chance 1/m. The rest follow as ranked, with chance 1.
    """
    places = order(keys)
    m = min(play.top or whole, len(places))
    draw = np.random.Generator(np.random.PCG64(text_key("shuffle", request_id)))
    places[:m] = draw.permutation(places[:m])
    chances = np.ones(len(places), np.float32)
    chances[:m] = 1.0 / max(m, 1)
    return places, chances


def arms_of(prefix: bytes, bounds: Sequence[float], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The arm of many units (−1: none), as `play` assigns each; for reports. The prefix has 100 bytes at most."""
    from features.xxh3_kernels import hash_texts

    hashes = np.empty(len(keys), np.uint64)
    start = 8 * np.arange(len(keys), dtype=np.int32)
    size = np.full(len(keys), 8, np.int32)
    data = np.ascontiguousarray(keys, "<u8").view(np.uint8)
    hash_texts(np.frombuffer(prefix, np.uint8), data, start, size, hashes)
    places = hashes.astype(np.float64) / 2**64
    found = np.searchsorted(np.asarray(bounds), places, side="right")
    return np.where(found < len(bounds), found, -1)
