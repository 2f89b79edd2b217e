"""Bench of freshness, seen by the client in scores: own clicks at once; counters and weights after the hold.

Ranker and trainer as two processes; a load of interactions of other users runs beside, and none of it moves what is
watched: an own click is watched in the clicker's ranking, counters in the scores of items that only a probe clicks
(against one of the same category that nobody does), weights in the score of an item that has no counters at all.

Weights are watched twice: on a cold learner, and after it was taught by lists with clicks. Both times all probes are
sent and seen within the 30 s after which their own negatives come, when nothing else moves the weights.
"""

from __future__ import annotations

import itertools
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from service.settings import Settings
from trainer.bench import workload
from trainer.bench.client import RawClient
from trainer.bench.rank import percentile, served
from trainer.bench.server import Server, children_of, temporary_data

ITEMS, RATE = 2_000, 500
OWN, COUNTERS, WEIGHTS = 150, 60, 40
LOAD_EVERY = 0.05
POLL = 0.01
BURST = 30
SHOWN, EVERY = 10, 0.55
TAUGHT, TAUGHT_SECONDS = 2_000, 60.0
QUIET_SECONDS = 40.0  # until the last negatives of what was taught are learned


class Load:
    """RATE interactions a second of users l0 … on the second half of the items, until `stop`."""

    def __init__(self, server: Server) -> None:
        self._client = server.client()
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rng, due = random.Random(5), time.monotonic()
        while not self._stop.is_set():
            count = int(RATE * LOAD_EVERY)
            click(
                self._client,
                [(f"l{rng.randrange(400)}", f"i{rng.randrange(ITEMS // 2, ITEMS)}") for _ in range(count)],
            )
            self.sent += count
            due += LOAD_EVERY
            self._stop.wait(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        """End the load."""
        self._stop.set()
        self._thread.join()
        self._client.close()


def probes() -> Iterator[dict[str, Any]]:
    """Items of a category of their own."""
    for name in (*(f"p{k}" for k in range(COUNTERS)), "p-calm"):
        fields = {"title": "probe", "category": "probe", "brand": "probe", "price": 5.0}
        yield {"id": name, "timestamp": workload.now_ms(), "event": "item", "item": name, "fields": fields}


_next = 0


def click(client: RawClient, pairs: list[tuple[str, str]], ranking: str | None = None) -> str:
    """Clicks of (user, item); returns the token."""
    global _next
    events = []
    for user, item in pairs:
        _next += 1
        event = {"id": f"f{_next}", "timestamp": workload.now_ms(), "event": "interaction", "type": "click"}
        event |= {"user": user, "item": item}
        events.append(event if ranking is None else {**event, "ranking": ranking})
    status, answer = client.call("POST", "/v1/events", events)
    if status != 200 or answer["accepted"] != len(pairs):
        raise RuntimeError(f"clicks were not taken: {status} {answer}")
    return str(answer["token"])


def ask(client: RawClient, items: list[str], **request: Any) -> dict[str, Any]:
    """A rank answer as {item: score}, with the whole answer under ''."""
    status, answer = client.call("POST", "/v1/rank", {"items": items, **request})
    if status != 200:
        raise RuntimeError(f"answer {status}: {answer}")
    return {"": answer, **dict(zip(answer["ids"], answer["scores"], strict=True))}


def own_clicks(client: RawClient, other: RawClient) -> list[float]:
    """Seconds from sending a click to an answer (of the other ranker) whose scores show it, by the token."""
    seconds = []
    for turn in range(OWN):
        user, items = f"o{turn}", [f"i{k}" for k in range(20)]
        before = ask(other, items, user=user)["i7"]
        began = time.perf_counter()
        token = click(client, [(user, "i7")])
        after = ask(other, items, user=user, after=token)
        seconds.append(time.perf_counter() - began)
        if after["i7"] == before or after[""]["stale"]:
            raise RuntimeError("a click of one's own was not seen in the next answer")
    return seconds


def counters(rankers: Sequence[RawClient], hold: float) -> list[float]:
    """Seconds from the end of the hold to scores of every ranker that show a burst of clicks of others."""
    items, calm, client = [f"p{k}" for k in range(COUNTERS)], "p-calm", rankers[0]
    bases = []
    for ranker in rankers:
        first = ask(ranker, [*items, calm])
        bases.append({item: first[item] - first[calm] for item in items})
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    due, turn = time.perf_counter(), 0
    while len(seen) < COUNTERS:
        now = time.perf_counter()
        if turn < COUNTERS and now >= due:
            sent[items[turn]] = now
            click(client, [(f"c{turn}-{k}", items[turn]) for k in range(BURST)])
            turn, due = turn + 1, due + 0.13
        answers = [ask(ranker, [*items, calm]) for ranker in rankers]
        now = time.perf_counter()
        for item in items:
            moved = [abs(a[item] - a[calm] - base[item]) > 0.01 for a, base in zip(answers, bases, strict=True)]
            if item not in seen and all(moved):
                seen[item] = now
        if now - min(sent.values()) > hold + COUNTERS * 0.13 + 20:
            raise RuntimeError(f"only {len(seen)} of {COUNTERS} bursts were seen in scores")
        time.sleep(POLL)
    early = [item for item in items if seen[item] - sent[item] < hold - 0.05]
    if early:
        raise RuntimeError(f"{early[0]} moved before the hold was over")
    return [max(0.0, seen[item] - sent[item] - hold) for item in items]


def weights(rankers: Sequence[RawClient], hold: float, name: str) -> list[float]:
    """Seconds from the end of the hold to a score, of every ranker, that only the weights can have moved."""
    rng, client = random.Random(name), rankers[0]
    seconds: list[float] = []
    pending: list[float] = []
    last = [ask(ranker, ["unheard of"])["unheard of"] for ranker in rankers]
    turn, due = 0, time.perf_counter()
    until = due + WEIGHTS * EVERY + hold + 2
    while len(seconds) < WEIGHTS and time.perf_counter() < until:
        now = time.perf_counter()
        if turn < WEIGHTS and now >= due:
            user, items = f"{name}{turn}", [f"i{k}" for k in rng.sample(range(ITEMS // 2), SHOWN)]
            ranking = shown(client, user, *items)
            pending.append(time.perf_counter())
            click(client, [(user, rng.choice(items))], ranking=ranking)
            turn, due = turn + 1, due + EVERY
        score = [ask(ranker, ["unheard of"])["unheard of"] for ranker in rankers]
        if all(one != before for one, before in zip(score, last, strict=True)):
            last, now = score, time.perf_counter()
            if not pending or now - pending[0] < hold - 0.05:
                raise RuntimeError("weights moved that no probe can have moved")
            seconds.append(max(0.0, now - pending.pop(0) - hold))
        time.sleep(POLL)
    return seconds


def teach(client: RawClient, tell: Callable[[int, int], None]) -> None:
    """Lists with a click in every second one; then wait until the last of it is learned."""
    rng, began = random.Random(9), time.monotonic()
    for turn in range(TAUGHT):
        user, items = f"t{turn % 400}", [f"i{k}" for k in rng.sample(range(ITEMS // 2), SHOWN)]
        ranking = shown(client, user, *items)
        if turn % 2:
            click(client, [(user, rng.choice(items))], ranking=ranking)
        time.sleep(max(0.0, began + turn * TAUGHT_SECONDS / TAUGHT - time.monotonic()))
    tell(5, 7)
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        client.call("GET", "/health/live")  # an idle connection would be closed
        time.sleep(1.0)


def shown(client: RawClient, user: str, *items: str) -> str:
    """Rank items for a user and tell that they were shown; returns the id of the ranking."""
    answer = ask(client, list(items), user=user)[""]
    ranking = str(answer["request_id"])
    event = {"id": ranking, "timestamp": workload.now_ms(), "event": "ranking", "user": user}
    status, answer = client.call(
        "POST", "/v1/events", {**event, "items": [{"id": item} for item in answer["ids"]]}
    )
    if status != 200:
        raise RuntimeError(f"a ranking was not taken: {answer}")
    return ranking


def figures(seconds: list[float], wanted: int) -> dict[str, Any]:
    """p50 and p99 in ms, and how many of the wanted were seen."""
    if not seconds:
        return {"seen": 0, "of": wanted}
    return {
        "p50_ms": round(statistics.median(seconds) * 1e3, 1),
        "p99_ms": round(percentile(seconds, 0.99) * 1e3, 1),
        "seen": len(seconds),
        "of": wanted,
    }


class Trainer:
    """`repl-ranker learn` on a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._output = (data_dir / "trainer.log").open("ab")
        command = [sys.executable, "-m", "trainer.cli", "learn", "--data-dir", str(data_dir)]
        command += ["--config", str(data_dir / "bench.toml")]
        self.process = subprocess.Popen(command, stdout=self._output, stderr=self._output)

    def stop(self) -> None:
        """End it and wait."""
        self.process.terminate()
        self.process.wait(30)
        self._output.close()


def wait_for_versions(client: RawClient, seconds: float = 60.0) -> None:
    """Wait until a version is served."""
    until = time.monotonic() + seconds
    while client.call("GET", "/v1/status")[1]["version"] == 0:
        if time.monotonic() > until:
            raise RuntimeError("the trainer published no version")
        time.sleep(0.05)


def measure(
    rankers: Sequence[RawClient], hold: float, tell: Callable[[int, int], None], taught: bool = True
) -> dict[str, Any]:
    """All figures; clicks go to the first ranker, and are seen when all show them."""
    tell(1, 7)
    own = own_clicks(rankers[0], rankers[-1])
    tell(2, 7)
    after_hold = counters(rankers, hold)
    tell(3, 7)
    cold = weights(rankers, hold, "cold")
    tell(4, 7)
    found = {
        "own_click": figures(own, OWN),
        "counters_after_hold": figures(after_hold, COUNTERS),
        "weights_after_hold_cold": figures(cold, WEIGHTS),
    }
    if taught:
        teach(rankers[0], tell)
        tell(6, 7)
        found["weights_after_hold"] = figures(weights(rankers, hold, "taught"), WEIGHTS)
    tell(7, 7)
    return found


def apart(rankers: Sequence[RawClient], seconds: float = 20.0) -> list[float]:
    """Seconds between the first and the last ranker's first answer with each version."""
    seen: list[dict[int, float]] = [{} for _ in rankers]
    until = time.perf_counter() + seconds

    def watch(ranker: RawClient, mine: dict[int, float]) -> None:
        while time.perf_counter() < until:
            version = int(ask(ranker, ["unheard of"])[""]["version"])
            mine.setdefault(version, time.perf_counter())

    threads = [threading.Thread(target=watch, args=pair) for pair in zip(rankers, seen, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = sorted(set.intersection(*(set(mine) for mine in seen)))[1:]
    return [max(mine[v] for mine in seen) - min(mine[v] for mine in seen) for v in both]


def on_stack(settings: Settings, tell: Callable[[int, int], None], rate: int) -> dict[str, Any]:
    """On a real Kafka and Redis: clicks to one of two rankers, seen at the other one, or at both."""
    from trainer.bench.stack import EVERYTHING, StackRanker, stack_of
    from trainer.bench.stack import Load as KafkaLoad

    with stack_of(settings) as stack:
        rankers = [StackRanker(stack, name).client() for name in EVERYTHING[:2]]
        workload.send_all(rankers[0], itertools.chain(workload.item_events(ITEMS), probes()))
        for ranker in rankers:
            workload.wait_until_encoded(ranker, ITEMS + COUNTERS + 1)
            wait_for_versions(ranker)
        load, began = KafkaLoad(stack, rate, ITEMS), time.monotonic()
        found = measure(rankers, settings.hold_ms / 1e3, tell, taught=False)
        between = apart(rankers)
        found["versions_apart"] = {**figures(between, len(between)), "versions": len(between)}
        sent = load.stop() / (time.monotonic() - began)
        return {"hold_ms": settings.hold_ms, "events_per_second": round(sent, 1), **found, "served": served(rankers[0])}


def run(
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    *,
    stack: bool = False,
    rate: int = 1_000,
) -> dict[str, Any]:
    """All figures, as one dict; stack: on Kafka and Redis with two rankers, at `rate` events a second beside."""
    tell = progress or (lambda done, total: None)
    if stack:
        return on_stack(settings, tell, rate)
    extra = {**children_of(settings), "hold_ms": settings.hold_ms, "control_share": 0.0}
    with temporary_data() as place:
        server = Server(place, extra)
        trainer = Trainer(place)
        try:
            client = server.client()
            workload.send_all(client, itertools.chain(workload.item_events(ITEMS), probes()))
            workload.wait_until_encoded(client, ITEMS + COUNTERS + 1)
            wait_for_versions(client)
            load = Load(server)
            began = time.monotonic()
            found = measure([client], settings.hold_ms / 1e3, tell)
            load.stop()
            rate_sent = round(load.sent / (time.monotonic() - began), 1)
            return {"hold_ms": settings.hold_ms, "events_per_second": rate_sent, **found, "served": served(client)}
        finally:
            trainer.stop()
            server.stop()
