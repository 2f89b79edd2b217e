"""Faults in CI: 26 at seeded moments on a real Kafka and a real Redis under load, and the proof that all adds up.

The engine is that of `repl-ranker bench crash` (trainer/bench/crash.py), which goes on for hundreds. The servers are
its own: they are killed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.local.servers import ServerError
from service.testkit import BASE
from tests.conftest import unavailable
from trainer.bench import crash_proof
from trainer.bench.crash import BESIDE, storm
from trainer.bench.crash_calm import grown
from trainer.bench.crash_faults import kinds_of, plan
from trainer.bench.crash_ledger import Answer, Answers, Ledger
from trainer.bench.crash_stack import RANKERS

FAULTS, LONGEST = 26, 5.0


@pytest.mark.timeout(600)
def test_faults_lose_nothing_repeat_nothing_and_leave_nobody_without_an_answer(tmp_path: Path) -> None:
    try:
        report = storm(tmp_path, BASE, FAULTS, 1, LONGEST, 0.08)
    except ServerError as error:
        unavailable(str(error))
    print(json.dumps(report, indent=1, default=str))
    assert report["wrong"] == []
    assert report["faults"] == FAULTS
    assert len(report["by_kind"]) == len(kinds_of(BESIDE))
    assert report["trained"] > 500
    assert report["versions"] > 50
    assert min(report[name] for name in ("duplicates", "dead_lettered", "dropped_by_policy", "stale")) > 0
    assert report["users"] > 100
    assert report["answers"] > 500
    assert report["failed"] == 0


def test_a_plan_is_a_function_of_its_seed_and_has_every_kind() -> None:
    assert plan(26, 5, 5.0) == plan(26, 5, 5.0) != plan(26, 6, 5.0)
    for beside in ((), BESIDE, RANKERS):
        kinds = kinds_of(beside)
        assert {(fault.kind, fault.part) for fault in plan(len(kinds), 5, 5.0, beside)} == set(kinds)
        assert len(kinds) == 13 + 2 * len(beside)


# the proof itself would not be worth much if it could not fail


def ledger(**events: dict[str, Any]) -> Ledger:
    made = Ledger("x")
    for name, event in events.items():
        made.enter({"id": name, "event": "interaction", "type": "click", "user": "u", "timestamp": 5, **event})
        made.acknowledged.add(name)
    return made


def status(events: int, **counts: int) -> dict[str, Any]:
    return {"totals": {"event": events}, "counts": counts}


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (status(1), ""),
        (status(2), "records that the trainer took"),
        (status(1, duplicates=1), "duplicates that it counted"),
        (status(1, unmapped=1), "dropped by policy"),
        (status(1, clicks=1), "clicks by what became of them"),
    ],
)
def test_an_account_that_does_not_add_up_is_told(told: dict[str, Any], wrong: str) -> None:
    proof, sent = crash_proof.Proof(), ledger(a={"item": "i1"})
    whole = {"v": 1, "tenant": "default", **sent.sent["a"]}
    record = crash_proof.Record("event", 0, 0, "interaction", "default", 5, 5, False, "u", json.dumps(whole).encode())
    crash_proof.accounts(proof, [sent], {"event/0": [record], "dead-letter/0": []}, told)
    assert bool(proof.wrong) == bool(wrong)
    assert not wrong or proof.wrong[0].startswith(wrong)
    lost = crash_proof.Proof()
    crash_proof.accounts(lost, [sent], {"event/0": [], "dead-letter/0": []}, status(0))
    assert lost.wrong[0].startswith("acknowledged ids that are not on the log")


def test_a_state_that_lacks_or_repeats_an_interaction_is_told() -> None:
    from features.keys import item_key
    from features.user_state import UserState

    sent = ledger(a={"item": "i1"}, b={"item": "i2"})
    for items, wrong in ((["i1", "i2"], []), (["i1"], ["1 lost, 0"]), (["i1", "i2", "i2"], ["0 lost, 1"])):
        state, proof = UserState(1), crash_proof.Proof()
        for item in items:
            state.append(item_key(item), 1, 5)
        crash_proof.user_states(proof, [sent], lambda _, state=state: state, {"click": 1}, 256)  # type: ignore[misc]
        assert [part for part in wrong if part in str(proof.wrong)] == wrong
        assert bool(proof.wrong) == bool(wrong)


def test_memory_that_is_not_flat_is_told() -> None:
    memory = {"trainer": [200.0, 209.0], "ranker-a": [200.0, 212.0], "ranker-b": [200.0, 188.0], "redis": [9.0, 99.0]}
    assert grown(memory) == ["ranker-a 200.0 -> 212.0 MB", "ranker-b 200.0 -> 188.0 MB"]


def test_a_failed_request_counts_unless_its_ranker_was_away() -> None:
    answers = Answers()
    answers.add(Answer("ranker-a", 1.0, 1.5, 0, False))
    answers.add(Answer("ranker-b", 1.0, 1.5, 503, False))
    answers.was_away("ranker-a", 1.4, 3.0)
    assert [one.ranker for one in answers.failed()] == ["ranker-b"]


def test_an_answer_that_does_not_say_that_redis_was_away_is_told() -> None:
    answers = Answers()
    for t, stale in ((5.0, True), (6.0, False), (11.0, False)):
        answers.add(Answer("ranker-a", t - 0.1, t, 200, stale))
    assert answers.stale_within("ranker-a", 4.0, 8.0) == (1, 2)
    answers.was_away("ranker-a", 5.5, 5.9)
    assert answers.stale_within("ranker-a", 4.0, 8.0) == (1, 1), "it stood still itself a moment ago"
