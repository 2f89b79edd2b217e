"""The load of the crash bench: users who are shown lists and click, over HTTP at two rankers; an ordinary Kafka client;
and somebody who asks each ranker all the time. Whatever was not acknowledged is sent again with the same id.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

from trainer.bench.crash_ledger import Answer, Answers, Ledger

ITEMS = [f"i{k}" for k in range(40)]
USERS = 150
SHOWN = 10
WAITING = 300
TIMEOUT = 30.0
SEND = Path(__file__).resolve().parent.parent.parent / "deploy" / "local" / "send.py"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Caller:
    """Keep-alive connections to the rankers, one each, made anew after a failure. Of one thread."""

    def __init__(self, ports: dict[str, int], answers: Answers) -> None:
        self._ports, self._answers = ports, answers
        self._wires: dict[str, http.client.HTTPConnection] = {}

    def call(self, ranker: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer; 0 where none came."""
        wire = self._wires.get(ranker)
        for fresh in (False, True):
            if wire is None:
                wire = http.client.HTTPConnection("127.0.0.1", self._ports[ranker], timeout=TIMEOUT)
                fresh = True
            try:
                wire.request(method, path, None if body is None else json.dumps(body))
                answer = wire.getresponse()
                data = answer.read()
                self._wires[ranker] = wire
                return answer.status, json.loads(data)
            except (OSError, http.client.HTTPException, ValueError) as error:
                wire.close()
                self._wires.pop(ranker, None)
                wire = None
                # a server may close an idle connection at any time: asked again on a new one
                if fresh or not isinstance(error, ConnectionError | http.client.RemoteDisconnected):
                    break
        return 0, None

    def close(self) -> None:
        """Hang up."""
        for wire in self._wires.values():
            wire.close()

    def rank(self, ranker: str, user: str) -> dict[str, Any] | None:
        """An answer, noted with its time; None where there was none."""
        began = time.monotonic()
        status, answer = self.call(ranker, "POST", "/v1/rank", {"items": random.sample(ITEMS, SHOWN), "user": user})
        stale = status == 200 and bool(answer["stale"])
        self._answers.add(Answer(ranker, began, time.monotonic(), status, stale))
        return answer if status == 200 else None


class Generator(threading.Thread):
    """A thread with a ledger; ends after `stop` once everything it has sent was acknowledged."""

    def __init__(self, name: str, seed: int, pause: float) -> None:
        super().__init__(name=name, daemon=True)
        self.ledger, self.random, self.pause = Ledger(name), random.Random(f"{name}{seed}"), pause
        self.over, self.error = threading.Event(), ""

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:  # told by the bench: a generator that died proves nothing
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.close()

    def close(self) -> None:
        """Free what is held."""

    def work(self) -> None:
        """The loop."""
        raise NotImplementedError

    def user(self) -> str:
        """One of this generator's own users."""
        return f"{self.name}-{self.random.randrange(USERS)}"

    def interaction(self, user: str, kind: str, item: str, **more: Any) -> dict[str, Any]:
        """A new one, entered in the ledger."""
        event = {"event": "interaction", "id": uuid.UUID(int=self.random.getrandbits(128)).hex, "type": kind,
                 "user": user, "item": item, "timestamp": now_ms(), **more}  # fmt: skip
        return self.ledger.enter(event)


class HttpShop(Generator):
    """Users who are shown what a ranker answers, click, and put into the cart; sent to either ranker."""

    def __init__(self, name: str, seed: int, pause: float, ports: dict[str, int], answers: Answers) -> None:
        super().__init__(name, seed, pause)
        self._caller, self._answers, self._rankers = Caller(ports, answers), answers, sorted(ports)
        self._waiting: deque[list[dict[str, Any]]] = deque()

    def work(self) -> None:
        while not self.over.is_set() or self._waiting:
            if not self.over.is_set() and len(self._waiting) < WAITING:
                self._visit()
            self._send()
            self.over.wait(self.pause) if not self.over.is_set() else time.sleep(0.02)

    def close(self) -> None:
        self._caller.close()

    def _visit(self) -> None:
        user, rnd = self.user(), self.random
        answer = self._caller.rank(rnd.choice(self._rankers), user)
        if answer is None:
            return
        ranking, items = answer["request_id"], answer["ids"]
        shown = {"event": "ranking", "id": ranking, "user": user, "timestamp": now_ms(),
                 "items": [{"id": item, "position": k + 1} for k, item in enumerate(items)]}  # fmt: skip
        events = [self.ledger.enter(shown)]
        for item in rnd.sample(items, rnd.choice((0, 1, 1, 2, 3))):
            events.append(self.interaction(user, "click", item, ranking=ranking))
        if rnd.random() < 0.2:
            events.append(self.interaction(user, "cart", rnd.choice(items)))
        if rnd.random() < 0.1:
            events.append(self._novelty())
        self._waiting.append(events)
        if rnd.random() < 0.03:
            self._waiting.append(events)  # a client that does not know whether it has sent them
            self.ledger.repeated += len(events)

    def _novelty(self) -> dict[str, Any]:
        """An item that was not there: catalogue and vectors of the rankers grow, in memory and on their disks."""
        name = f"{self.name}-{self.random.getrandbits(40):x}"
        fields = {"title": f"new {name}", "category": f"c{self.random.randrange(4)}", "price": 5.0}
        return self.ledger.enter(
            {"event": "item", "id": f"item-{name}", "item": name, "fields": fields, "timestamp": now_ms()}
        )

    def _send(self) -> None:
        if not self._waiting:
            return
        events = self._waiting[0]
        status, answer = self._caller.call(self.random.choice(self._rankers), "POST", "/v1/events", events)
        self._answers.told(status)
        self.ledger.calls += 1
        if status == 200 and answer["accepted"] + answer["duplicates"] == len(events):
            self.ledger.acknowledged.update(event["id"] for event in events)
            self._waiting.popleft()
        elif status == 200:
            raise RuntimeError(f"events were not taken: {answer}")
        else:
            self.ledger.refused += 1
            time.sleep(0.1)


class KafkaShop(Generator):
    """Interactions, some of a kind that nobody maps, and rubbish, from an ordinary Kafka client in its own process."""

    def __init__(self, name: str, seed: int, pause: float, servers: str, topic: str) -> None:
        super().__init__(name, seed, pause)
        self._command = [sys.executable, str(SEND), servers, topic]

    def work(self) -> None:
        with subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as client:
            number = 0
            while not self.over.is_set():
                for _ in range(3):
                    number += 1
                    self._one(client, number)
                self.over.wait(self.pause)
            assert client.stdin is not None
            client.stdin.close()

    def _one(self, client: subprocess.Popen[str], number: int) -> None:
        user, rnd = self.user(), self.random
        if rnd.random() < 0.02:
            rubbish = f"rubbish {self.name} {number}"
            self._until_acknowledged(client, user, rubbish)
            self.ledger.rubbish.add(rubbish)
            return
        kind = "no-such-kind" if rnd.random() < 0.03 else "click"
        event = self.interaction(user, kind, rnd.choice(ITEMS))
        for again in range(2 if rnd.random() < 0.03 else 1):
            self._until_acknowledged(client, user, json.dumps(event))
            self.ledger.repeated += again
        self.ledger.acknowledged.add(event["id"])

    def _until_acknowledged(self, client: subprocess.Popen[str], key: str, value: str) -> None:
        assert client.stdin is not None
        assert client.stdout is not None
        while True:
            client.stdin.write(json.dumps({"key": key, "value": value}) + "\n")
            client.stdin.flush()
            self.ledger.calls += 1
            answer = json.loads(client.stdout.readline())
            if answer["ok"]:
                return
            self.ledger.refused += 1
            if "Configuration" in answer["error"]:
                raise RuntimeError(answer["error"])
            time.sleep(0.1)


class Asker(Generator):
    """Asks one ranker all the time; sends nothing."""

    def __init__(self, ranker: str, seed: int, pause: float, ports: dict[str, int], answers: Answers) -> None:
        super().__init__(f"asker-{ranker}", seed, pause)
        self._ranker, self._caller = ranker, Caller(ports, answers)

    def close(self) -> None:
        self._caller.close()

    def work(self) -> None:
        while not self.over.is_set():
            self._caller.rank(self._ranker, f"http-{self.random.choice('ab')}-{self.random.randrange(USERS)}")
            self.over.wait(self.pause)
