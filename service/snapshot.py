"""What is served of a version: which of its pairs, by the bases that are loaded here. It reads no store.

A version offers a pair (a base with its weights) and often one beside it; a ranker, and each of several workers, serves
what it has loaded of that. So an offer can be told to another process as it is, whatever that one has loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import StoreError
from service.weight_store import HEADS, Beside, Version, decode_weights

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is served: weights f64 (2, d) and how far each state goes (ms; None before there is one).

    `following`: the weights are the newest (neither pinned nor held by the gate), so that they are trained as far as
    the trainer has come, even where there was nothing to learn.
    """

    version: int
    weights_version: int
    weights: Weights
    weights_through: int | None
    counters_through: int | None
    following: bool = False
    offsets: Mapping[str, int] = field(default_factory=dict)
    base: str = ""  # that the weights are of
    beside: str = ""  # another base that is loaded here, which answers `percent` of the users
    beside_weights: Weights | None = None
    beside_version: int = 0
    percent: float = 0.0

    def weights_of(self, base: str) -> tuple[Weights | None, int]:
        """(weights, their version) of a base; (None, 0) where there are none."""
        if base == self.base:
            return self.weights, self.weights_version
        return (self.beside_weights, self.beside_version) if base == self.beside else (None, 0)


class Offer(msgspec.Struct, frozen=True):
    """What there is to serve. `pairs`: the version's own, then the one beside it where that has weights; the other
    fields are those of `Snapshot`."""

    version: int = 0
    pairs: tuple[Beside, ...] = ()
    weights_through: int | None = None
    counters_through: int | None = None
    following: bool = False
    offsets: Mapping[str, int] = {}

    def to_serve(self, loaded: Mapping[str, Weights]) -> Beside | None:
        """The version's own pair where its base is loaded; until then the one beside it, which is kept up to date too.

        loaded: priors (2, d) by base."""
        return next((pair for pair in self.pairs if pair.base in loaded), None)

    def snapshot(self, loaded: Mapping[str, Weights], home: str) -> Snapshot:
        """What is served where these bases are loaded: the prior of `home` where all pairs are of others.

        Raises StoreError for weights of another shape than the prior of their base, ValueError for what is none."""
        pair = self.to_serve(loaded)
        others = [one for one in self.pairs[1:] if pair is self.pairs[0] and one.base in loaded]
        other = others[0] if others else None
        return Snapshot(
            version=self.version,
            weights_version=0 if pair is None else pair.weights_version,
            weights=loaded[home] if pair is None else self._weights(pair, loaded),
            weights_through=None if pair is None else self.weights_through,
            counters_through=self.counters_through,
            following=self.following and pair is not None,
            offsets=self.offsets,
            base=home if pair is None else pair.base,
            beside="" if other is None else other.base,
            beside_weights=None if other is None else self._weights(other, loaded),
            beside_version=0 if other is None else other.weights_version,
            percent=0.0 if other is None else other.percent,
        )

    def _weights(self, pair: Beside, loaded: Mapping[str, Weights]) -> Weights:
        weights = stack(decode_weights(pair.weights))
        if weights.shape != loaded[pair.base].shape:
            raise StoreError(f"version {self.version} has weights {weights.shape}, not {loaded[pair.base].shape}")
        return weights


def stack(vectors: Mapping[str, Weights]) -> Weights:
    """Weights of both heads as one f64 (2, d)."""
    return np.ascontiguousarray(np.stack([vectors[head] for head in HEADS]), np.float64)


def pairs_of(version: Version) -> tuple[Beside, ...]:
    """The pairs of a version, for an offer."""
    own = Beside(version.base, version.url, version.weights, version.weights_version, version.watermark, True)
    beside = version.beside
    return (own,) if beside is None or not beside.weights else (own, beside)


def named_bases(*versions: Version) -> dict[str, str]:
    """sha256 → url of all bases that versions speak of."""
    found: dict[str, str] = {}
    for version in versions:
        found.setdefault(version.base, version.url)
        if version.beside is not None:
            found.setdefault(version.beside.base, version.beside.url)
    return found
