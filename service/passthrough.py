"""The switch `mode: passthrough`, by surface: flags of the weight store, which every ranker polls. It answers nothing.

Neither trainer nor log is asked, so that it works while both are down.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.experiments import Mode
from service.weight_store import WeightStore

SURFACES = {0: "recommendation", 1: "search"}
_ON = "passthrough"


def _flag(surface: int) -> str:
    return f"mode/{surface}"


def surfaces_of(flags: Mapping[str, str]) -> frozenset[int]:
    """The surfaces that are switched to passthrough; whatever else a flag says means `rank`."""
    return frozenset(surface for surface in SURFACES if flags.get(_flag(surface)) == _ON)


def modes(switched: frozenset[int]) -> dict[str, Mode]:
    """The mode of each surface, by its name."""
    return {name: "passthrough" if surface in switched else "rank" for surface, name in SURFACES.items()}


def switch(store: WeightStore, mode: Mode, surface: int | None) -> dict[str, Mode]:
    """Switch one surface (None: all) in one write; returns the modes that now stand. Raises StoreError."""
    wanted = list(SURFACES) if surface is None else [surface]
    store.set_flags({_flag(one): _ON if mode == _ON else None for one in wanted})
    return modes(surfaces_of(store.flags()))
