"""The examination of what is stored: newest records of the log, newest version and heartbeat. It opens nothing that is
not there: an empty data directory stays empty.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from features.errors import ArtifactError, LogError
from features.event_log import EventLog, open_log
from features.records import Stream, partitions_in, split_key
from service.artifact import SAMPLE, find_base, read_manifest
from service.doctor import Finding, clock_finding
from service.settings import Settings
from service.weight_store import Version, WeightStore, open_weight_store

STREAMS: tuple[Stream, ...] = ("event", "cut")
SILENT_MS = 10_000


def _now() -> float:
    return time.time() * 1_000


def check_log(settings: Settings) -> Iterator[Finding]:
    """Can the log be read, and were its newest records taken before now?"""
    if settings.log_url is None and not (settings.data_dir / "log.db").exists():
        yield Finding("WARN", "log", f"there is no log in {settings.data_dir} yet", "the first start makes it")
        return
    with closing(open_log(settings)) as log:
        ends = log.end_offsets()
        events = sum(ends[name] for name in partitions_in("event", ends))
        yield Finding("PASS", "log", f"it can be read; {events:,} events were ever appended")
        newest = max((t for stream in STREAMS for t in _newest(log, stream)), default=None)
        starts = log.start_offsets()
        letters = sum(ends[name] - starts.get(name, 0) for name in partitions_in("dead-letter", ends))
    if newest is not None:  # what lies in the past is no matter of clocks
        yield clock_finding("log", "the time of its newest record", max(0.0, newest - _now()))
    if letters:
        hint = "each says source, offset and reason (docs/runbook.md, DeadLetters)"
        yield Finding("WARN", "log", f"{letters:,} dead letters lie there", hint)


def _newest(log: EventLog, stream: Stream) -> Iterator[int]:
    """The append time of the last record of each partition of a stream."""
    starts, ends = log.start_offsets(), log.end_offsets()
    for name in partitions_in(stream, ends):
        if ends[name] <= starts.get(name, 0):
            continue
        try:
            found = log.read(stream, ends[name] - 1, 1, split_key(name)[1])
        except LogError:  # expired meanwhile
            continue
        yield from (record.append_time for record in found)


def check_versions(settings: Settings) -> Iterator[Finding]:
    """Is there a version, of the base that is served here, and does the trainer live?"""
    if settings.weights_url is None and not (settings.data_dir / "trainer.db").exists():
        yield Finding("WARN", "versions", f"no trainer has run in {settings.data_dir}", "start one: repl-ranker learn")
        return
    with closing(open_weight_store(settings)) as store:
        latest = store.latest()
        if latest is None:
            yield Finding("WARN", "versions", "there is no version yet", "start a trainer: repl-ranker learn")
            return
        yield _held(latest)
        yield from _heartbeat(store)
    yield from _of_base(latest, settings)


def _held(latest: Version) -> Finding:
    what = f"the newest version is {latest.v}, weights of {latest.weights_version}"
    if latest.held is None:
        return Finding("PASS", "versions", what)
    return Finding("WARN", "versions", f"{what}; held: {latest.held}", "docs/runbook.md, WeightsHeld")


def _heartbeat(store: WeightStore) -> Iterator[Finding]:
    beat = store.heartbeat()
    if beat is None:
        return
    age = _now() - beat.at
    if age < -1_000:
        yield clock_finding("versions", "the trainer's clock", -age)
    elif age > SILENT_MS:
        hint = "start it, or look into its log (docs/runbook.md, TrainerSilent)"
        yield Finding("WARN", "versions", f"the trainer's last heartbeat was {age / 1_000:.0f} s ago", hint)
    else:
        yield Finding("PASS", "versions", f"the trainer's last heartbeat was {max(0.0, age) / 1_000:.1f} s ago")


def _of_base(latest: Version, settings: Settings) -> Iterator[Finding]:
    try:
        _, sha256 = read_manifest(find_base(settings.data_dir, settings.base_dir, SAMPLE))
    except ArtifactError:  # said by the examination of the base
        return
    if latest.base != sha256:
        what = f"version {latest.v} is of base {latest.base[:12]}, here lies {sha256[:12]}: its weights are not served"
        yield Finding("WARN", "versions", what, "serve the base that the trainer learns for")
