"""Benches on a real Kafka (three partitions) and Redis, a trainer and two rankers, each a process. It measures nothing.

The processes are those of the crash bench (`crash_stack.py`), with the settings that are the default elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.settings import Settings
from trainer.bench.crash_ledger import Answers
from trainer.bench.crash_stack import RANKERS, TRAINER, Stack, beside_of
from trainer.bench.server import Ranker, children_of, temporary_data

EVERYTHING = (*RANKERS, TRAINER)


class StackRanker(Ranker):
    """One of the two rankers."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.port, self.process = stack.ports[name], stack.children[name]


@contextmanager
def stack_of(settings: Settings, processes: Sequence[str] = EVERYTHING) -> Iterator[Stack]:
    """Everything running, with this hold and the defaults. Raises ServerError, RuntimeError."""
    base = Path(str(children_of(settings)["base_dir"]))
    usual = {
        "REPL_HOLD_MS": str(settings.hold_ms), "REPL_NEGATIVE_AFTER_MS": str(settings.negative_after_ms),
        "REPL_CHECKPOINT_EVERY_MS": str(settings.checkpoint_every_ms), "REPL_VERSIONS_ALL_MINUTES": "10",
        "REPL_REDIS_TIMEOUT_MS": str(settings.redis_timeout_ms),
        "REPL_NEGATIVES_KEPT": str(settings.negatives_kept),
    }  # fmt: skip
    with temporary_data() as place:
        made = Stack(place, base, Answers(), beside_of(settings) if RANKERS[0] in processes else (), **usual)
        try:
            made.open(processes)
            yield made
        finally:
            made.close()


class Load:
    """So many interactions a second straight to Kafka, from a process of its own, until `stop`."""

    def __init__(self, stack: Stack, rate: int, items: int) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
        words = [sys.executable, "-m", "trainer.bench.stack_load", str(rate), str(items)]
        self._process = subprocess.Popen(
            words, env=environment | stack.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def stop(self) -> int:
        """End it; how many events were acknowledged. Raises RuntimeError where it failed."""
        told, _ = self._process.communicate("", timeout=60)
        if self._process.returncode or not told.strip().isdecimal():
            raise RuntimeError(f"the load ended with status {self._process.returncode}")
        return int(told)
