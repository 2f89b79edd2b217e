"""Which log the trainer follows, and going on with another one on the operator's word. It learns nothing.

Cluster and topic ids stand in the checkpoint, beside the offsets that mean something in that log only. Where they
differ, or offsets are gone, the trainer stops and says what it found; `learn --resume-at` then goes on from the newest
checkpoint: same weights, counters and states, offsets of the log that is there, and a version of kind `resume`.
"""

from __future__ import annotations

from features.errors import InvalidInput, LogChanged
from features.event_log import EventLog
from features.event_log_identity import identity_of
from features.records import Offsets, partitions_in
from service.skip_range import offset_at, time_of
from trainer.core import Core
from trainer.cuts import READ
from trainer.served import ServedIndex

CUT = "cut/0"
GENERATIONS = 32  # logs that one model may go through: 5 bits of a place
HINT = (
    "`repl-ranker learn --resume-at earliest|latest|TIME` goes on with the log that is there (the next version records"
    " it); or bring the old one back"
)


def log_id(log: EventLog) -> dict[str, str]:
    """{cluster, event, served, cut, control: ids} of a log. Raises LogError."""
    cluster, topics = identity_of(log)
    return {"cluster": cluster} | {stream: topics[stream] for stream in (*READ, "cut")}


def check_log(core: Core, log: EventLog) -> None:
    """Raises LogChanged where this is not the log that was learned from. (A checkpoint of old names none: any log.)"""
    found = log_id(log)
    core.log = core.log or found
    differing = [name for name, known in core.log.items() if found.get(name) != known]
    if differing:
        what = ", ".join(f"{name} was {core.log[name]}, is {found.get(name)}" for name in differing)
        raise LogChanged(
            f"this is another log than that of version {core.v}: {what}", field="log_url", value=found["cluster"],
            hint=HINT,
        )  # fmt: skip


def resume(core: Core, log: EventLog, latest: int, at: str) -> None:
    """Go on with `log` from `at` (earliest, latest, or a time of append) as version `latest` + 1. Raises InvalidInput,
    LogError. What the core has learned through its checkpoint stays; what came after it and is gone stays unlearned.
    """
    starts, ends = log.start_offsets(), log.end_offsets()
    names = [name for stream in READ for name in partitions_in(stream, ends)]
    chosen = _chosen(log, at, starts, ends)
    core.offsets = {name: chosen[name] for name in names}
    if core.log != (found := log_id(log)):
        core.log, core.generation = found, core.generation + 1
        if core.generation >= GENERATIONS:
            raise InvalidInput("this model has gone through too many logs", field="resume-at", value=core.generation)
        core.forget_served(ServedIndex(log))
    core.v = latest
    core.first_cut = latest - ends.get(CUT, 0)


def _chosen(log: EventLog, at: str, starts: Offsets, ends: Offsets) -> Offsets:
    if at == "earliest":
        return starts
    if at == "latest":
        return ends
    return offsets_at(log, time_of(at))


def offsets_at(log: EventLog, t: int) -> Offsets:
    """Of every partition the offset of the first record appended at `t` (ms) or later. Raises LogError."""
    ends = log.end_offsets()
    return {name: offset_at(log, name, first, ends.get(name, first), t) for name, first in log.start_offsets().items()}
