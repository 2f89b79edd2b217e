"""A calm of the crash bench: its load without faults for so many minutes, and what memory does meanwhile.

It proves nothing of the events: the proof that follows does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from trainer.bench.crash_stack import RANKERS, STATES, TRAINER, Stack
from trainer.bench.server import resident_mb

EVERY_SECONDS = 15.0
WARM_SHARE = 0.1
"""Of the calm: caches and tables fill; memory is compared from there on."""
COMPARED = 8
"""Samples at each end whose medians are compared."""
FLAT = 0.05


class Calm:
    """`memory`: by process, [MB once warm, MB at the end]."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._names = stack, (*RANKERS, *(STATES[one] for one in stack.beside), TRAINER, "redis")
        self._samples: dict[str, list[float]] = {name: [] for name in self._names}

    def run(self, minutes: float, tell: Callable[[int, int], None]) -> None:
        """Return after so many minutes. Raises RuntimeError where a process ended."""
        began, total = time.monotonic(), minutes * 60
        while (passed := time.monotonic() - began) < total:
            tell(int(passed), int(total))
            self._stack.supervise()
            if passed >= WARM_SHARE * total:
                for name, samples in self._samples.items():
                    samples.append(resident_mb(self._stack.pid(name)))
            time.sleep(min(EVERY_SECONDS, total / 40))

    @property
    def memory(self) -> dict[str, list[float]]:
        """See the class; of processes that were seen."""
        return {
            name: [round(statistics.median(part), 1) for part in (samples[:COMPARED], samples[-COMPARED:])]
            for name, samples in self._samples.items()
            if samples
        }

    def figures(self) -> dict[str, Any]:
        """For the report; nothing without a calm."""
        return {"memory_mb": self.memory} if self.memory else {}


def grown(memory: dict[str, list[float]]) -> list[str]:
    """Processes whose memory (`Calm.memory`, MB) is not flat (± FLAT). Redis holds what it is given: not judged."""
    return [
        f"{name} {first} -> {last} MB"
        for name, (first, last) in memory.items()
        if name != "redis" and abs(last / first - 1.0) > FLAT
    ]
