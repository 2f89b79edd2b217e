"""Bench of `bootstrap --part weights`: `python -m trainer.bench.bootstrap EVENTS` makes a purchase history of a year
without rankings, archives it, and builds counters, i2i and weights from it in this process. The data go afterwards.

Events a second by the clock and of processor time, for the whole and for what comes after the first cuts (loading and
compiling are over by then). It judges no user states: `--part users` runs in a process of its own.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from features.event_log import open_log
from features.event_log_archive import ArchiveLog
from features.event_log_archive_store import ArchiveStore
from features.events import InteractionEvent
from features.records import event_record
from service.artifact import load_artifact
from service.settings import Settings
from service.weight_store import open_weight_store
from trainer.archive.bootstrap import Bootstrap
from trainer.archive.sink import Sink
from trainer.bench.server import TEST_BASE

USERS, ITEMS, AT_ONCE = 4_000, 5_000, 20_000
START, YEAR = 1_750_000_000_000, 365 * 86_400_000
KINDS = ("click", "click", "click", "click", "cart", "purchase")
FIRST_CUTS = 3


def fill(place: Path, events: int) -> None:
    """A log of imported interactions, and its archive beside it."""
    rnd = np.random.default_rng(1)
    users, items = rnd.zipf(1.2, events) % USERS, rnd.zipf(1.15, events) % ITEMS
    kinds, times = rnd.choice(KINDS, events), START + np.sort(rnd.integers(0, YEAR, events))
    with closing(open_log(place / "log", lambda: START + YEAR)) as log:
        for first in range(0, events, AT_ONCE):
            made = [
                InteractionEvent(
                    id=f"e{k}", timestamp=int(times[k]), type=str(kinds[k]),
                    item=f"item-{items[k]}", user=f"user-{users[k]}",
                )
                for k in range(first, min(events, first + AT_ONCE))
            ]  # fmt: skip
            log.append("event", [event_record(one, imported=True) for one in made])
        Sink(log, ArchiveStore(str(place / "archive"))).catch_up()


def build(place: Path) -> dict[str, Any]:
    """Learn the archive; what it took."""
    marks: list[tuple[float, float, int]] = []

    def tell(done: int, total: int) -> None:
        marks.append((time.perf_counter(), time.process_time(), done))

    with (
        closing(open_log(place / "log")) as log,
        closing(open_weight_store(place / "weights", writer=True)) as store,
        closing(ArchiveLog(str(place / "archive"))) as archive,
    ):
        settings = Settings(data_dir=place / "log")
        made = Bootstrap(archive, log, store, load_artifact(TEST_BASE), settings, progress=tell)
        gc.freeze()
        gc.set_threshold(500_000, 20, 100)  # as `bootstrap` does
        tell(0, 0)
        made.run()
    (clock, cpu, _), (clock_3, cpu_3, done_3), (end, cpu_end, events) = marks[0], marks[FIRST_CUTS], marks[-1]
    return {
        "events": events, "per_second": round(events / (end - clock)),
        "per_cpu_second": round(events / (cpu_end - cpu)),
        "later_per_second": round((events - done_3) / (end - clock_3)),
        "later_per_cpu_second": round((events - done_3) / (cpu_end - cpu_3)),
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), int(sys.argv[1]))
        print(json.dumps(build(Path(name))))
