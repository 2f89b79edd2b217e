"""What befalls the stack of the crash bench, and when: a seeded plan, up to three at a time. It proves nothing.

Every kind of fault comes once before any comes twice. A part that is away is left alone until it is back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.bench.crash_ledger import Answers
from trainer.bench.crash_stack import RANKERS, SERVERS, STATES, TRAINER, Stack

AT_ONCE = 3
SETTLED_STALE = 3.0
"""Seconds of an outage of Redis after which answers have to say that they are stale."""


@dataclass(frozen=True)
class Fault:
    """`after`: seconds since the one before began; `seconds`: how long it lasts, or until it is started again."""

    kind: str
    part: str
    after: float
    seconds: float


def kinds_of(beside: Sequence[str]) -> list[tuple[str, str]]:
    """What befalls which part, where these rankers have their user states kept beside them."""
    parts = (TRAINER, *RANKERS, *(STATES[ranker] for ranker in beside), *SERVERS)
    every = [(kind, part) for kind in ("kill", "stop") for part in parts]
    return [*every, ("full", "redis"), ("disk", TRAINER), ("disk", RANKERS[0])]


def plan(count: int, seed: int, longest: float, beside: Sequence[str] = ()) -> list[Fault]:
    """`count` faults; stops last from 3 s to `longest`, more often short ones."""
    rnd, found, kinds = random.Random(seed), list[Fault](), kinds_of(beside)
    while len(found) < count:
        for kind, part in rnd.sample(kinds, len(kinds)):
            seconds = rnd.uniform(0.0, 1.5) if kind == "kill" else 3.0 + (longest - 3.0) * rnd.random() ** 2
            if (kind, part) == ("stop", "redis"):
                seconds = max(seconds, SETTLED_STALE + 1.5)  # long enough to see what answers say
            found.append(Fault(kind, part, rnd.uniform(0.5, 4.0), seconds))
    return found[:count]


class Storm:
    """Carries a plan out."""

    def __init__(self, stack: Stack, answers: Answers) -> None:
        self._stack, self._answers = stack, answers
        self._busy: set[str] = set()
        self._free, self._over = threading.Condition(), threading.Event()
        self.done: dict[str, int] = {}
        self.errors: list[str] = []
        self._outages: list[tuple[float, float]] = []  # of Redis: when they began, how long they were
        self.told = 0

    def run(self, faults: list[Fault], tell: Callable[[int, int], None]) -> None:
        """All of them; returns when the last part is back. Raises RuntimeError where one did not come back."""
        threads = []
        keeper = threading.Thread(target=self._supervise, daemon=True)
        keeper.start()
        for number, fault in enumerate(faults):
            time.sleep(fault.after)
            with self._free:
                while fault.part in self._busy or len(self._busy) >= AT_ONCE:
                    self._free.wait()
                self._busy.add(fault.part)
            if self.errors:
                break
            thread = threading.Thread(target=self._one, args=(fault,), daemon=True)
            thread.start()
            threads.append(thread)
            tell(number + 1, len(faults))
        for thread in threads:
            thread.join()
        self._over.set()
        keeper.join()
        if self.errors:
            raise RuntimeError("\n".join(self.errors))

    def _supervise(self) -> None:
        while not self._over.wait(0.3):
            try:
                self._stack.supervise()
            except RuntimeError as error:
                self.errors.append(str(error))
                return

    def _one(self, fault: Fault) -> None:
        name = f"{fault.kind} {fault.part}"
        try:
            began = time.monotonic()
            self._do(fault)
            self.done[name] = self.done.get(name, 0) + 1
            if name == "stop redis":
                self._outages.append((began, fault.seconds))
        except Exception as error:  # told by `run`, which ends the bench
            self.errors.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            with self._free:
                self._busy.discard(fault.part)
                self._free.notify_all()

    def _do(self, fault: Fault) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "kill": lambda: self._stack.kill(fault.part, fault.seconds),
            "stop": lambda: self._stack.freeze(fault.part, fault.seconds),
            "full": lambda: self._stack.fill_redis(fault.seconds),
            "disk": lambda: self._stack.fill_disk(fault.part, fault.seconds),
        }
        calls[fault.kind]()

    def judge(self) -> list[str]:
        """Answers given while Redis was away that did not say so, from SETTLED_STALE on; counts the others."""
        unsaid = []
        for began, seconds in self._outages:
            for ranker in RANKERS:
                stale, answered = self._answers.stale_within(ranker, began + SETTLED_STALE, began + seconds)
                self.told += stale
                if stale < answered:
                    unsaid.append(f"{ranker}: {answered - stale} of {answered} answers without Redis were not stale")
        return unsaid
