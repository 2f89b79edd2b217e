"""Offline training end to end: what was planted is found, same seed same bytes, what it made is served."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from features.assembler import Assembler, RequestView, ZLayout
from features.catalogue import Catalogue
from features.errors import InvalidInput
from features.event_log import open_log
from features.events import Event, InteractionEvent, ItemEvent
from features.realtime import RealtimeConfig, RealtimeState
from features.records import event_record
from features.schema import Schema
from service.artifact import load_artifact
from service.last_layer import logits
from service.scorer import ItemInput, Scorer
from service.settings import Settings
from trainer.batches import Sampling
from trainer.fitting import FitOptions, auc
from trainer.offline import Training, train
from trainer.planted_generator import Planted, events


def fill(settings: Settings, stream: Iterable[Event]) -> None:
    log = open_log(settings)
    log.append("event", [event_record(event, imported=True) for event in stream])
    log.close()


def small_training(settings: Settings, epochs: int, more: int = 1) -> Path:
    log = open_log(settings)
    options = FitOptions(epochs=epochs, sampling=Sampling(shared=128))
    try:
        training = Training(
            settings,
            Schema.default(),
            log,
            lambda done, total: None,
            options=options,
            more_epochs=more,
            floor_rows=512,
        )
        return training.run(settings.data_dir / "base", {"data": "planted"})
    finally:
        log.close()


def test_the_network_finds_what_was_planted(data_dir: Path) -> None:
    """Users × words interactions that no counter holds: at least .05 AUC over the last layer without the network."""
    settings = Settings(data_dir=data_dir, purchase_window_ms=600_000)
    fill(settings, events(Planted(users=100, rankings=5_000)))
    made = load_artifact(small_training(settings, epochs=4))
    figures = made.manifest.metrics["click"]
    assert figures["auc"] >= figures["auc_without_network"] + 0.05
    assert figures["gain"] > 3 * figures["gain_se"]
    assert made.manifest.network_scale["click"] > 0
    assert made.manifest.metrics["held_out"]["auc"] > 0.58
    ratio = made.manifest.calibration["click"].ratio
    assert ratio is not None
    assert 0.9 < ratio < 1.1
    assert made.manifest.weak_heads == []


def purchases(n: int = 1_500) -> list[Event]:
    """A log with purchases only: ten tastes, a user buys within hers."""
    rng = np.random.default_rng(2)
    stream: list[Event] = [
        ItemEvent(id=f"i{k}", timestamp=1, item=f"i{k}", fields={"title": f"thing{k % 10} no{k}"})
        for k in range(200)
    ]
    for number in range(n):
        user = int(rng.integers(60))
        item = int(rng.integers(20)) * 10 + user % 10
        t = 1_000 + number * 60_000
        stream.append(
            InteractionEvent(id=f"p{number}", timestamp=t, type="purchase", item=f"i{item}", user=f"u{user}")
        )
    return stream


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base from a log with purchases only; returns its directory."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("purchases"))
    fill(settings, purchases())
    return small_training(settings, epochs=3)


def test_purchases_only_train_too(trained: Path) -> None:
    manifest = load_artifact(trained).manifest
    assert manifest.weak_heads == ["purchase"]
    assert len(manifest.notes) == 4
    assert manifest.metrics["held_out"]["auc"] > 0.7
    assert manifest.through == 1_000 + 1_499 * 60_000
    assert (trained.parent / "current").read_text().strip() == trained.name == load_artifact(trained).sha256
    for name in ("report.md", "losses.png", "figures.png"):
        assert (trained / name).stat().st_size > 500
    assert list(trained.parent.glob(".training-*")) == []


def test_what_was_trained_is_served(trained: Path) -> None:
    """Through the ranker's own parts: encode, assemble, last layer. A user's own taste comes first."""
    artifact = load_artifact(trained)
    scorer, layout = Scorer(artifact), ZLayout(artifact.manifest.hidden, artifact.schema)
    artifact.require_layout(layout.names, layout.fingerprint)
    catalogue = Catalogue(artifact.schema, 1_000)
    for event in purchases(0):
        assert isinstance(event, ItemEvent)
        catalogue.apply(event)
    assembler = Assembler(layout, artifact.schema, catalogue, RealtimeState(RealtimeConfig(max_items=1_000)))
    items = [f"i{k}" for k in range(200)]
    towers = scorer.encode_items([ItemInput(i, f"thing{k % 10} no{k}") for k, i in enumerate(items)]).tower
    rows = catalogue.rows(items)
    found = []
    for taste in range(10):
        own = np.arange(taste, 60, 10)
        user = scorer.encode_user(
            f"u{taste}", towers[own], np.full(len(own), 4, np.uint8), np.arange(len(own), dtype=np.int64)
        )
        z = assembler.assemble(RequestView(10**9), rows, scorer.hidden(towers, user, None))
        weights = np.stack([artifact.prior[head][0] for head in artifact.manifest.heads])
        score = logits(z, weights, layout.terms())
        assert np.isfinite(score).all()
        found.append(auc(score[0], np.arange(200) % 10 == taste))
    assert np.mean(found) > 0.7


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        settings = Settings(data_dir=tmp_path / name)
        settings.data_dir.mkdir()
        fill(settings, purchases(1_100))
        made.append(small_training(settings, epochs=1, more=1))
    assert made[0].name == made[1].name
    for file in made[0].iterdir():
        assert file.read_bytes() == (made[1] / file.name).read_bytes(), file.name


def test_a_log_with_too_little_says_so(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    fill(settings, purchases(50))
    with pytest.raises(InvalidInput, match="the log holds 50 interactions"):
        train(settings, data_dir / "base")


def test_tables_keep_the_size_of_the_first_training(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, table_bytes=100_000)
    fill(settings, purchases(1_100))
    first = load_artifact(small_training(settings, epochs=1, more=0)).manifest.tables
    assert sum(rows * 128 for rows in first.values()) <= 100_000
    larger = settings.model_copy(update={"table_bytes": 10_000_000})
    assert load_artifact(small_training(larger, epochs=1, more=0)).manifest.tables == first
