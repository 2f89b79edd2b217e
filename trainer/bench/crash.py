"""Bench of faults: a real Kafka, a real Redis, trainer, two rankers and a consumer of user states beside one of them,
under load, killed, stopped and filled up at seeded random moments; then the proof that nothing was lost, nothing
counted twice, and nobody went without an answer.

`repl-ranker bench crash` runs it for hundreds of faults, `tests/e2e/test_crash_suite.py` the same engine for CI.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from features.errors import ReplError
from features.event_log import open_log
from features.feature_store import open_feature_store
from service.artifact import load_artifact
from service.settings import Settings
from service.weight_store import open_weight_store
from trainer.bench.client import RawClient
from trainer.bench.crash_calm import Calm, grown
from trainer.bench.crash_faults import Storm, plan
from trainer.bench.crash_ledger import Answers
from trainer.bench.crash_load import ITEMS, Asker, Generator, HttpShop, KafkaShop, now_ms
from trainer.bench.crash_proof import Proof, accounts, replayed, user_states, whole
from trainer.bench.crash_stack import RANKERS, Stack, beside_of, wait_until
from trainer.bench.server import children_of, temporary_data

SETTLE_SECONDS = 120.0
BESIDE = RANKERS[1:]
"""Rankers whose user states are kept beside them, unless the settings say that of all."""
ASKED = 40
CAPACITY = "20000"
"""Shown items that the join holds: some two minutes' worth, so that it is full when memory is first looked at."""


class Watch(threading.Thread):
    """Notes the hash of every version while it is new: one that comes again must be the same."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="watch", daemon=True)
        self._settings, self.over, self.seen = settings, threading.Event(), dict[int, str]()
        self.changed: list[int] = []

    def run(self) -> None:
        with closing(open_weight_store(self._settings)) as store:
            while not self.over.wait(0.5):
                try:
                    found = store.versions_after(max(self.seen, default=0) - 20, 1_000)
                except ReplError:
                    continue  # it is down: that is what this bench is for
                for one in found:
                    if self.seen.setdefault(one.v, one.hash) != one.hash:
                        self.changed.append(one.v)


def run(
    settings: Settings, *, faults: int = 200, seed: int = 1, longest: float = 20.0, pause: float = 0.08,
    minutes: float = 0.0, progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report. minutes: of the same load without faults, after them. Raises ReplError where anything did not add up,
    with all that did not."""
    base = Path(str(children_of(settings)["base_dir"]))
    with temporary_data() as place:
        report = storm(
            place, base, faults, seed, longest, pause,
            minutes=minutes, progress=progress, beside=beside_of(settings) or BESIDE,
        )  # fmt: skip
    if report["wrong"]:
        raise ReplError("the crash bench found: " + "; ".join(report["wrong"]), hint=f"its figures: {report}")
    return report


def storm(
    place: Path, base: Path, faults: int, seed: int, longest: float, pause: float, *,
    minutes: float = 0.0, progress: Callable[[int, int], None] | None = None, beside: Sequence[str] = BESIDE,
) -> dict[str, Any]:  # fmt: skip
    """Figures, and under `wrong` what did not add up. Raises RuntimeError where the stack did not survive."""
    began, answers = time.monotonic(), Answers()
    stack = Stack(
        place, base, answers, beside, REPL_PURCHASE_WAIT_MS="3000", REPL_JOIN_CAPACITY=CAPACITY,
        REPL_NEGATIVES_KEPT="0.5",
    )  # fmt: skip
    try:
        stack.open()
        _stock(stack)
        watch, load = Watch(stack.settings), _load(stack, answers, seed, pause)
        for one in (watch, *load):
            one.start()
        tell = progress or (lambda done, total: None)
        weather, calm, opened = Storm(stack, answers), Calm(stack), time.monotonic()
        weather.run(plan(faults, seed, longest, beside), tell)
        calm.run(minutes, tell)
        stormed = time.monotonic()
        _end(stack, load)
        proof = _prove(stack, base, load, watch)
    finally:
        stack.close()
    _answered(proof, answers, weather)
    proof.same("processes whose memory is not flat", grown(calm.memory), [])
    times = {"starting": opened - began, "faults": stormed - opened, "proof": time.monotonic() - stormed}
    return {
        "faults": sum(weather.done.values()), "seed": seed, "by_kind": dict(sorted(weather.done.items())),
        **proof.figures, **answers.figures(), **calm.figures(), "stale_without_redis": weather.told,
        "started_again": stack.restarts,
        "seconds": {name: round(value, 1) for name, value in times.items()}, "wrong": proof.wrong,
    }  # fmt: skip


def _stock(stack: Stack) -> None:
    client = RawClient(stack.ports[RANKERS[0]])
    fields = [{"title": f"lamp {item}", "category": f"c{k % 4}", "price": 1.0 + k} for k, item in enumerate(ITEMS)]
    rows = [
        {"id": f"item-{item}", "timestamp": now_ms(), "event": "item", "item": item, "fields": field}
        for item, field in zip(ITEMS, fields, strict=True)
    ]
    status, answer = client.call("POST", "/v1/events", rows)
    client.close()
    if status != 200 or answer["accepted"] != len(ITEMS):
        raise RuntimeError(f"the items were not taken: {status} {answer}")


def _load(stack: Stack, answers: Answers, seed: int, pause: float) -> list[Generator]:
    topic = f"{stack.settings.tenant}.events"
    shops: list[Generator] = [HttpShop(f"http-{name}", seed, pause, stack.ports, answers) for name in "ab"]
    shops.append(KafkaShop("client", seed, pause, stack.kafka.address, topic))
    for event_id in (f"item-{item}" for item in ITEMS):
        shops[0].ledger.enter({"id": event_id, "event": "item"})
        shops[0].ledger.acknowledged.add(event_id)
    return [*shops, *(Asker(ranker, seed, pause, stack.ports, answers) for ranker in RANKERS)]


def _end(stack: Stack, load: list[Generator]) -> None:
    """Let the generators send what was not acknowledged, then wait until everything is read and learned."""
    for one in load:
        one.over.set()
    for one in load:
        one.join(SETTLE_SECONDS)
    late = [one.name for one in load if one.is_alive()]
    died = [f"{one.name}: {one.error}" for one in load if one.error]
    if late or died:
        raise RuntimeError(f"load that did not end: {late}; load that failed: {died}")
    with (
        closing(open_log(stack.settings)) as log, closing(open_weight_store(stack.settings)) as store,
        closing(open_feature_store(stack.settings)) as states,
    ):  # fmt: skip
        ends = {name: at for name, at in log.end_offsets().items() if name.startswith(("event/", "served/"))}

        def learned() -> bool:
            stack.supervise()
            latest, status = store.latest(), store.status()
            there = latest is not None and all(latest.offsets.get(name, 0) >= at for name, at in ends.items())
            return there and status["version"] == latest.v and status["waiting"]["hold"] == 0  # type: ignore[union-attr]

        def where() -> str:
            latest = store.latest()
            return f"log {ends}, learned {latest and latest.offsets}, {store.status().get('waiting')}"

        wait_until(learned, SETTLE_SECONDS, where)
        kept = {name: at for name, at in ends.items() if name.startswith("event/")} if stack.beside else {}
        wait_until(
            lambda: kept.items() <= states.offsets().items(), SETTLE_SECONDS,
            lambda: f"log {ends}, user states kept beside {states.offsets()}",
        )  # fmt: skip


def _prove(stack: Stack, base: Path, load: list[Generator], watch: Watch) -> Proof:
    watch.over.set()
    watch.join(10)
    proof, settings, ledgers = Proof(), stack.settings, [one.ledger for one in load]
    artifact = load_artifact(base)
    nothing = settings.model_copy(update={"weights_url": None, "data_dir": stack.place / "fresh"})
    nothing.data_dir.mkdir()
    with (
        closing(open_log(settings)) as log, closing(open_weight_store(settings)) as store,
        closing(open_weight_store(nothing)) as empty, closing(open_feature_store(settings)) as states,
    ):  # fmt: skip
        status, found = store.status(), whole(log)
        accounts(proof, ledgers, found, status)
        replayed(proof, found, log, store, empty, artifact, settings, watch.seen, status)
        proof.same("versions that changed while they were watched", watch.changed, [])
        users = user_states(proof, ledgers, states.get, dict(artifact.schema.behaviours), settings.history)
    _agree(proof, stack, users[:: max(1, len(users) // ASKED)])
    return proof


def _agree(proof: Proof, stack: Stack, users: list[str]) -> None:
    """Both rankers see these users alike: their own history with each item, and what the network makes of it."""
    terms: list[Any] = []
    for ranker in RANKERS:
        client = RawClient(stack.ports[ranker])
        own = {}
        for user in users:
            _, answer = client.call("POST", "/v1/rank", {"items": ITEMS, "user": user, "explain": True})
            own[user] = {
                part["id"]: [term["value"] for term in part["terms"] if term["name"] == "rt.own.count"]
                for part in answer["explain"]
            }
        _, vectors = client.call("POST", "/v1/embeddings", {"users": users})
        terms.append((own, vectors["users"]))
        client.close()
    differing = [user for user in users if terms[0][0][user] != terms[1][0][user]]
    proof.same("users whom the rankers see differently", differing, [])
    proof.same("users' vectors of both rankers are the same", terms[0][1] == terms[1][1], True)
    proof.figures["users_asked"] = len(users)


def _answered(proof: Proof, answers: Answers, weather: Storm) -> None:
    failed = [f"{one.ranker} {one.status} after {one.ended - one.began:.1f} s" for one in answers.failed()]
    proof.same("rank requests without an answer of a ranker that was there", failed[:5], [])
    refused = {status: count for status, count in answers.events.items() if status not in (0, 200, 503)}
    proof.same("answers to events other than taken, not taken now, and none", refused, {})
    proof.same("outages that answers did not tell", weather.judge(), [])
