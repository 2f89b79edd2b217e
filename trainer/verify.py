"""`versions verify`: replays the log from the nearest checkpoint to a version and compares every hash on the way.

It writes nothing and needs no trainer to stand still. On another kind of CPU than the one that learned, sums may
round otherwise: then weights are compared with a tolerance, and the answer says so.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import msgspec
import numpy as np

from features.errors import ArtifactError, OffsetLost, StoreError, UnknownVersion
from features.event_log import EventLog, open_log
from features.realtime import RealtimeConfig
from features.records import Cut
from service.artifact import Artifact
from service.settings import Settings
from service.weight_store import Checkpoint, Version, WeightStore, decode_weights, open_weight_store
from trainer.bases import base_by_sha
from trainer.blas import single_thread
from trainer.checkpoint import meta_of, restore
from trainer.core import BaseOf, Core
from trainer.cuts import cover
from trainer.rebuild import Rebuild
from trainer.rules import Rules
from trainer.states import TrainerStates

TOLERANCE = 1e-7
"""Largest difference of a weight, where hashes differ, that is put down to another CPU's rounding."""


def verify(settings: Settings, version: int) -> dict[str, Any]:
    """Verify a version of a data directory; see `verify_version`. Raises UnknownVersion, LogError, StoreError."""
    with closing(open_log(settings)) as event_log:
        store = open_weight_store(settings)
        with closing(store):
            config = RealtimeConfig(max_items=settings.max_items)
            return verify_version(
                event_log, store, version, lambda sha256: base_by_sha(settings, sha256), realtime=config
            )


def verify_version(
    event_log: EventLog, store: WeightStore, version: int, base_of: BaseOf, *, realtime: RealtimeConfig
) -> dict[str, Any]:
    """{ok, version, checkpoint, cuts, compared, differing, largest_difference, reason?}.

    ok: every stored version between the checkpoint and this one was met, to the bit (or, `exact` false, within
    TOLERANCE)."""
    single_thread()
    wanted = store.get(version)
    answer: dict[str, Any] = {"ok": False, "version": version, "exact": False, "compared": 0, "differing": []}
    checkpoint = store.latest_checkpoint(before=version - 1) or store.latest_checkpoint(before=version)
    if checkpoint is None:
        return answer | {"reason": "no checkpoint at or before this version is kept"}
    answer["checkpoint"] = checkpoint.version
    try:
        core = _core(event_log, store, checkpoint, base_of, realtime)
        if core is None:
            return answer | {"reason": f"the base {wanted.base} is not here any more"}
        return answer | _replay(event_log, store, core, wanted)
    except ArtifactError as error:
        return answer | {"reason": error.message}
    except OffsetLost as error:
        return answer | {"reason": f"the log does not reach back that far: {error.message}"}


def _core(
    event_log: EventLog, store: WeightStore, checkpoint: Checkpoint, base_of: BaseOf, realtime: RealtimeConfig
) -> Core | None:
    chunks = store.load_chunks(checkpoint)
    meta = meta_of(chunks)
    artifact: Artifact | None = base_of(meta.base)
    if artifact is None:
        return None

    def make(artifact: Artifact, rules: Rules) -> Core:
        users = TrainerStates(store, 100_000, rules.history)
        made = Core(event_log, users, artifact, rules, realtime=realtime, weights_of=store.get, base_of=base_of)
        made.rebuild = Rebuild(event_log, store, make, base_of, refuses=False)
        return made

    core = make(artifact, msgspec.convert(meta.rules, Rules))
    restore(core, chunks, learned=True)
    core.adopt(meta, learned=True)
    return core


def _replay(event_log: EventLog, store: WeightStore, core: Core, wanted: Version) -> dict[str, Any]:
    differing: list[int] = []
    compared = cuts = 0
    largest = 0.0
    deleted = False
    if core.v == wanted.v:
        compared, here = 1, core.standing()
        differing += [wanted.v] if here.hash != wanted.hash else []
    while core.v < wanted.v:
        at = core.v - core.first_cut
        records = event_log.read("cut", at, 1)
        if not records or records[0].offset != at:
            raise StoreError(f"the cut of version {core.v + 1} is not on the log")
        cut = Cut.from_bytes(records[0].body)
        batch = cover(event_log, core.offsets, cut)
        deleted = deleted or any(record.kind == "blank" for record in batch["event"])
        outcome = core.step(core.v + 1, cut, batch, 0)
        cuts += 1
        try:
            known = store.get(core.v)
        except UnknownVersion:
            continue
        compared += 1
        if known.hash != outcome.version.hash:
            differing.append(known.v)
            largest = max(largest, *_differences(known, outcome.version))
    exact = not differing
    found: dict[str, Any] = {
        "ok": exact or largest <= TOLERANCE, "exact": exact, "cuts": cuts, "compared": compared,
        "differing": differing[:100], "largest_difference": largest,
    }  # fmt: skip
    if deleted and differing:
        found["reason"] = "records in this range were blanked with their user: it cannot be verified any more"
    elif differing and largest > TOLERANCE:
        found["reason"] = "the replay arrives at other weights"
    elif differing:
        found["reason"] = "equal within the tolerance, not to the bit: learned on another kind of CPU?"
    return found


def _differences(a: Version, b: Version) -> list[float]:
    """Largest difference between two versions' weights, base by base; infinite where one has none of a base."""
    names = {one.base for version in (a, b) for one in (version, version.beside) if one is not None and one.weights}
    return [_difference(a.weights_of(name), b.weights_of(name)) for name in sorted(names)]


def _difference(a: bytes | None, b: bytes | None) -> float:
    if a is None or b is None:
        return float("inf")
    left, right = decode_weights(a), decode_weights(b)
    return max(float(np.abs(left[head] - right[head]).max()) for head in left)
