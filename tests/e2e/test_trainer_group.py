"""`learn --all-tenants` on a real Kafka and a real Redis: tenants shared by members that join, leave and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from features.event_log import open_log
from features.event_parser import parse_event
from features.records import event_record
from service.settings import load_settings
from service.weight_store import open_weight_store
from tests.conftest import ROOT
from tests.e2e.trainer_group import BASE, Trainers

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def trainers(tmp_path: Path, kafka_url: str, redis_url: str) -> Iterator[Trainers]:
    made = Trainers(tmp_path, kafka_url, redis_url)
    try:
        yield made
    finally:
        made.end()


def lines(trainers: Trainers, member: str, message: str) -> list[dict[str, Any]]:
    said = trainers.output(member).read_text().splitlines()
    found = [json.loads(line) for line in said if line.startswith("{")]
    return [line for line in found if line["message"].startswith(message)]


def test_members_join_leave_and_are_killed_and_no_version_is_lost_or_made_twice(trainers: Trainers) -> None:
    trainers.start("one")
    trainers.until(trainers.share_is(3), 60, "one member trains all")
    trainers.until_all_go_on(30)
    began = time.monotonic()
    trainers.start("two")
    trainers.until(trainers.share_is(1, 2), 60, "the second one gets its share")
    trainers.until_all_go_on(15)
    assert max(one.longest_pause(began) for one in trainers.seen.values()) < 10, "who gives a tenant up hands it over"
    busy = max(trainers.shares().items(), key=lambda share: len(share[1]))[0]
    trainers.kill(busy)
    trainers.until_all_go_on(15)
    trainers.until(trainers.share_is(3), 15, "the other one trains all")
    trainers.start(busy)
    trainers.until(trainers.share_is(1, 2), 60, "it comes back")
    leaving = trainers.members.pop(busy)
    leaving.send_signal(signal.SIGTERM)
    trainers.until_all_go_on(15)
    assert leaving.wait(30) == 0
    trainers.until(trainers.share_is(3), 15, "the other one trains all")
    trainers.stop_sending()
    trainers.until(trainers.learned_all, 20, "all is learned")
    for member in ("one", "two"):
        assert not lines(trainers, member, "a tenant's trainer ended by itself")
    for name in trainers.parts:
        found = trainers.proof(name)
        numbers = found["numbers"]
        assert numbers == list(range(numbers[0], 0, -1)), "no version is missing"
        assert (found["verified"]["ok"], found["verified"]["differing"]) == (True, []), found
        assert found["through"]["event/0"] == found["ends"]["event/0"] == trainers.sent[name]


def test_a_trainer_that_cannot_train_is_told_tried_seldom_and_elsewhere_first(trainers: Trainers) -> None:
    """On `one` the last tenant's base is not there."""
    trainers.start("one", more='base_dir = "/nowhere/at/all"\n')
    trainers.until_all_go_on(60, but="-c")
    assert not trainers.seen[f"{trainers.group}-c"].times
    told = "a tenant's trainer ended by itself"
    trainers.until(lambda: len(lines(trainers, "one", told)) >= 3, 30, "it is tried again")
    pauses = [line["in_seconds"] for line in lines(trainers, "one", told)]
    assert pauses == sorted(set(pauses)), "each pause is longer than the one before"
    why = lines(trainers, "one", "this tenant is not trained here")[0]
    assert why["tenant"] == f"{trainers.group}-c"
    assert "/nowhere/at/all" in why["reason"]
    trainers.start("two")
    trainers.until(lambda: f"{trainers.group}-c" in trainers.shares()["two"], 60, "the other member trains it")
    trainers.until_all_go_on(15)


def test_trainers_end_with_their_parent_and_a_loss_of_who_is_there_moves_nothing(trainers: Trainers) -> None:
    for member in ("one", "two"):
        trainers.start(member)
    trainers.until(trainers.share_is(1, 2), 90, "both have their share")
    before = trainers.holders()
    for key in trainers.redis.scan_iter(f"repl:{{{trainers.group}*:w:member*"):
        trainers.redis.delete(key)
    for name in trainers.parts:
        trainers.redis.delete(f"repl:{{{name}}}:w:lease")
    time.sleep(3)
    assert trainers.holders() == before, "who trained goes on"
    busy = max(trainers.shares().items(), key=lambda share: len(share[1]))[0]
    orphans = trainers.trainers(busy)
    parent = trainers.members.pop(busy)
    parent.kill()
    parent.wait(10)
    trainers.until_all_go_on(15)
    trainers.until(trainers.share_is(3), 15, "the other one trains all")
    assert orphans
    assert not any(Path(f"/proc/{pid}").exists() for pid in orphans)


def learn(home: Path, settings: str, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
    """`learn --all-tenants` on embedded stores, with its output."""
    home.mkdir(exist_ok=True)
    (home / "repl-ranker.toml").write_text(settings)
    known = {key: value for key, value in os.environ.items() if not key.startswith("REPL_")}
    command = [sys.executable, "-m", "trainer.cli", "learn", "--all-tenants", "--data-dir", str(home), *words]
    output = home / f"{time.monotonic_ns()}.txt"
    with output.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, env=known, stdout=file, stderr=file), output


def test_on_one_machine_without_redis_the_file_lock_decides(tmp_path: Path) -> None:
    """One tenant, as of settings that name none: the second one is a standby."""
    home = tmp_path / "data"
    (one, first), (other, second) = (learn(home, f'base_dir = "{BASE}"\nhold_ms = 0\n') for _ in range(2))
    try:
        settings = load_settings(None, data_dir=home)[0]
        with closing(open_log(settings)) as log, closing(open_weight_store(settings)) as store:

            def learned(n: int, seconds: float) -> None:
                event = {"event": "interaction", "type": "click", "user": "anna", "item": "i1", "id": f"e{n}"}
                log.append("event", [event_record(parse_event(event | {"timestamp": 1_000 + n}))])
                until = time.monotonic() + seconds
                while (latest := store.latest()) is None or latest.offsets["event/0"] <= n:
                    assert time.monotonic() < until, first.read_text() + second.read_text()
                    time.sleep(0.02)

            learned(0, 60)
            while "standing by" not in first.read_text() + second.read_text():
                assert one.poll() is other.poll() is None
                time.sleep(0.05)
            working = other if "standing by" in first.read_text() else one
            working.kill()
            learned(1, 15)
    finally:
        for process in (one, other):
            process.terminate()
            process.wait(30)
    assert sorted((one.returncode, other.returncode)) == [-signal.SIGKILL, 0]


@pytest.mark.parametrize(
    ("words", "settings", "told"),
    [
        (("--tenant", "a"), "[tenants.a]\n", "without --all-tenants"),
        (("--standby",), "", "each as a standby"),
        (("--resume-at", "latest"), "", "without --all-tenants"),
        ((), '[tenants.a]\nweights_url = "redis://127.0.0.1:1/0"\n', "set weights_url outside of [tenants] too"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, words: tuple[str, ...], settings: str, told: str) -> None:
    process, output = learn(tmp_path / "data", settings, *words)
    assert (process.wait(60), told in output.read_text()) == (2, True), output.read_text()
