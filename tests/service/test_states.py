"""The three states of a ranker, its neighbours' failures, and the equality of serving and learning inputs."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from features.assembler import RequestView
from features.keys import actor_key, item_key
from features.ops import OpsBuilder
from features.realtime import RealtimeState
from features.records import ServedRecord
from service.last_layer import logits, sigmoid
from service.replica import REALTIME
from service.testkit import ReplService
from service.user_vectors import history_of
from service.weight_store import Checkpoint, CheckpointWrite, Version, chunk_sha, encode_weights


def stocked(shop: ReplService, n: int = 60) -> list[str]:
    shop.events(
        *(shop.item(f"i{k}", title=f"red lamp {k}", category=f"c{k % 5}", price=k + 0.5) for k in range(n)),
        *(shop.click("anna", f"i{k}", ("click", "cart", "purchase")[k % 3]) for k in range(12)),
    )
    shop.settle()
    return [f"i{k}" for k in range(n)]


def until(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - began


def served(shop: ReplService, request_id: str) -> ServedRecord:
    shop.settle()
    records = [ServedRecord.from_bytes(r.body) for r in shop.service.log.read("served", 0)]
    return next(record for record in records if record.request_id == request_id)


# no skew: invariant 2


def test_the_logged_inputs_give_the_served_probabilities_to_the_bit(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    v = shop.publish(click={"rt.own.click": 0.7}, purchase={"rt.own.cart": 0.3})
    answer = shop.rank([*names, "never seen"], user="anna", query="lamp", objective="revenue")
    record = served(shop, answer["request_id"])
    assert (record.version, record.arm, record.surface, record.query) == (v, "live", 1, "lamp")
    assert record.items == answer["ids"][:30]
    vectors = shop.service.store.get(v).vectors()
    weights = np.stack([vectors["click"], vectors["purchase"]])
    z = record.z_rows().astype(np.float32).T
    raw = logits(z, weights, shop.service.running.engine.terms)
    chances = sigmoid(raw).astype(np.float32)
    assert chances[0].tolist() == np.array(answer["click"][:30], np.float32).tolist()
    assert chances[1].tolist() == np.array(answer["purchase"][:30], np.float32).tolist()
    assert record.score_row().tolist() == np.array(answer["scores"][:30], np.float32).tolist()
    explained = shop.rank(
        [*names, "never seen"], user="anna", query="lamp", objective="revenue", explain=True
    )
    assert [part["logit"] for part in explained["explain"][:30]] == raw[0].tolist()


def test_assembling_by_hand_gives_the_served_inputs(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    answer = shop.rank(names, user="anna")
    record = served(shop, answer["request_id"])
    engine = shop.service.running.engine
    state = engine.users.get(actor_key("anna", None))
    history = history_of(engine.catalogue, engine.vectors, state)
    user = engine.scorer.encode_user("anna", history.towers, history.kinds, history.times)
    rows = engine.catalogue.rows(record.items)
    hidden = engine.scorer.hidden(engine.vectors.tower[rows], user, None)
    view = RequestView(t=record.t, surface=0, history=state, fields={})
    z = engine.assembler.assemble(view, rows, hidden)
    assert z.astype(np.float16).T.tobytes() == record.z
    assert record.hidden == hidden.shape[1]
    assert record.user_state == {"event/0": state.offset}


# user state: at once


def test_own_click_counts_in_the_next_request(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    shop.publish(click={"rt.own.click": 5.0})
    before = shop.rank(names, user="bert")
    last = before["ids"][-1]
    token = shop.events(shop.click("bert", last))["token"]
    began = time.monotonic()
    after = shop.rank(names, user="bert", after=token)
    assert after["stale"] is False
    assert after["ids"][0] == last
    assert time.monotonic() - began < 0.5


def test_a_click_on_an_item_for_which_there_is_no_vector_yet(repl_service: ReplService) -> None:
    """Not even a place for one: the encoder has not seen the catalogue since it grew."""
    shop = repl_service
    engine = shop.service.running.engine
    shop.service.running.encoder.stop()
    with engine.lock:
        for k in range(engine.vectors.capacity):
            engine.catalogue.intern(f"i{k}")
    shop.events(shop.click("anna", "i0"))
    first = shop.rank(["i0", "new"], user="anna", after=shop.events(shop.click("anna", "new"))["token"])
    assert engine.catalogue.rows(["new"])[0] == engine.vectors.capacity
    assert sorted(first["ids"]) == ["i0", "new"]
    assert shop.call("POST", "/v1/embeddings", {"users": ["anna"], "items": ["new"]})[0] == 200
    assert "new" in shop.retrieve(user="anna", top_k=5_000)["ids"]


def test_a_full_disk_leaves_new_items_without_vectors_and_ranks_on(
    repl_service: ReplService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shop = repl_service
    names = stocked(shop)
    engine, encoder = shop.service.running.engine, shop.service.running.encoder
    monkeypatch.setattr("os.posix_fallocate", full)
    before = engine.vectors.capacity
    with engine.lock:
        for k in range(before):
            engine.catalogue.intern(f"new-{k}")
    shop.events(shop.item("last", title="red lamp"))
    until(lambda: 'failures_total{part="encoder"}' in shop.call("GET", "/metrics")[1])
    assert len(shop.rank([*names, "last"], user="anna")["ids"]) == len(names) + 1
    status, answer = shop.call("POST", "/v1/retrieve", {"user": "anna"})
    assert (status, answer["error"]["code"]) == (503, "store")
    assert (engine.vectors.capacity, encoder.waiting) == (before, before + 1)
    monkeypatch.undo()
    until(lambda: not encoder.waiting, 20.0)
    assert engine.vectors.capacity > before
    assert "last" in shop.retrieve(user="anna", query="lamp")["ids"]


def test_a_deleted_user_is_forgotten(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    nobody = shop.rank(names, user="bert")
    known = shop.rank(names, user="anna")
    shop.events({"event": "user", "user": "anna", "op": "delete"})
    shop.settle()
    until(lambda: [r.kind for r in shop.service.log.read("event", 0) if r.key == "anna"] == ["user"])
    again = shop.rank(names, user="anna")
    assert again["scores"] != known["scores"]
    assert shop.call("POST", "/v1/embeddings", {"users": ["anna"]})[1]["users"]["known"] == [False]
    assert sorted(again["ids"]) == sorted(nobody["ids"])


def test_appends_of_another_process_are_seen(repl_service: ReplService) -> None:
    from features.event_log import open_log
    from features.event_parser import parse_event
    from features.records import event_record

    shop = repl_service
    names = stocked(shop)
    before = shop.rank(names, user="carl")["scores"]
    other = open_log(shop.settings.data_dir, shop.clock)
    event = {"id": "x", "timestamp": shop.clock.now, **shop.click("carl", "i3")}
    other.append("event", [event_record(parse_event(event))])
    other.close()
    assert until(lambda: shop.rank(names, user="carl")["scores"] != before) < 1.0


# catalogue


def test_new_items_are_encoded_and_gone_ones_leave(repl_service: ReplService) -> None:
    shop = repl_service
    stocked(shop)
    engine = shop.service.running.engine
    unknown = engine.vectors.unknown[0]
    shop.events(shop.item("new", title="green candle"))

    def encoded() -> bool:
        row = int(engine.catalogue.rows(["new"])[0])
        return row >= 0 and not np.array_equal(engine.vectors.tower[row], unknown)

    assert until(encoded) < 2.0
    shop.events({"event": "item", "item": "new", "available": False})
    assert until(lambda: shop.rank(["new", "i1"])["ids"] == ["i1"]) < 1.0
    shop.events({"event": "item", "item": "new", "available": True})
    assert until(lambda: len(shop.rank(["new", "i1"])["ids"]) == 2) < 1.0
    shop.events({"event": "item", "item": "i1", "op": "delete"})
    assert until(lambda: "i1" not in shop.retrieve(top_k=100)["ids"]) < 1.0


def test_a_restart_encodes_nothing_again(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    before = shop.rank(names, user="anna")
    shop.restart()
    assert shop.service.running.engine.vectors.encoded == 0
    shop.settle()
    assert shop.service.running.engine.vectors.encoded == 0
    assert shop.rank(names, user="anna")["scores"] == before["scores"]


# counters and weights: followed from the store


def version(shop: ReplService, v: int, **more: object) -> Version:
    prior = shop.service.running.replica.prior
    now = shop.clock.now
    fields = {
        "v": v, "base": shop.service.running.engine.artifact.sha256, "kind": "push", "weights_version": v,
        "weights": encode_weights(prior[0] + v, prior[1]), "offsets": {"event/0": v}, "watermark": now,
        "counters_through": now, "held": None, "hash": f"h{v}", "created": now,
    }  # fmt: skip
    return Version(**{**fields, **more})


def changes(shop: ReplService, seed: int) -> bytes:
    builder = OpsBuilder()
    for k in range(5):
        builder.add(shop.clock.now - 10 + k, 1 + k % 4, item_key(f"i{(seed + k) % 9}"), 7)
    return builder.build().to_bytes()


def follow(shop: ReplService, v: int) -> None:
    until(lambda: shop.service.running.replica.snapshot.version == v)


def test_changes_are_applied_in_order_and_a_gap_reloads_from_the_checkpoint(
    repl_service: ReplService,
) -> None:
    from features.ops import Ops

    shop, store = repl_service, repl_service.service.store
    names = stocked(shop)
    config = shop.service.running.engine.realtime.config
    mirror = RealtimeState(config)
    before = shop.rank(names)["scores"]
    for v in (1, 2, 3):
        body = changes(shop, v)
        mirror.apply(Ops.from_bytes(body))
        store.commit(version(shop, v), body)
    follow(shop, 3)
    assert shop.service.running.engine.realtime.digest() == mirror.digest()
    assert shop.rank(names)["scores"] != before

    chunks = {f"{REALTIME}{name}": data for name, data in mirror.changed_chunks().items()}
    store.put_chunks({chunk_sha(data): data for data in chunks.values()})
    manifest = Checkpoint(4, {}, {name: chunk_sha(data) for name, data in chunks.items()})
    store.commit(version(shop, 4), None, CheckpointWrite(manifest))  # None: its changes are missing
    body = changes(shop, 5)
    mirror.apply(Ops.from_bytes(body))
    store.commit(version(shop, 5), body)
    follow(shop, 5)
    engine = shop.service.running.engine
    assert engine.realtime.digest() == mirror.digest()
    assert engine.assembler.realtime is engine.realtime
    assert "repl_counter_reloads_total 1.0" in shop.call("GET", "/metrics")[1]
    shop.restart()
    assert shop.service.running.engine.realtime.digest() == mirror.digest()


def test_a_pin_stops_weights_only(repl_service: ReplService) -> None:
    shop, store = repl_service, repl_service.service.store
    names = stocked(shop)
    for v in (1, 2):
        store.commit(version(shop, v), b"")
    follow(shop, 2)
    newest = shop.rank(names)
    store.pin(1)
    until(lambda: shop.rank(names)["weights_version"] == 1)
    pinned = shop.rank(names)
    assert pinned["version"] == 2
    assert pinned["scores"] != newest["scores"]
    store.commit(version(shop, 3), changes(shop, 1))
    follow(shop, 3)
    assert shop.rank(names)["weights_version"] == 1
    store.unpin(1)
    until(lambda: shop.rank(names)["weights_version"] == 3)


def test_versions_are_listed_shown_and_controlled_by_the_key_alone(repl_service: ReplService) -> None:
    shop, store = repl_service, repl_service.service.store
    for v in (1, 2, 3):
        store.commit(version(shop, v), b"")
    follow(shop, 3)
    listed = shop.call("GET", "/v1/versions?limit=2")[1]
    assert [entry["v"] for entry in listed["versions"]] == [3, 2]
    assert [
        entry["v"] for entry in shop.call("GET", f"/v1/versions?before={listed['next']}")[1]["versions"]
    ] == [1]
    shown = shop.call("GET", "/v1/versions/2")[1]
    assert shown["version"]["hash"] == "h2"
    assert shown["moved"]["purchase"] == 0
    key = {"Authorization": f"Bearer {shop.admin_key}"}
    status, answer = shop.call("POST", "/v1/versions/2/rollback", {"wait_ms": 0}, key)
    assert (status, answer["pending"]) == (202, True)
    (record,) = shop.service.log.read("control", 0)
    assert record.kind == "rollback"
    body = json.loads(record.body)
    assert (body["to"], body["skip"], body["applies_to"]) == (2, None, "weights")
    assert shop.call("POST", "/v1/versions/9/pin", {}, key)[0] == 404
    done = threading.Timer(0.1, lambda: store.pin(2))
    done.start()
    status, answer = shop.call("POST", "/v1/versions/2/pin", {"wait_ms": 5_000}, key)
    done.join()
    assert (status, answer["pending"]) == (200, False)


def test_versions_of_another_base_give_counters_but_no_weights(repl_service: ReplService) -> None:
    shop, store = repl_service, repl_service.service.store
    names = stocked(shop)
    prior = shop.rank(names)["scores"]
    store.commit(version(shop, 1, base="another"), b"")
    follow(shop, 1)
    answer = shop.rank(names)
    assert (answer["scores"], answer["weights_version"], answer["ages_ms"]["weights"]) == (prior, 0, None)


def test_ages_say_how_old_each_state_is(repl_service: ReplService) -> None:
    shop = repl_service
    stocked(shop)
    assert shop.rank(["i1"])["ages_ms"] == {"user": 0, "counters": None, "weights": None}
    now = shop.clock.now
    shop.service.store.commit(version(shop, 1, watermark=now - 300, counters_through=now - 5_000), b"")
    follow(shop, 1)
    answer = shop.rank(["i1"])
    assert answer["ages_ms"] == {"user": 0, "counters": 5_000, "weights": 300}
    assert answer["trained_through"] == now - 300
    shop.service.store.commit(version(shop, 2, weights_version=1, held="calibration"), b"")
    follow(shop, 2)
    assert shop.rank(["i1"])["ages_ms"]["weights"] == 300


def test_a_hold_of_the_gate_is_a_metric(repl_service: ReplService) -> None:
    shop = repl_service
    stocked(shop)
    for v, held in enumerate(("calibration: 1.4", "calibration: 1.5", "norm jump", None), 1):
        shop.service.store.commit(version(shop, v, weights_version=1, held=held), b"")
        follow(shop, v)
        assert f"repl_weights_held {0.0 if held is None else 1.0}" in shop.call("GET", "/metrics")[1]
    text = shop.call("GET", "/metrics")[1]
    assert 'repl_gate_holds_total{reason="calibration"} 1.0' in text
    assert 'repl_gate_holds_total{reason="norm jump"} 1.0' in text


# arms


def test_the_control_arm_is_ranked_by_the_frozen_prior(repl_service_factory) -> None:
    shop = repl_service_factory(control_share=0.5)
    names = stocked(shop)
    prior = {user: shop.rank(names, user=user)["scores"] for user in map(str, range(40))}
    shop.publish(click={"intercept": 3.0})
    arms = {}
    for user, before in prior.items():
        answer = shop.rank(names, user=user)
        arms[user] = answer["arm"]
        assert (answer["scores"] == before) == (answer["arm"] == "control")
        assert served(shop, answer["request_id"]).arm == answer["arm"]
        assert shop.rank(names, user=user)["arm"] == answer["arm"]
    assert 8 < list(arms.values()).count("control") < 32


# failures of neighbours: invariant 5


def test_a_dead_store_is_served_on_and_said(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    shop.publish(click={"intercept": 1.0})
    before = shop.rank(names, user="anna")
    shop.service.store.close()
    until(lambda: shop.rank(names, user="anna")["stale"])
    after = shop.rank(names, user="anna")
    assert (after["scores"], after["version"]) == (before["scores"], 1)
    assert shop.call("GET", "/v1/status")[1]["stale_reason"] == "store"
    assert shop.call("GET", "/v1/versions")[0] == 503


def test_a_dead_log_is_served_on_and_drops_are_counted(repl_service_factory) -> None:
    shop = repl_service_factory(served_queue=5)
    names = stocked(shop)
    before = shop.rank(names, user="anna")
    shop.settle()
    shop.service.log.close()
    until(lambda: shop.rank(names, user="anna")["stale"])
    for _ in range(12):
        assert shop.rank(names, user="anna")["scores"] == before["scores"]
    status, answer = shop.call(
        "POST", "/v1/events", {"id": "e", "timestamp": shop.clock.now, **shop.click("a", "i1")}
    )
    assert (status, answer["error"]["code"]) == (503, "log")
    assert shop.call("GET", "/v1/status")[1]["served"]["dropped"] >= 1


def test_a_damaged_catalogue_file_is_read_anew_from_the_log(repl_service: ReplService) -> None:
    import sqlite3

    shop = repl_service
    names = stocked(shop)
    before = shop.rank(names, user="anna")["scores"]
    shop.stop()
    with sqlite3.connect(shop.settings.data_dir / "catalogue.db") as db:
        db.execute("UPDATE chunk SET body = x'00010203'")
    shop._start()
    shop.settle()
    assert shop.rank(names, user="anna")["scores"] == before


def test_without_a_base_candidates_keep_their_order_and_events_are_taken(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service import engine
    from service.testkit import ManualClock

    monkeypatch.setattr(engine, "SAMPLE", tmp_path / "none")
    shop = ReplService(tmp_path / "data", ManualClock(), base_dir=None)
    try:
        answer = shop.rank(["b", "a", "b", "c"], exclude=["c"])
        assert (answer["ids"], answer["base"], answer["version"], answer["click"]) == (
            ["b", "a"],
            None,
            0,
            None,
        )
        assert [row["score"] for row in shop.rank(["b", "a"], format="rows")["items"]] == [None, None]
        assert shop.events(shop.click("anna", "b"))["accepted"] == 1
        status, ready = shop.call("GET", "/health/ready")
        assert (status, "no base model" in ready["reasons"][0]) == (503, True)
        assert shop.call("POST", "/v1/retrieve", {})[0] == 503
    finally:
        shop.stop()


# bursts


@pytest.mark.parametrize("n", [1, 5, 100, 1_000, 1_001, 5_000])
def test_any_number_of_candidates(repl_service: ReplService, n: int) -> None:
    answer = repl_service.rank([f"x{k}" for k in range(n)])
    assert len(answer["ids"]) == n
    assert answer["ids"] == [f"x{k}" for k in range(n)]  # all unknown: ties stand in the order they came


def test_a_burst_is_answered_and_logged_whole(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    failed: list[object] = []

    def ask(user: str) -> None:
        for k in range(10):
            try:
                shop.events(shop.click(user, f"i{k}", id=f"{user}-{k}"))
                assert len(
                    shop.rank(names if k % 2 else [*names, *(f"y{j}" for j in range(1_200))], user=user)[
                        "ids"
                    ]
                )
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=ask, args=(f"u{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shop.settle()
    assert not failed
    counts = shop.call("GET", "/v1/status")[1]
    assert counts["served"]["dropped"] == 0
    assert counts["served"]["written"] == 80
    assert counts["events"]["accepted"] == 60 + 12 + 80
