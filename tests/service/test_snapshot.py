"""What is served of a version by what is loaded: told to several processes, each chooses by its own bases."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from features.errors import StoreError
from service.item_vectors import ItemVectors
from service.snapshot import Offer, Snapshot
from service.weight_store import Beside, encode_weights

D = 3
PRIORS = {name: np.full((2, D), k, np.float64) for k, name in enumerate(("old", "new", "other"))}


def pair(base: str, value: float, *, percent: float = 0.0) -> Beside:
    return Beside(base, "", encode_weights(np.full(D, value), np.full(D, value)), int(value), 70, True, percent)


OFFER = Offer(9, (pair("new", 5), pair("old", 4, percent=30.0)), 80, 90, True, {"event/0": 3})


def served(*loaded: str, offer: Offer = OFFER) -> Snapshot:
    return offer.snapshot({name: PRIORS[name] for name in loaded}, loaded[0])


def test_a_worker_serves_what_it_has_loaded_of_the_pairs_that_it_is_told() -> None:
    both = served("old", "new")
    assert (both.base, both.weights_version, both.beside, both.beside_version) == ("new", 5, "old", 4)
    assert (both.percent, both.weights_through, both.following) == (30.0, 80, True)
    assert [float(both.weights_of(name)[0][0, 0]) for name in ("new", "old")] == [5.0, 4.0]  # type: ignore[index]
    late = served("old")
    assert (late.base, late.weights_version, late.beside, late.percent) == ("old", 4, "", 0.0)
    assert late.version == both.version
    assert (late.weights == 4.0).all(), "the old pair of the same version"
    first = served("new")
    assert (first.base, first.beside) == ("new", "")


def test_with_neither_base_the_prior_of_the_one_that_is_here_is_served() -> None:
    none = served("other")
    assert (none.base, none.weights_version, none.weights_through, none.following) == ("other", 0, None, False)
    np.testing.assert_array_equal(none.weights, PRIORS["other"])
    assert (none.version, none.counters_through) == (9, 90), "counters are no base's"
    nothing = served("old", offer=Offer())
    assert (nothing.version, nothing.base) == (0, "old")


def test_weights_of_another_shape_are_refused_by_name() -> None:
    with pytest.raises(StoreError, match=r"version 9 has weights \(2, 3\), not \(2, 4\)"):
        OFFER.snapshot({"new": np.zeros((2, D + 1))}, "new")


def test_vectors_that_their_writer_made_anew_are_told_from_those_that_are_mapped(tmp_path: Path) -> None:
    unknown = np.zeros(64, np.float32), np.zeros(32, np.float32), np.zeros((), np.float32)
    place = tmp_path / "vectors"
    ItemVectors(place, unknown)
    here = ItemVectors(place, unknown, follows=True)
    rows = here.capacity
    assert rows
    assert not here.replaced
    shutil.rmtree(place)
    assert here.replaced
    here.reserve(rows + 1)
    assert (here.capacity, float(here.tower[0, 0])) == (rows, 0.0), "what is mapped stays as it is"
    ItemVectors(place, unknown).reserve(rows + 1)
    assert here.replaced
    here.reserve(rows + 1)
    assert here.capacity == rows, "and takes nothing of the new ones"
