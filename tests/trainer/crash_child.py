"""A trainer to be killed: started by test_exactly_once.py, it forks a trainer process a line of its input.

Line: JSON {data_dir, base, kill?: [step, occurrence]}. Each forked process opens the data directory as `learn`
does, follows the log to its end in cuts of a fixed number of records, prints {"done": …} and ends; told to, it
kills itself (SIGKILL) after a numbered commit step. The parent may kill it at any moment.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

from learning_kit import END, SMALL, crash_log, make_base  # noqa: E402

from features.event_log import open_log  # noqa: E402
from service.artifact import load_artifact  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.weight_store import open_weight_store  # noqa: E402
from trainer.fence import Fence  # noqa: E402
from trainer.online import OnlineTrainer  # noqa: E402

CUT = 40


class Cadence:
    """A clock that jumps: checkpoints after a few cuts, at other ones after each restart."""

    def __init__(self, jump: int) -> None:
        self.now, self.jump = 0, jump

    def __call__(self) -> int:
        self.now += self.jump
        return self.now


def learn(order: dict[str, Any]) -> dict[str, Any]:
    """Follow the log to its end; what the trainer then is."""
    data_dir = Path(order["data_dir"])
    counted: Counter[int] = Counter()

    def step(number: int) -> None:
        counted[number] += 1
        if order.get("kill") == [number, counted[number]]:
            os.kill(os.getpid(), signal.SIGKILL)

    given = {name: value for name, value in order.items() if name in Settings.model_fields}
    settings = Settings(**given | {"data_dir": data_dir, "max_items": 2_000, "join_capacity": 2_000})
    others = [load_artifact(Path(order["other"]))] if "other" in order else []
    fence, opened = Fence(data_dir), open_weight_store(settings, writer=True)
    with closing(fence), closing(open_log(settings, lambda: END)) as log, closing(opened) as store:
        trainer = OnlineTrainer(
            log, store, load_artifact(Path(order["base"])), settings, clock=lambda: END,
            cadence=Cadence(order.get("jump", 900)), realtime=SMALL, steps=step, max_records=CUT,
            base_of=lambda sha256: next((one for one in others if one.sha256 == sha256), None),
        )  # fmt: skip
        trainer.start()
        if "kill" not in order:
            print(json.dumps({"started": os.getpid()}), flush=True)
        while trainer.tick():
            continue
        return summary(trainer, store) | {"steps": dict(counted)}


def summary(trainer: OnlineTrainer, store: Any) -> dict[str, Any]:
    """Everything that two equal trainers share."""
    core, latest = trainer.core, store.latest()
    pairs = [core.learning] + ([] if core.rollout.shadow is None else [core.rollout.shadow.learning])
    learned = b"".join(part for one in pairs for of in (one.learner, one.gate) for part in of.chunks().values())
    rings = [ring.digest() for one in pairs for ring in one.join._rings().values()]
    return {
        "base": core.artifact.sha256, "rollout": {k: v for k, v in core.rollout.status().items() if k != "counts"},
        "beside": None if core.rollout.shadow is None else dict(core.rollout.shadow.learning.join.counts),
        "v": latest.v, "hash": latest.hash, "weights": hashlib.sha256(latest.weights).hexdigest(),
        "learner": hashlib.sha256(learned).hexdigest(), "join": rings, "counters": core.realtime.digest(),
        "catalogue": core.catalogue.digest(), "dedup": core.dedup.digest(), "totals": core.totals,
        "counts": core.learning.join.counts, "differing": trainer.differing,
        "trips": core.learning.gate.state.trips, "control": log_end(trainer),
    }  # fmt: skip


def log_end(trainer: OnlineTrainer) -> int:
    """Control records on the log."""
    return trainer._log.end_offsets().get("control/0", 0)


def main() -> None:
    """Compile and load everything by learning a small log, then fork a trainer for each line; say how it ended."""
    with tempfile.TemporaryDirectory() as place:
        crash_log(Path(place) / "log", make_base(Path(place) / "base"), 5)
        learn({"data_dir": f"{place}/log", "base": f"{place}/base"})
    gc.collect()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                print(json.dumps({"done": learn(json.loads(line))}), flush=True)
                code = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
