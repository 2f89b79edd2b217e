"""Another base is staged, promoted and taken back under load: two rankers and a learner over Kafka and Redis.

The clients keep every answer; the served records of the log say what each one was computed from.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from features.keys import actor_key
from features.layout import ZLayout
from features.realtime import RealtimeConfig
from features.records import ServedRecord
from service.artifact import Artifact, load_artifact
from service.last_layer import logits, sigmoid
from service.scorer import ItemInput, Scorer
from service.weight_store import decode_weights, open_weight_store
from tests.conftest import ROOT
from tests.e2e.kafka_shop import BASE, ITEMS, KafkaShop
from tests.second_base import second_base
from trainer.bases import base_by_sha
from trainer.verify import verify_version

pytestmark = pytest.mark.timeout(400)

MORE_ITEMS = 2_000
SHOWN = 10


class Answer(NamedTuple):
    """One that a client got."""

    at: float
    seconds: float
    ranker: str
    user: str
    status: int
    base: str
    version: int


class Load:
    """Two clients, one a ranker: they rank, show, and some click. Users `still-…` never do anything."""

    def __init__(self, shop: KafkaShop) -> None:
        self.shop = shop
        self.answers: list[Answer] = []
        self.failures: list[Any] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in "ab"]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str) -> None:
        rnd = random.Random(name)
        while not self._stop.is_set():
            user = rnd.choice(("still", "busy")) + f"-{rnd.randrange(40)}"
            began = time.monotonic()
            try:
                status, found = self.shop.call(name, "POST", "/v1/rank", {"items": ITEMS, "user": user})
                seconds = time.monotonic() - began
                if status != 200:
                    self.failures.append((name, status, found))
                    continue
                self.answers.append(
                    Answer(began, seconds, name, user, status, found["base"], found["version"])
                )
                if user.startswith("busy"):
                    self._show(name, user, found, rnd)
            except OSError as error:
                self.failures.append((name, repr(error)))
            self._stop.wait(0.01)

    def _show(self, name: str, user: str, found: dict[str, Any], rnd: random.Random) -> None:
        shown = found["ids"][:SHOWN]
        items = [{"id": item, "position": k + 1} for k, item in enumerate(shown)]
        events = [{"event": "ranking", "id": found["request_id"], "user": user, "items": items}]
        if rnd.random() < 0.5:
            click = {"event": "interaction", "type": "click", "user": user, "item": rnd.choice(shown)}
            events.append(click | {"ranking": found["request_id"]})
        self.shop.send(name, *events)

    def since(self, began: float) -> list[Answer]:
        return [one for one in self.answers if one.at >= began]

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def p99(answers: list[Answer]) -> float:
    return float(np.percentile([one.seconds for one in answers], 99)) * 1_000


def base(shop: KafkaShop, *words: str) -> dict[str, Any]:
    """`repl-ranker base …` on the learner's machine."""
    environment = {**os.environ, **shop.environment}
    command = [sys.executable, "-m", "trainer.cli", "base", *words, "--data-dir", str(shop.place / "learner"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"exit": done.returncode}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, kafka_url: str, redis_url: str) -> Iterator[KafkaShop]:
    place = tmp_path_factory.mktemp("rollout")
    made = KafkaShop(place, kafka_url, redis_url, REPL_NEGATIVE_AFTER_MS="1000")
    try:
        made.open()
        more = [f"more-{k}" for k in range(MORE_ITEMS)]
        made.send("a", *({"event": "item", "item": one, "fields": {"title": f"lamp {one}"}} for one in more))
        yield made
    finally:
        made.end()


def loaded(shop: KafkaShop, name: str) -> dict[str, Any]:
    found: dict[str, Any] = shop.call(name, "GET", "/v1/status")[1]["bases"]
    return found


def test_staged_promoted_and_taken_back_under_load(shop: KafkaShop, tmp_path: Path) -> None:
    old, new = load_artifact(BASE), second_base(tmp_path / "second")
    shop.until(lambda: not shop.call("a", "GET", "/v1/status")[1]["items_waiting"], 60, "all items are encoded")
    load = Load(shop)
    try:
        roll_out(shop, load, old, new, tmp_path)
    finally:
        load.end()
    assert load.failures == []
    assert {one.base for one in load.answers} == {old.sha256, new.sha256}
    nothing_is_mixed(shop, {one.sha256: one for one in (old, new)})
    with closing(shop.log()) as log, closing(open_weight_store(shop.settings)) as store:
        config = RealtimeConfig(max_items=shop.settings.max_items)
        newest = max(one.v for one in store.versions(1))
        found = verify_version(log, store, newest, partial(base_by_sha, shop.settings), realtime=config)
        assert (found["ok"], found["exact"]) == (True, True), found


def roll_out(shop: KafkaShop, load: Load, old: Artifact, new: Artifact, place: Path) -> None:
    time.sleep(2.0)
    began = time.monotonic()
    time.sleep(4.0)
    before = p99(load.since(began))

    staged = base(shop, "stage", str(place / "second"))
    assert (staged["exit"], staged["done"], staged["sha256"]) == (0, True, new.sha256), staged
    began = time.monotonic()
    for name in "ab":
        shop.until(lambda name=name: new.sha256 in loaded(shop, name)["loaded"], 90, "the base is loaded")
    during = p99(load.since(began))
    print(f"p99 {before:.1f} ms before, {during:.1f} ms while two rankers load a base")
    assert during < max(2 * before, before + 200.0), "twice is the promise; a crowded machine has other reasons, too"
    assert {one.base for one in load.since(began)} == {old.sha256}

    some = base(shop, "promote", "--percent", "30", "--wait", "90")
    assert (some["exit"], some["done"]) == (0, True), some
    assert some["figures"]["ratio"] <= 1.02
    for name in "ab":
        shop.until(lambda name=name: loaded(shop, name)["percent"] == {new.sha256: 30.0}, 20, "30 % are answered")
    began = time.monotonic()
    time.sleep(3.0)
    split: dict[str, set[str]] = {}
    for one in load.since(began):
        split.setdefault(one.user, set()).add(one.base)
    assert all(len(bases) == 1 for bases in split.values()), "a user has one base, whichever ranker answers"
    share = sum(bases == {new.sha256} for bases in split.values()) / len(split)
    assert 0.1 < share < 0.5

    everybody(shop, load, "promote", new)
    status = base(shop, "status")
    assert (status["state"], status["live"], status["beside"]) == ("promoted", new.sha256, old.sha256)
    everybody(shop, load, "revert", old)


def everybody(shop: KafkaShop, load: Load, command: str, expected: Artifact) -> None:
    """Carry it out, and see that from then on this base answers everybody."""
    done = base(shop, command)
    assert (done["exit"], done["done"]) == (0, True), done
    for name in "ab":
        shop.until(lambda name=name: loaded(shop, name)["answers"] == expected.sha256, 20, "the base answers")
    began = time.monotonic()
    time.sleep(2.0)
    answers = load.since(began)
    assert {one.base for one in answers} == {expected.sha256}
    assert {one.ranker for one in answers} == {"a", "b"}


def nothing_is_mixed(shop: KafkaShop, bases: dict[str, Artifact]) -> None:
    """Every served record is of one base: its scores are those of that base's weights in that version, and of users
    who never did anything its hidden vectors are that base's, to the bit."""
    scorers = {name: Scorer(artifact) for name, artifact in bases.items()}
    checked = dict.fromkeys(bases, 0)
    with closing(shop.log()) as log, closing(open_weight_store(shop.settings)) as store:
        weights: dict[tuple[int, str], np.ndarray] = {}
        ends = {name: at for name, at in log.end_offsets().items() if name.startswith("served/")}
        found = log.read_many(dict.fromkeys(ends, 0), ends, 100_000)
        for record in (one for part in found.records.values() for one in part):
            served = ServedRecord.from_bytes(record.body)
            key = served.version, served.base
            if not served.version:
                continue
            if key not in weights:
                data = store.get(served.version).weights_of(served.base)
                assert data is not None, f"version {served.version} has no weights of the base that answered"
                weights[key] = np.stack(list(decode_weights(data).values()))
            artifact = bases[served.base]
            terms = ZLayout(artifact.manifest.hidden, artifact.schema).terms()
            z = served.z_rows().astype(np.float32).T.copy()
            chance = sigmoid(logits(z, weights[key], terms))[0]  # P(click); a score is its logarithm
            np.testing.assert_allclose(served.score_row(), np.log(chance), rtol=1e-5)
            if served.user is not None and served.user.startswith("still") and checked[served.base] < 300:
                np.testing.assert_array_equal(served.z_rows()[:, : served.hidden], hidden(scorers[served.base], served))
                checked[served.base] += 1
    assert min(checked.values()) > 20, checked


def hidden(scorer: Scorer, served: ServedRecord) -> np.ndarray:
    """What this base makes of these items for somebody without a history, as a record has it."""
    towers = scorer.encode_items([ItemInput(item, f"lamp {item}") for item in served.items]).tower
    none = np.zeros((0, towers.shape[1]), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.int64)
    made = scorer.hidden(towers, scorer.encode_actor(actor_key(served.user, None), *none), None)
    return np.clip(made, -1_000, 1_000).astype(np.float16)
