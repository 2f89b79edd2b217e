"""From events to groups on disk: labels, histories, what was known, negatives; memory that does not grow."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import trainer.example_groups
import trainer.examples
from features.attached import Attached
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent, ShownItem
from features.keys import actor_key, item_key
from features.schema import CLICK, PURCHASE, Schema
from trainer.attached_count import AttachedCounter
from trainer.batches import ItemArrays, Sampler, Sampling
from trainer.example_groups import CLICKED, PURCHASED, SHOWN, ExampleSet
from trainer.examples import ExampleWriter
from trainer.network import NetworkConfig
from trainer.planted_generator import Planted, events

MINUTE = 60_000


def act(
    t: int, item: str, kind: str = "purchase", user: str | None = "u", ranking: str | None = None
) -> Event:
    return InteractionEvent(
        id=f"{t}{item}{kind}", timestamp=t, type=kind, item=item, user=user, ranking=ranking
    )


def show(t: int, name: str, *items: str, user: str = "u", **fields: Any) -> Event:
    shown = tuple(ShownItem(id=item, position=k + 1) for k, item in enumerate(items))
    return RankingEvent(id=name, timestamp=t, items=shown, user=user, fields=fields)


def write(directory: Path, *stream: Event) -> ExampleSet:
    writer = ExampleWriter(
        directory,
        Schema.default(),
        max_items=1_000_000,
        click_window_ms=10 * MINUTE,
        purchase_window_ms=60 * MINUTE,
        attach_until=1 << 62,
    )
    for event in stream:
        writer.feed(event, event.timestamp)
    return writer.finish()


def groups(examples: ExampleSet) -> list[dict[str, Any]]:
    """Groups as plain values: t, history [(item, kind)], items {item: flags}, known, seen, words."""
    found = []
    for chunk in examples.chunks():
        for g in range(len(chunk["t"])):
            h, i, w = (slice(*chunk[f"{n}_starts"][g : g + 2]) for n in ("history", "item", "word"))
            found.append(
                {
                    "t": int(chunk["t"][g]),
                    "actor": int(chunk["actor"][g]),
                    "history": [(int(item), int(kind)) for item, kind, _ in chunk["history"][h]],
                    "items": dict(zip(chunk["items"][i].tolist(), chunk["flags"][i].tolist(), strict=True)),
                    "known": int(chunk["known"][g]),
                    "seen": int(chunk["seen"][g]),
                    "words": len(chunk["words"][w]),
                }
            )
    return found


def test_a_basket_is_one_group_and_not_its_own_history(tmp_path: Path) -> None:
    made = groups(write(tmp_path, act(1, "a"), act(1, "b"), act(5, "c"), act(5, "x", "refund")))
    bought = CLICKED | PURCHASED
    assert [g["items"] for g in made] == [{0: bought, 1: bought}, {2: bought}]
    assert [g["history"] for g in made] == [[], [(0, PURCHASE), (1, PURCHASE)]]
    assert [(g["known"], g["seen"]) for g in made] == [(1, 0), (3, 2)]
    assert made[0]["actor"] == actor_key("u", None)


def test_impressions_take_the_labels_that_join_them(tmp_path: Path) -> None:
    made = groups(
        write(
            tmp_path,
            act(1, "a", "click"),
            show(MINUTE, "r", "a", "b", "c", "d", query="red lanterns"),
            act(2 * MINUTE, "b", "click", ranking="r"),
            act(3 * MINUTE, "b", ranking="r"),
            act(4 * MINUTE, "z", "click", ranking="r"),  # was not shown there
            act(20 * MINUTE, "c", "click", ranking="r"),  # too late for a click
            act(200 * MINUTE, "d", ranking="gone"),
        )
    )
    shown = next(g for g in made if g["t"] == MINUTE)
    assert shown["items"] == {0: SHOWN, 1: SHOWN | CLICKED | PURCHASED, 2: SHOWN, 3: SHOWN}
    assert shown["history"] == [(0, CLICK)]
    assert shown["words"] == 2
    assert [g["t"] for g in made if g["t"] != MINUTE] == [1, 4 * MINUTE, 200 * MINUTE]


def test_items_carry_what_the_tower_reads(tmp_path: Path) -> None:
    fields = {"title": "Red lantern", "category": ["lamps", "x"], "brand": "acme"}
    patch = ItemEvent(id="2", timestamp=1, item="a", fields={"brand": None, "category": "cups"})
    book = write(tmp_path, ItemEvent(id="1", timestamp=0, item="a", fields=fields), patch, act(3, "a")).book
    assert book.keys == [item_key("a")]
    assert len(book.titles[0]) == 2
    assert book.brands == [0]
    assert book.categories[0] != 0


def test_only_so_many_items(tmp_path: Path) -> None:
    writer = ExampleWriter(
        tmp_path, Schema.default(), max_items=2, click_window_ms=1, purchase_window_ms=1, attach_until=0
    )
    for k in range(5):
        writer.feed(act(k, f"i{k}"), k)
    assert len(writer.finish().book) == 2


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # threads of other tests take memory, too
        short, long = (alone.submit(_peak, tmp_path / str(n), n).result(120) for n in (600, 2_400))
    assert long < 1.25 * short


def _peak(place: Path, rankings: int) -> int:
    """Bytes at the most while a shop's log is written with small buffers, in a process of its own."""
    trainer.example_groups.CHUNK = trainer.examples.MAX_PENDING = 64
    shop = Planted(users=20, items=100, rankings=rankings)
    tracemalloc.start()
    _stream(place, shop)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _stream(directory: Path, shop: Planted) -> None:
    writer = ExampleWriter(
        directory,
        Schema.default(),
        max_items=1_000,
        click_window_ms=1,
        purchase_window_ms=1,
        attach_until=1 << 62,
    )
    for event in events(shop):
        writer.feed(event, event.timestamp)
    writer.finish()


def test_negatives_were_known_then_and_not_taken(tmp_path: Path) -> None:
    stream = [act(t, f"i{t % 37 if t < 500 else t - 400}", user=f"u{t % 5}") for t in range(800)]
    examples = write(tmp_path, *stream)
    config = NetworkConfig(64, 64, 64)
    items = ItemArrays(examples.book, Attached.empty(), config)
    sampler = Sampler(examples, items, Sampling(groups=32, shared=200, negatives=20), seed=1)
    early = list(sampler.epoch(0, 100))
    assert sum(len(batch.searched) for batch in early) == 100
    for batch in early:
        negatives = batch.candidates[~batch.taken]
        assert len(negatives) > 0
        assert batch.forbidden.any(dim=1).all()  # the 300 items that came later
        assert batch.forbidden.shape == (len(batch.searched), 200)
        assert (batch.click[~batch.taken] == 0).all()
        assert int(batch.labelled.sum()) < len(batch.labelled)


def test_same_seed_same_batches(tmp_path: Path) -> None:
    examples = write(tmp_path, *events(Planted(users=10, items=50, rankings=60)))
    items = ItemArrays(examples.book, Attached.empty(), NetworkConfig(64, 64, 64))
    runs = []
    for seed in (3, 3, 4):
        batches = list(
            Sampler(examples, items, Sampling(groups=16, titles_as_queries=0.5), seed).epoch(0, 1 << 62)
        )
        runs.append([batch.candidates.tolist() for batch in batches])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_attached_table_holds_the_strongest_pairs() -> None:
    counter = AttachedCounter()
    rng = np.random.default_rng(0)
    for _ in range(300):
        pair = 2 * int(rng.integers(20))
        counter.add([pair, pair + 1, int(rng.integers(40, 4_000))], [])
    keys = np.arange(100, 4_100, dtype=np.uint64)[::-1].copy()
    table = counter.table(keys)
    neighbours, strengths = table.look_up(keys[:40])
    assert neighbours[:, 0].tolist() == [int(keys[k ^ 1]) for k in range(40)]
    assert (strengths[:, 0] > 0.8).all()
    assert (np.diff(strengths, axis=1) <= 0).all()
