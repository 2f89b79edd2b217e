"""The base model that ships still fits this code and still reaches the figures in its manifest.

When this fails: import the shipped data without a shift, train with the default settings, and commit the result
(docs/network.md, "The sample base"); only when format or figures changed on purpose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.coding import CODING_VERSION
from features.layout import ZLayout
from features.schema import Schema
from service.artifact import Artifact, load_artifact
from service.scorer import ItemInput, Scorer
from service.settings import Settings
from trainer.check import check_figures
from trainer.importing.online_retail import SAMPLE, read

BASE = Path("deploy/sample/base")


@pytest.fixture(scope="module")
def base(root: Path) -> Artifact:
    return load_artifact(root / BASE)


def test_it_fits_the_code(base: Artifact) -> None:
    layout = ZLayout(base.manifest.hidden, base.schema)
    base.require_layout(layout.names, layout.fingerprint)
    base.require_schema(Schema.default())
    assert base.manifest.coding == CODING_VERSION


def test_it_is_small_and_says_where_it_is_from(root: Path, base: Artifact) -> None:
    assert sum(file.stat().st_size for file in (root / BASE).iterdir()) <= 3_000_000
    origin = base.manifest.origin
    assert origin["command"] == "repl-ranker train"
    assert origin["seed"] == Settings().seed
    assert set(origin["imports"]) == {"online-retail"}
    assert any("no impressions" in note for note in base.manifest.notes)
    assert any("no queries" in note for note in base.manifest.notes)
    assert base.manifest.weak_heads == ["purchase"]


def test_the_network_adds_to_the_last_layer(base: Artifact) -> None:
    figures = base.manifest.metrics["click"]
    assert figures["gain"] > figures["gain_se"]
    assert figures["auc"] > figures["auc_without_network"]


def test_it_still_reaches_its_figures(root: Path, base: Artifact) -> None:
    stated = base.manifest.metrics["held_out"]
    found = check_figures(base, read(root / SAMPLE).events(), stated["from"], Settings())
    assert found["examples"] == stated["examples"]
    assert found["auc"] == pytest.approx(stated["auc"], abs=0.002)
    assert found["log_loss"] == pytest.approx(stated["log_loss"], abs=0.002)
    assert found["calibration"] == pytest.approx(stated["calibration"], abs=0.02)


def test_a_search_finds_what_it_names(base: Artifact) -> None:
    """Queries were simulated by words of titles: those words find their titles among others."""
    scorer = Scorer(base)
    titles = [
        "WHITE METAL LANTERN",
        "RED RETROSPOT MUG",
        "JUMBO BAG PINK",
        "HEART WICKER SMALL",
        "CAKE STAND 3 TIER",
    ]
    items = scorer.encode_items([ItemInput(f"new-{k}", title) for k, title in enumerate(titles)])
    nobody = scorer.encode_user(None, items.tower[:0], np.zeros(0, np.uint8), np.zeros(0, np.int64))
    for k, text in enumerate(["lantern", "retrospot mug", "jumbo bags", "wicker heart", "cake stands"]):
        coarse = scorer.coarse(items.coarse, items.bias, nobody, scorer.encode_query(text))
        plain = scorer.coarse(items.coarse, items.bias, nobody, None)
        assert np.argmax(coarse - plain) == k, text
