"""Inputs made for a ranking that is not ours are those that serving had for the same request (invariant 2)."""

from __future__ import annotations

import time
from contextlib import closing

import numpy as np

from features.event_log import open_log
from features.realtime import RealtimeConfig
from features.records import ServedRecord
from service.artifact import load_artifact
from service.testkit import BASE, MAX_ITEMS, ReplService
from service.weight_store import open_weight_store
from trainer.online import OnlineTrainer

SMALL = RealtimeConfig(max_items=MAX_ITEMS, max_categories=4_096, max_lists=MAX_ITEMS)


def test_a_foreign_ranking_gets_the_inputs_that_serving_had(repl_service: ReplService) -> None:
    """To the bit, with a query and without, for a known actor and for a new one; the items in another order."""
    shop = repl_service
    items = [f"i{k}" for k in range(24)]
    shop.events(*(shop.item(i, title=f"red lamp {i}", category=f"c{k % 5}", price=k + 0.5)
                  for k, i in enumerate(items)))  # fmt: skip
    shop.events(*(shop.click("anna", f"i{k}", ("click", "cart", "purchase")[k % 3]) for k in range(12)),
                *(shop.click("bert", f"i{k}") for k in range(6, 18)))  # fmt: skip
    with (
        closing(open_log(shop.settings.data_dir, shop.clock)) as log,
        closing(open_weight_store(shop.settings.data_dir)) as store,
    ):
        trainer = OnlineTrainer(log, store, load_artifact(BASE), shop.settings, clock=shop.clock, realtime=SMALL)
        trainer.start()
        for _ in range(40):
            shop.clock.advance(200)
            trainer.tick()
        shop.events(shop.click("anna", "i20"))  # in her state, still held from the counters
        shop.clock.advance(200)
        trainer.tick()
        shop.settle()
        deadline = time.monotonic() + 5.0
        while shop.service.running.replica.snapshot.version < trainer.core.v:
            assert time.monotonic() < deadline, "the ranker follows"
            time.sleep(0.005)
        requests = [{"user": "anna"}, {"user": "anna", "query": "red lamp"}, {"session": "new", "query": "lamp"}, {}]
        for k, asked in enumerate(requests):
            query = {"query": asked["query"]} if "query" in asked else {}
            answer = shop.rank([*items, "never seen"], **asked)
            shop.settle()
            served = next(
                record for one in log.read("served", 0)
                if (record := ServedRecord.from_bytes(one.body)).request_id == answer["request_id"]
            )  # fmt: skip
            order = list(reversed(served.items))
            shop.events({"event": "ranking", "id": f"theirs-{k}", "fields": query,
                         "items": [{"id": item, "position": p + 1} for p, item in enumerate(order)],
                         **{name: who for name, who in asked.items() if name != "query"}})  # fmt: skip
            shown = trainer.core.learning.join.shown
            first = shown.next
            trainer.tick()
            made = shown.z[first : shown.next]
            expected = served.z_rows()[::-1].copy()
            positions = np.arange(1, len(order) + 1, dtype=np.int16)
            trainer.core.arrivals.reconstruct.assembler.fill_position(expected, positions, served.surface)
            names = np.array(shop.names)
            differing = names[(made != expected).any(axis=0)].tolist() if len(made) == len(expected) else "rows"
            assert made.tobytes() == expected.tobytes(), f"{asked}: {differing}"
        assert (expected[:, [n.startswith("rt.item") for n in shop.names]] != 0).any()
