"""What one of several workers on a machine knows of itself, as the process that started it says. It starts nobody.

Worker 0 writes: it applies the log to catalogue and user states, encodes items and follows the weight store, and the
others read its tables (`shared_tables.py`). A service alone has neither role.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

VARIABLE = "REPLRANKER_WORKER"
METRICS = "PROMETHEUS_MULTIPROC_DIR"


class Worker(NamedTuple):
    """slot: 0 writes; listener, ready, rates: file descriptors of the socket, of the pipe that is told of readiness,
    of the memory in which all count what callers send; early: whether it answers before it is ready (the first start:
    so that its health can be asked for)."""

    slot: int
    listener: int
    ready: int
    rates: int
    early: bool

    @property
    def leads(self) -> bool:
        """Whether it writes the shared tables."""
        return self.slot == 0

    def to_environment(self, folder: Path) -> dict[str, str]:
        """What its process is started with; folder: where the workers' metrics lie."""
        told = f"{self.slot} {self.listener} {self.ready} {self.rates} {int(self.early)}"
        return {VARIABLE: told, METRICS: str(folder)}

    def tell_ready(self) -> None:
        """Tell the process that started it."""
        os.write(self.ready, b"r")


def this_worker() -> Worker | None:
    """What this process is; None for a service alone."""
    found = os.environ.get(VARIABLE)
    if found is None:
        return None
    slot, listener, ready, rates, early = map(int, found.split())
    return Worker(slot, listener, ready, rates, bool(early))


def share_metrics(worker: Worker) -> None:
    """Before the first metric is made: keep values in files by slot, so that any worker can give the sum of all, and a
    worker that is started again counts on."""
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: worker.slot)  # type: ignore[no-untyped-call]
