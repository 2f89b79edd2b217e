"""What a ranker keeps on disk and in queues: served records, the catalogue's file, title words, rows, memory."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from features.catalogue import Catalogue
from features.errors import StoreError
from features.events import ItemEvent
from features.schema import Schema
from service.catalogue_store import CatalogueStore
from service.impressions import MAX_BYTES, fitting
from service.item_encoder import content_hash, item_input
from service.memory import few_heaps, give_back
from service.metrics import Metrics
from service.testkit import ReplService
from service.title_index import TitleIndexer


def item(name: str, title: str, **more: object) -> ItemEvent:
    return ItemEvent(id=f"e-{name}-{title}", timestamp=1, item=name, fields={"title": title, **more})


@pytest.mark.parametrize(
    ("wanted", "d", "ids", "expected"),
    [
        (30, 220, ["a"] * 100, 30),
        (30, 220, ["a"] * 4, 4),
        (0, 220, ["a"], 0),
        (200, 256, ["é" * 128] * 200, 40),
    ],
)
def test_a_served_record_stays_within_its_size(wanted: int, d: int, ids: list[str], expected: int) -> None:
    count = fitting(wanted, d, ids)
    assert count == expected
    assert count * 2 * d < MAX_BYTES


def test_served_records_are_cut_to_the_setting_and_the_size(repl_service_factory) -> None:
    from features.records import ServedRecord

    shop = repl_service_factory(log_items=200)
    shop.rank([f"{k:03}" + "é" * 120 for k in range(200)], user="a" * 256, query="q" * 1_000)
    shop.settle()
    (record,) = shop.service.log.read("served", 0)
    assert len(record.body) <= MAX_BYTES
    assert 40 < len(ServedRecord.from_bytes(record.body).items) < 200
    none = repl_service_factory(log_items=0)
    none.rank(["a"])
    none.settle()
    assert none.service.log.read("served", 0) == []


def test_the_catalogue_file_keeps_chunks_offsets_and_waiting_rows(tmp_path: Path) -> None:
    store = CatalogueStore(tmp_path / "c.db", "base-a")
    assert [len(part) for part in store.load()] == [0, 0, 0]
    store.save({"rows/0": b"x", "rows/1": b"y"}, {"event/0": 7}, np.array([3, 4]))
    store.save({"rows/1": b"z"}, {"event/0": 9}, np.array([4]))
    store.close()
    chunks, offsets, waiting = CatalogueStore(tmp_path / "c.db", "base-a").load()
    assert (chunks, offsets, waiting.tolist()) == ({"rows/0": b"x", "rows/1": b"z"}, {"event/0": 9}, [4])
    assert CatalogueStore(tmp_path / "c.db", "base-b").load()[2] is None


def test_a_catalogue_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_bytes(b"not a database, and long enough to be read as one" * 50)
    with pytest.raises(StoreError, match=r"c\.db"):
        CatalogueStore(tmp_path / "c.db", "base")


def test_items_changed_under_another_base_are_encoded_again(
    repl_service: ReplService, tmp_path: Path
) -> None:
    import shutil

    shop = repl_service
    shop.events(shop.item("A", title="red lamp"), shop.item("B", title="blue mug"))
    shop.settle()
    first = shop.settings
    before = shop.rank(["A", "B"])
    other = tmp_path / "other"
    shutil.copytree(first.base_dir, other)
    manifest = other / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"untrained: for tests only", b"another"))
    shop.stop()
    shop.settings = first.model_copy(update={"base_dir": other})
    shop._start()
    assert shop.rank(["A"])["base"] != before["base"]
    shop.events(shop.item("A", title="green candle"))
    shop.settle()
    shop.stop()
    shop.settings = first
    shop._start()
    shop.settle()
    assert shop.service.running.engine.vectors.encoded == 1  # A changed meanwhile, B did not
    after = shop.rank(["A", "B"])
    scores = [dict(zip(answer["ids"], answer["scores"], strict=True)) for answer in (before, after)]
    assert scores[0]["A"] != scores[1]["A"]
    assert scores[0]["B"] == scores[1]["B"]


def test_what_the_item_tower_sees() -> None:
    schema = Schema.default()
    fields = {"title": "lamp", "category": ["a", "b"], "brand": 7, "price": 3}
    seen = item_input("i", fields, schema)
    assert seen == ("i", "lamp", "a", "7")
    assert item_input("i", {}, schema) == ("i", None, None, None)
    assert content_hash(seen) != content_hash(item_input("i", {**fields, "title": "mug"}, schema))
    assert content_hash(seen) == content_hash(item_input("i", {**fields, "price": 4}, schema))


def test_titles_are_indexed_beside_and_changes_are_followed() -> None:
    catalogue = Catalogue(Schema.default(), 2_000)
    for k in range(300):
        catalogue.apply(item(f"i{k}", f"red lamp {k}"))
    indexer = TitleIndexer(catalogue, threading.Lock())
    assert indexer.left == 300
    assert catalogue.index_titles(100) == 200
    catalogue.apply(item("i5", "blue mug"))
    catalogue.apply(item("i250", "blue mug"))
    assert catalogue.index_titles() == 0
    assert sorted(catalogue.postings("mug").tolist()) == [5, 250]
    assert len(catalogue.postings("lamp")) == 298
    catalogue.apply(item("new", "mug"))
    assert sorted(catalogue.postings("mug").tolist()) == [5, 250, 300]


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics()
    metrics.count("/v1/rank", 200, 0.001)
    text = metrics.page().decode()
    assert 'repl_http_answers_total{route="/v1/rank",status="200"} 1.0' in text
    assert "_created" not in text


def test_giving_memory_back_does_no_harm() -> None:
    few_heaps()
    give_back()
