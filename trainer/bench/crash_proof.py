"""After the storm: does everything add up? By the generators' ledgers, the log itself, and a replay of it in a fresh
learner, from offset 0 through the recorded cuts. It reads; it starts and stops nothing.

    accepted = trained + duplicates + dead-lettered + dropped by policy, each counted on its own
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from features import events
from features.event_log import EventLog
from features.keys import actor_key, item_key
from features.realtime import RealtimeConfig
from features.records import UNREADABLE, Cut, Record, partitions_in, split_key
from features.user_state import UserState
from service.artifact import Artifact
from service.settings import Settings
from service.weight_store import Version, WeightStore
from trainer.bench.crash_ledger import Ledger
from trainer.blas import single_thread
from trainer.core import Core
from trainer.cuts import READ, Batch
from trainer.rules import Rules
from trainer.states import TrainerStates

READ_AT_ONCE = 20_000
CLICK_ENDS = ("clicks", "repeated_clicks", "late_clicks", "not_shown", "unjoined")


@dataclass
class Proof:
    """Findings: `wrong` is empty where everything added up."""

    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def same(self, what: str, found: object, expected: object) -> None:
        """Note a difference."""
        if found != expected:
            self.wrong.append(f"{what}: {found}, not {expected}")


def whole(log: EventLog) -> dict[str, list[Record]]:
    """Every record that the trainer reads, and the cuts and dead letters, by partition."""
    starts, ends = log.start_offsets(), log.end_offsets()
    found: dict[str, list[Record]] = {name: [] for name in ends}
    at = dict(starts)
    while behind := {name: start for name, start in at.items() if start < ends[name]}:
        part = log.read_many(behind, ends, READ_AT_ONCE)
        for name, records in part.records.items():
            found[name] += records
        at.update(part.reached)
    return found


def of_stream(found: dict[str, list[Record]], stream: str) -> list[Record]:
    """All partitions of a stream, one after the other."""
    return [record for name in sorted(partitions_in(stream, found)) for record in found[name]]


def accounts(proof: Proof, ledgers: Iterable[Ledger], found: dict[str, list[Record]], status: dict[str, Any]) -> None:
    """The equation, by three counts: what was acknowledged, what is on the log, what the trainer says."""
    records, ledgers = of_stream(found, "event"), list(ledgers)
    sent = {name: event for ledger in ledgers for name, event in ledger.sent.items()}
    acknowledged = set().union(*(ledger.acknowledged for ledger in ledgers))
    rubbish = sum(len(ledger.rubbish) for ledger in ledgers)
    unreadable = [record for record in records if record.kind == UNREADABLE]
    copies = Counter(events.from_bytes(one.body).id for one in records if one.kind != UNREADABLE)
    missing = acknowledged - copies.keys()
    proof.same("acknowledged ids that are not on the log", sorted(missing)[:5], [])
    proof.same("ids on the log that nobody sent", sorted(copies.keys() - sent.keys())[:5], [])
    told = [(body["source"], body["offset"]) for body in map(_body, of_stream(found, "dead-letter"))]
    letters = {one for one in told if not one[0].startswith("control/")}  # a rollback that was refused is no event
    proof.same("dead letters", letters, {(f"{one.stream}/{one.partition}", one.offset) for one in unreadable})
    counts, total = status["counts"], status["totals"].get("event", 0)
    duplicates = copies.total() - len(copies)
    unmapped = sum(sent[name].get("type") == "no-such-kind" for name in copies if name in sent)
    proof.same("records that the trainer took", total, len(records))
    proof.same("duplicates that it counted", counts.get("duplicates", 0), duplicates)
    proof.same("dropped by policy (no behaviour of the schema)", counts.get("unmapped", 0), unmapped)
    _labels(proof, [sent[name] for name in copies if name in sent], counts)
    if len(unreadable) < rubbish:
        proof.wrong.append(f"{rubbish} values that are no events were acknowledged, {len(unreadable)} are on the log")
    trained = len(copies) - unmapped
    proof.same("trained + duplicates + dead + dropped", trained + duplicates + len(letters) + unmapped, len(records))
    proof.figures |= {
        "acknowledged": len(acknowledged) + rubbish, "on_the_log": len(records), "trained": trained,
        "duplicates": duplicates, "dead_lettered": len(letters), "dropped_by_policy": unmapped,
        "labels": {name: counts.get(name, 0) for name in ("shown", *CLICK_ENDS)},
    }  # fmt: skip


def _body(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(record.body)
    return found


def _labels(proof: Proof, known: list[dict[str, Any]], counts: dict[str, int]) -> None:
    """Every list that was shown and every click that names one ended in exactly one of its counts."""
    shown = sum(len(event["items"]) for event in known if event["event"] == "ranking")
    proof.same("shown items that were taken", counts.get("shown", 0), shown)
    clicks = sum(event.get("type") == "click" and "ranking" in event for event in known)
    proof.same("clicks by what became of them", sum(counts.get(name, 0) for name in CLICK_ENDS), clicks)


def replayed(
    proof: Proof, found: dict[str, list[Record]], log: EventLog, store: WeightStore, empty: WeightStore,
    artifact: Artifact, settings: Settings, seen: dict[int, str], status: dict[str, Any],
) -> None:  # fmt: skip
    """The same log in a fresh learner: every version it published has these bits, and none was skipped or reused.

    empty: a store without versions, for the fresh learner; seen: hashes as they were seen during the storm."""
    single_thread()
    rules, stored = Rules.of(settings), _stored(store)
    users = TrainerStates(empty, settings.users_in_memory, rules.history)
    core = Core(
        log, users, artifact, rules, realtime=RealtimeConfig(max_items=settings.max_items),
        weights_of=store.get, base_of=lambda sha256: artifact if sha256 == artifact.sha256 else None,
    )  # fmt: skip
    offsets = {name: [one.offset for one in records] for name, records in found.items()}
    cuts = found["cut/0"]
    proof.same("versions", sorted(stored), list(range(1, len(cuts) + 1)))
    differing, last = [], ""
    for record in cuts:
        cut, v = Cut.from_bytes(record.body), record.offset + 1
        outcome = core.step(v, cut, _covered(found, offsets, core.offsets, cut), 0)
        last = outcome.version.hash
        if v in stored and (stored[v].hash, stored[v].weights) != (last, outcome.version.weights):
            differing.append(v)
    proof.same("versions with other bits than the replay's", differing[:10], [])
    changed = [v for v, known in seen.items() if v in stored and stored[v].hash != known]
    proof.same("versions that were published twice with different content", changed[:10], [])
    proof.same("what the trainer counted", _counted(status), _counted({"counts": core.learning.join.counts,
                                                                       "totals": core.totals}))  # fmt: skip
    proof.same("versions that the trainer itself could not repeat", status["differing"], [])
    proof.figures |= {"versions": len(stored), "seen_during": len(seen), "last_hash": last}


def _counted(status: dict[str, Any]) -> dict[str, int]:
    """Counts that a replay must meet. (Those of weights that were no numbers are of the learner, not of the join.)"""
    mine = {name: n for name, n in status["counts"].items() if name not in ("poisoned", "covariance_resets") and n}
    return mine | {f"records of {name}": n for name, n in status["totals"].items()}


def _stored(store: WeightStore) -> dict[int, Version]:
    found: dict[int, Version] = {}
    while part := store.versions_after(max(found, default=0), 1_000):
        found |= {one.v: one for one in part}
    return found


def _covered(
    found: dict[str, list[Record]], offsets: dict[str, list[int]], start: dict[str, int], cut: Cut
) -> Batch:
    """What a cut covers, from what was read in one go: not by the code that the trainer uses."""
    batch: Batch = {stream: [] for stream in READ}
    for stream, partition in sorted(split_key(name) for name in cut.offsets):
        name = f"{stream}/{partition}"
        lo = bisect.bisect_left(offsets[name], start.get(name, 0))
        batch[stream] += found[name][lo : bisect.bisect_left(offsets[name], cut.offsets[name])]
    return batch


Known = Callable[[int], UserState | None]


def user_states(proof: Proof, ledgers: Iterable[Ledger], get: Known, kinds: dict[str, int], history: int) -> list[str]:
    """Every user's stored state holds each of her interactions once; returns the users that have any."""
    of_user: dict[str, Counter[tuple[int, int, int]]] = {}
    for event in (one for ledger in ledgers for one in ledger.sent.values()):
        if event["event"] == "interaction" and event["type"] in kinds:
            entry = (item_key(event["item"]), event["timestamp"], kinds[event["type"]])
            of_user.setdefault(event["user"], Counter())[entry] += 1
    wrong = []
    for user, expected in of_user.items():
        state = get(actor_key(user, None))
        if state is None:
            wrong.append(f"{user}: nothing of {expected.total()}")
            continue
        held = Counter(zip(state.items.tolist(), state.times.tolist(), state.kinds.tolist(), strict=True))
        if expected.total() > history:
            newest = sorted(expected.elements(), key=lambda entry: entry[1])[-history // 2 :]
            held, expected = held & Counter(newest), Counter(newest)
        if held != expected:
            wrong.append(f"{user}: {(expected - held).total()} lost, {(held - expected).total()} too many")
    proof.same("user states that are not what was acknowledged", wrong[:5], [])
    proof.figures |= {"users": len(of_user), "users_wrong": len(wrong)}
    return sorted(of_user)


