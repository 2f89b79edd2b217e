"""Another log than the one learned from: the trainer stops and says so; told to, it goes on, exactly once again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from features.errors import InvalidInput, LogChanged, OffsetLost
from features.event_log import kafka_address, make_kafka_topics, open_log
from features.keys import actor_key
from features.realtime import RealtimeConfig
from features.user_state import UserState
from service.skip_range import time_of
from tests.trainer.learning_kit import SMALL, START, Desk, items_of, make_base, shop_records
from trainer.log_identity import offsets_at
from trainer.online import OnlineTrainer
from trainer.verify import verify_version


def play(desk: Desk, trainer: OnlineTrainer, seconds: int, seed: int) -> None:
    began = desk.clock.now
    for t, stream, records in shop_records(desk.artifact, seconds, seed):
        desk.clock.now = began + t - START
        desk.log.append(stream, [one._replace(timestamp=one.timestamp + began - START) for one in records])  # type: ignore[arg-type]
        trainer.tick()
    desk.run(trainer, 60_000, 2_000)


def unstarted(desk: Desk) -> OnlineTrainer:
    return OnlineTrainer(desk.log, desk.store, desk.artifact, desk.settings, clock=desk.clock, realtime=SMALL)


def verified(desk: Desk) -> dict[str, object]:
    latest = desk.store.latest()
    assert latest is not None
    config: RealtimeConfig = SMALL
    return verify_version(desk.log, desk.store, latest.v, lambda _: desk.artifact, realtime=config)


@pytest.fixture(params=["embedded", "kafka"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    artifact = make_base(tmp_path / "base")
    overrides: dict[str, object] = {"checkpoint_every_ms": 2_000}
    if request.param == "kafka":
        overrides["log_url"] = f"{request.getfixturevalue('kafka_url')}/{uuid.uuid4().hex}?timeout_ms=8000"
    made = None
    try:
        if "log_url" in overrides:
            from service.settings import Settings

            make_kafka_topics(Settings.model_validate({"data_dir": tmp_path, **overrides}), 3, 1)
        made = Desk(tmp_path / "data", artifact, overrides)
        yield made
    finally:
        if made is not None:
            made.close()


def made_again(desk: Desk) -> None:
    """Everything of the log is gone, and an empty one stands in its place."""
    desk.log.close()
    if desk.settings.log_url is None:
        for file in desk.data_dir.glob("log.db*"):
            file.unlink()
    else:
        address = kafka_address(desk.settings)
        admin = KafkaAdminClient(bootstrap_servers=list(address.servers))
        admin.delete_topics(list(address.topics().values()))
        admin.close()
        make_kafka_topics(desk.settings, 2, 1)
    desk.log = open_log(desk.settings, desk.clock)


def test_a_log_made_again_stops_the_trainer_and_resuming_goes_on(desk: Desk) -> None:
    trainer = desk.trainer()
    play(desk, trainer, 20, seed=1)
    before = desk.store.latest()
    assert before is not None
    known = dict(trainer.core.learning.learner.means())
    made_again(desk)
    with pytest.raises(LogChanged, match="another log than that of version"):
        desk.trainer()
    desk.add(*items_of(3, desk.clock.now))
    resumed = unstarted(desk)
    resumed.start(resume_at="earliest")
    versions = desk.store.versions_after(before.v)
    assert [(one.v, one.kind) for one in versions] == [(before.v + 1, "resume")]
    assert all((resumed.core.learning.learner.means()[head] == known[head]).all() for head in known)
    assert sum(at for name, at in versions[0].offsets.items() if name.startswith("event/")) == 0
    play(desk, resumed, 20, seed=2)
    after = desk.store.latest()
    assert after is not None
    assert after.weights != before.weights, "learning goes on"
    again = desk.trainer()
    assert (again.differing, again.core.v) == ([], after.v), "a restart repeats every version since"
    found = verified(desk)
    assert (found["ok"], found["exact"]) == (True, True), found
    states = [again.core.users.get(actor_key(f"u{n}", None)) for n in range(20)]
    assert sum(state is not None and state.offset >> 58 == 1 for state in states) > 5, "states go on in the new log"


def test_records_that_expired_stop_the_trainer_and_are_passed_on_the_operators_word(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "data", make_base(tmp_path / "base"), {"event_retention_days": 1})
    trainer = desk.trainer()
    play(desk, trainer, 10, seed=1)
    late = desk.clock.now
    play_quietly(desk, seed=2)
    desk.clock.now += 3 * 86_400_000
    ends = desk.log.end_offsets()
    assert desk.log.retain(desk.clock.now, ends)["expired_event"] > 0
    with pytest.raises(OffsetLost):
        desk.trainer().tick()
    resumed = unstarted(desk)
    resumed.start(resume_at="latest")
    latest = desk.store.latest()
    assert latest is not None
    assert (latest.kind, latest.offsets["event/0"]) == ("resume", ends["event/0"])
    assert offsets_at(desk.log, late)["event/0"] == desk.log.start_offsets()["event/0"]
    desk.close()


def play_quietly(desk: Desk, seed: int) -> None:
    """Append without a trainer at work."""
    began = desk.clock.now
    for _, stream, records in shop_records(desk.artifact, 5, seed):
        desk.log.append(stream, [one._replace(timestamp=began) for one in records])  # type: ignore[arg-type]


def test_a_time_names_offsets(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "data", make_base(tmp_path / "base"))
    for k in range(40):
        desk.clock.now = START + 1_000 * k
        desk.add(*items_of(60, desk.clock.now)[k : k + 1])
    for k in (0, 1, 17, 39):
        assert offsets_at(desk.log, START + 1_000 * k)["event/0"] == k
    assert offsets_at(desk.log, START + 1_000 * 16 + 1)["event/0"] == 17
    assert offsets_at(desk.log, START + 99_000)["event/0"] == 40
    assert time_of("2026-11-21T08:30") == time_of("2026-11-21T09:30+01:00") == 1_795_249_800_000
    assert time_of("1795249800000") == 1_795_249_800_000
    with pytest.raises(InvalidInput, match="not a time"):
        time_of("yesterday")
    desk.close()


def test_a_state_takes_records_of_a_new_log_and_refuses_old_ones() -> None:
    state = UserState(7)
    assert state.append(1, 1, 10, 500)
    assert not state.append(1, 1, 10, 500)
    second = 1 << 58  # the same partition of the next log
    assert state.append(2, 1, 20, second | 3)
    assert not state.append(2, 1, 20, second | 3)
    assert state.append(3, 1, 30, second | 4)
    assert len(state) == 3
