"""Load on rankers while another base is rolled out, and what must be true of every answer that it got."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from features.event_log import open_log
from features.keys import actor_key
from features.layout import ZLayout
from features.records import ServedRecord
from service.artifact import Artifact
from service.last_layer import logits, sigmoid
from service.scorer import ItemInput, Scorer
from service.settings import Settings
from service.weight_store import decode_weights, open_weight_store
from tests.conftest import ROOT

SHOWN = 10
Call = Callable[[str, str, str, Any], tuple[int, Any]]
Send = Callable[..., Any]


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
    """Two clients: they rank, show, and some click. Users `still-…` never do anything."""

    def __init__(self, items: Sequence[str], call: Call, send: Send) -> None:
        """call: a request of client `a` or `b`, status 0 where the connection broke; send: its events."""
        self.items, self.call, self.send = items, call, send
        self.answers: list[Answer] = []
        self.failures: list[Any] = []
        self.broken = 0
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
                status, found = self.call(name, "POST", "/v1/rank", {"items": self.items, "user": user})
                seconds = time.monotonic() - began
                if status == 0:
                    self.broken += 1
                    continue
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
        self.send(name, *events)

    def since(self, began: float) -> list[Answer]:
        return [one for one in self.answers if one.at >= began]

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def p99(answers: list[Answer]) -> float:
    return float(np.percentile([one.seconds for one in answers], 99)) * 1_000


def base_command(data_dir: Path, environment: dict[str, str], *words: str) -> dict[str, Any]:
    """`repl-ranker base …` on a machine with this data directory: its answer, and its exit status as `exit`."""
    command = [sys.executable, "-m", "trainer.cli", "base", *words, "--data-dir", str(data_dir), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"exit": done.returncode}


def bases_of_users(answers: list[Answer]) -> dict[str, set[str]]:
    """Which bases answered each user."""
    split: dict[str, set[str]] = {}
    for one in answers:
        split.setdefault(one.user, set()).add(one.base)
    return split


def nothing_is_mixed(settings: Settings, bases: dict[str, Artifact], title: str) -> None:
    """Every served record is of one base: its scores are those of that base's weights in that version, and of users
    who never did anything its hidden vectors are that base's, to the bit.

    title: of an item, as a format of its id."""
    scorers = {name: Scorer(artifact) for name, artifact in bases.items()}
    checked = dict.fromkeys(bases, 0)
    with closing(open_log(settings)) as log, closing(open_weight_store(settings)) as store:
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
                expected = hidden(scorers[served.base], served, title)
                np.testing.assert_array_equal(served.z_rows()[:, : served.hidden], expected)
                checked[served.base] += 1
    assert min(checked.values()) > 20, checked


def hidden(scorer: Scorer, served: ServedRecord, title: str) -> np.ndarray:
    """What this base makes of these items for somebody without a history, as a record has it."""
    towers = scorer.encode_items([ItemInput(item, title.format(item)) for item in served.items]).tower
    none = np.zeros((0, towers.shape[1]), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.int64)
    made = scorer.hidden(towers, scorer.encode_actor(actor_key(served.user, None), *none), None)
    return np.clip(made, -1_000, 1_000).astype(np.float16)
