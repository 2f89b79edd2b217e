"""`bench learn`: examples a second of the learner, events a second of the whole path, live-like and in replay.

Everything runs in this process on one thread, on a data directory of its own that is removed afterwards. The
base's prior is replaced by a random one of the stated size for the first figure; its labels mean nothing.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from features.event_log import open_log
from features.events import InteractionEvent, RankingEvent, ShownItem
from features.realtime import RealtimeConfig
from features.records import NewRecord, ServedRecord, event_record
from service.artifact import Artifact
from service.settings import Settings
from service.weight_store import open_weight_store
from trainer.bases import current_base
from trainer.blas import single_thread
from trainer.gate import Gate
from trainer.kalman import KalmanHead
from trainer.learner import EXAMPLE, HeadLearner
from trainer.online import OnlineTrainer

START = 1_750_000_000_000
EXAMPLES = 60_000
IMPORTED = 200_000
LIVE_RANKINGS = 2_000
SHOWN = 10
BATCH = 5_000


class Speed(NamedTuple):
    """Things a second of wall clock, and of this process's CPU time (what an idle machine would give)."""

    wall: float
    cpu: float


class _Stopwatch:
    def __init__(self) -> None:
        self._wall = self._cpu = 0.0

    def __enter__(self) -> _Stopwatch:
        self._wall -= time.perf_counter()
        self._cpu -= time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall += time.perf_counter()
        self._cpu += time.process_time()

    def speed(self, count: int) -> Speed:
        return Speed(round(count / self._wall), round(count / self._cpu))


def learner_speed(d: int, examples: int = EXAMPLES) -> dict[str, Speed]:
    """Examples a second of one head with d inputs: the filter alone, and with scoring and the gate's statistics."""
    single_thread()
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.3, (4_096, d)).astype(np.float16)
    z[:, 0] = 1
    prior = {"click": (rng.normal(0, 0.05, d), np.eye(d) * 0.01)}
    head = HeadLearner("click", prior, np.array([[0, d]], np.int64), 1e-7, 0.3, 30_000)
    gate = Gate()
    rows = np.zeros(256, EXAMPLE)
    rows["scored"], rows["teach"] = np.nan, True
    labels = rng.random(4_096) < 0.1
    head.add(z[:256], rows, gate.observe)  # compile
    watch = _Stopwatch()
    with watch:
        for start in range(0, examples, 256):
            at = start % 4_096
            rows["t"], rows["label"] = START + start, labels[at : at + 256]
            rows["shown"], rows["seen"] = START + start, head.see(START + start, z[at : at + 256])
            head.add(z[at : at + 256], rows, gate.observe)
    return {"filter": _filter_speed(d, z.astype(np.float64), examples), "with_gate": watch.speed(examples)}


def _filter_speed(d: int, z: np.ndarray[Any, np.dtype[np.float64]], examples: int) -> Speed:
    kalman = KalmanHead(np.zeros(d), np.eye(d) * 0.01, noise=1e-7, rate=0.3)
    watch = _Stopwatch()
    with watch:
        for start in range(0, examples, 32):
            part = z[start % 4_096 : start % 4_096 + 32]
            p = 1.0 / (1.0 + np.exp(-part @ kalman.mean))
            kalman.advance(START + start)
            kalman.learn(part, 0.1 - p, p * (1 - p))
    return watch.speed(examples)


class _Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@contextmanager
def _trainer(artifact: Artifact, clock: _Clock) -> Iterator[tuple[OnlineTrainer, Any]]:
    with tempfile.TemporaryDirectory(prefix="repl-bench-") as place:
        settings = Settings(data_dir=Path(place))
        store = open_weight_store(Path(place))
        with closing(open_log(settings, clock)) as log, closing(store):
            config = RealtimeConfig(max_items=100_000)
            trainer = OnlineTrainer(
                log, store, artifact, settings, clock=clock, cadence=_wall, realtime=config
            )
            trainer.start()
            yield trainer, log


def _wall() -> int:
    return time.time_ns() // 1_000_000


def replay_speed(artifact: Artifact, events: int = IMPORTED) -> Speed:
    """Events a second of a trainer that reads an import: purchases of 4,000 users over 4,000 items in a year."""
    rng = np.random.default_rng(1)
    clock = _Clock()
    with _trainer(artifact, clock) as (trainer, log):
        users, items = rng.integers(0, 4_000, events), rng.zipf(1.3, events) % 4_000
        for start in range(0, events, 20_000):
            log.append("event", [
                event_record(InteractionEvent(
                    id=f"line-{k}", timestamp=START - 31_536_000_000 + k * 31_536_000_000 // events,
                    type="purchase", item=f"i{items[k]}", user=f"u{users[k]}"), imported=True)
                for k in range(start, min(start + 20_000, events))
            ])  # fmt: skip
        watch = _Stopwatch()
        with watch:
            while trainer.tick():
                continue
        return watch.speed(events)


def live_speed(artifact: Artifact, rankings: int = LIVE_RANKINGS) -> tuple[Speed, Speed]:
    """Events and examples a second of the whole path: rankings of ten items with their served records, each with
    nine interactions.
    """
    clock = _Clock()
    with _trainer(artifact, clock) as (trainer, log):
        events, watch = 0, _Stopwatch()
        for start in range(0, rankings, 100):
            clock.now += 200
            events += append_lists(log, artifact, start, min(start + 100, rankings), clock.now)
            with watch:
                trainer.tick()
        clock.now += 60_000
        with watch:
            trainer.tick()
        return watch.speed(events), watch.speed(rankings * SHOWN)


def append_lists(log: Any, artifact: Artifact, start: int, end: int, now: int, tenant: str = "default") -> int:
    """Append lists number `start` to `end`, each with its served record and nine interactions; how many events."""
    h, d = artifact.manifest.hidden, len(artifact.layout_names)
    rng = np.random.default_rng(start)
    served, events = [], []
    for k in range(start, end):
        items, user = [f"i{n}" for n in rng.integers(0, 4_000, SHOWN)], f"u{rng.integers(0, 4_000)}"
        z = rng.normal(0, 0.1, (SHOWN, d)).astype(np.float16)
        served.append(NewRecord("served", tenant, now, user, ServedRecord(
            request_id=f"r{k}", t=now, tenant=tenant, base=artifact.sha256, version=1, objective="click",
            items=items, scores=bytes(4 * SHOWN), hidden=h, z=z.tobytes(), user=user).to_bytes()))  # fmt: skip
        shown = tuple(ShownItem(item, place + 1) for place, item in enumerate(items))
        events.append(event_record(RankingEvent(id=f"r{k}", timestamp=now, user=user, items=shown, tenant=tenant)))
        for n in range(9):
            events.append(event_record(InteractionEvent(
                id=f"a{k}-{n}", timestamp=now, type="click", item=items[n % 3] if n < 3 else f"i{n}", user=user,
                tenant=tenant, ranking=f"r{k}" if n < 3 else None)))  # fmt: skip
    log.append("served", served)
    log.append("event", events)
    return len(events)


def run(settings: Settings, *, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """All figures, with the goals they are held against."""
    gc.set_threshold(100_000, 20, 100)  # as `learn` runs
    artifact = current_base(settings)
    found: dict[str, Any] = {"d": len(artifact.layout_names)}
    tell = progress or (lambda done, total: None)
    live_speed(artifact, 200)  # compile
    for done, (d, goal) in enumerate(((128, 50_000), (256, 40_000)), 1):
        tell(done, 5)
        speed = learner_speed(d)
        found[f"examples_per_second_{d}"] = {"goal": goal, **{name: v._asdict() for name, v in speed.items()}}
    tell(3, 5)
    found["replay_events_per_second"] = {"goal": 20_000, **replay_speed(artifact)._asdict()}
    tell(4, 5)
    events, examples = live_speed(artifact)
    found["live_events_per_second"] = {"goal": 5_000, **events._asdict()}
    found["live_examples_per_second"] = examples._asdict()
    tell(5, 5)
    return found
