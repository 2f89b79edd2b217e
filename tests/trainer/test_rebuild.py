"""`rollback --counters`: counters, i2i and user states as if a range of the log had never been, the same bits whatever
checkpoint is at hand, whoever is killed, and as often as it is asked for.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from learning_kit import END, SMALL, START, control, make_base, shop_records

from features.errors import InvalidRequest
from features.event_log import EventLog, open_log
from features.event_log_archive import ArchiveLog
from features.event_log_archive_manifest import Began
from features.event_log_archive_store import ArchiveStore
from features.events import InteractionEvent
from features.keys import actor_key
from features.ops import Ops
from features.realtime import RealtimeState
from features.records import event_record
from service.artifact import Artifact
from service.settings import Settings
from service.skip_range import check_reach
from service.weight_store import WeightStore, open_weight_store
from trainer.archive.bootstrap import Bootstrap
from trainer.archive.sink import Sink
from trainer.online import OnlineTrainer
from trainer.rebuild import lacking
from trainer.rules import Rules
from trainer.verify import verify_version

SECONDS = 90
POISON = START + 25_000, START + 35_000
ASKED = START + 45_000  # when the rollback is appended
ROBOTS = [f"robot-{k}" for k in range(5)] + ["u3", "u4"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_base(tmp_path_factory.mktemp("base"))


def settings_of(place: Path) -> Settings:
    return Settings(data_dir=place, max_items=2_000, join_capacity=2_000, hold_ms=2_000, negative_after_ms=5_000)


def robots(t: int, k: int) -> list[Any]:
    """Clicks and purchases of robots, and of users who are there otherwise too."""
    kinds = ("click", "cart", "purchase")
    return [
        event_record(
            InteractionEvent(id=f"p{k}-{n}", timestamp=t + n, type=kinds[n % 3], item=f"i{(k + n) % 9}", user=who)
        )
        for n, who in enumerate(ROBOTS)
    ]


def write_log(place: Path, base: Artifact, without: tuple[tuple[int, int], ...] = ()) -> tuple[int, int]:
    """A shop of some time in which robots are at work for ten seconds; the offsets of those seconds' events.

    without: ranges that are never counted, from the beginning."""
    now = START
    with closing(open_log(settings_of(place), lambda: now)) as log:
        for one in without:
            for what in ("counters", "user_state"):
                log.append("control", [control("skip", applies_to=what, **skip_of(*one))])
        bounds: list[int] = []
        for number, (t, stream, records) in enumerate(shop_records(base, SECONDS)):
            now = max(now, t)
            for edge in POISON:
                if len(bounds) < 2 and edge <= now and (not bounds or edge == POISON[1]):
                    bounds.append(log.end_offsets()["event/0"])
            log.append(stream, records)  # type: ignore[arg-type]
            if len(bounds) == 1:
                log.append("event", robots(now, number))
        return bounds[0], bounds[1]


class Jump:
    """A clock of checkpoints: one about every third cut."""

    def __init__(self, step: int = 4_000) -> None:
        self.now, self.step = 0, step

    def __call__(self) -> int:
        self.now += self.step
        return self.now


@contextmanager
def opened(place: Path, weights: str = "weights") -> Iterator[tuple[EventLog, WeightStore]]:
    store = open_weight_store(place / weights, writer=True)
    with closing(open_log(settings_of(place), lambda: ASKED)) as log, closing(store):
        yield log, store


def trainer_of(log: EventLog, store: WeightStore, base: Artifact, place: Path, **more: Any) -> OnlineTrainer:
    made = OnlineTrainer(
        log, store, base, settings_of(place), clock=lambda: END, cadence=Jump(), realtime=SMALL, max_records=40, **more
    )  # fmt: skip
    made.start()
    return made


def follow(trainer: OnlineTrainer, cuts: int = 1 << 30) -> OnlineTrainer:
    while cuts and trainer.tick():
        cuts -= 1
    return trainer


def counted(trainer: OnlineTrainer) -> dict[str, Any]:
    """All that `--counters` rebuilds."""
    core = trainer.core
    who = {}
    for name in [*ROBOTS, *(f"u{k}" for k in range(20))]:
        state = core.users.get(actor_key(name, None))
        who[name] = [] if state is None else [state.items.tolist(), state.times.tolist()] if len(state) else []
    return {"realtime": core.realtime.digest(), "users": who}


def skip_of(first: int, last: int) -> dict[str, dict[str, int]]:
    return {"from": {"event/0": first}, "to": {"event/0": last}}


def rollback(log: EventLog, to: int, skip: dict[str, dict[str, int]], **more: Any) -> None:
    log.append("control", [control("rollback", to=to, skip=skip, applies_to="weights", counters=True, **more)])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base: Artifact) -> tuple[Path, int, int]:
    """A log that was learned to two thirds when the rollback was asked for, and went on behind it."""
    place = tmp_path_factory.mktemp("shop")
    first, last = write_log(place, base)
    with opened(place) as (log, store):
        trainer = trainer_of(log, store, base, place)
        while trainer.core.offsets.get("event/0", 0) < last + 60:
            assert trainer.tick()
        assert any(one.v < trainer.core.v and one.offsets["event/0"] <= first for one in store.versions(1_000))
        rollback(log, 3, skip_of(first, last))
        follow(trainer)
    return place, first, last


def copied(shop: tuple[Path, int, int], to: Path) -> Path:
    shutil.copytree(shop[0], to / "shop")
    return to / "shop"


def back_of(store: WeightStore) -> int:
    return next(one.v for one in store.versions(1_000) if one.kind == "rollback")


def test_it_is_as_if_the_range_had_never_been(shop: tuple[Path, int, int], base: Artifact, tmp_path: Path) -> None:
    """Against a trainer that left the range out from the beginning; and the poison was to be seen."""
    place, first, last = shop
    with opened(place) as (log, store):
        found = counted(trainer_of(log, store, base, place))
    truth: list[dict[str, Any]] = []
    for clean in (True, False):
        other = tmp_path / str(clean)
        write_log(other, base, ((first, last),) if clean else ())
        with opened(other) as (log, store):
            truth.append(counted(follow(trainer_of(log, store, base, other))))
    assert found == truth[0]
    assert found["realtime"] != truth[1]["realtime"]
    assert found["users"]["robot-0"] == []
    assert truth[1]["users"]["robot-0"] != []
    assert 0 < len(found["users"]["u3"][0]) < len(truth[1]["users"]["u3"][0])


@pytest.mark.parametrize("kept", ["all", "one before the range", "the first"])
def test_a_replay_meets_the_same_bits_from_any_checkpoint(
    shop: tuple[Path, int, int], base: Artifact, tmp_path: Path, kept: str
) -> None:
    place, (_, first, _) = copied(shop, tmp_path), shop
    with opened(place) as (log, store):
        v, newest = back_of(store), store.latest()
        assert newest is not None
        assert newest.v > v + 2
        points = [one[0] for one in store._rows("SELECT v FROM checkpoints ORDER BY v")]  # type: ignore[attr-defined]
        before = [one for one in points if store.get(one).offsets["event/0"] <= first]
        assert len(before) > 2
        wanted = {"all": points, "one before the range": before[-1:], "the first": before[:1]}[kept]
        with store._transaction() as db:  # type: ignore[attr-defined]
            for point in set(points) - set(wanted):
                db.execute("DELETE FROM checkpoints WHERE v = ?", (point,))
        for version in (v, newest.v):
            told = verify_version(log, store, version, lambda sha: base, realtime=SMALL)
            assert (told["ok"], told["exact"]) == (True, True), told
        assert told["compared"] >= (1 if kept == "all" else newest.v - wanted[-1])
        truth, trainer = newest.hash, trainer_of(log, store, base, place)
        assert trainer.differing == []
        assert trainer.core.standing().hash == truth


@pytest.mark.parametrize("moment", [1, 4, 9])
def test_killed_in_the_middle_it_starts_again(
    shop: tuple[Path, int, int], base: Artifact, tmp_path: Path, moment: int
) -> None:
    """SIGKILL after so many of the cuts that the rebuild follows."""
    place, first, last = tmp_path / "shop", shop[1], shop[2]
    write_log(place, base)
    with opened(shop[0]) as (_, store):
        newest = store.latest()
        assert newest is not None
        truth = newest.hash
    child = os.fork()
    if child == 0:
        try:
            with opened(place) as (log, store):
                trainer = trainer_of(log, store, base, place)
                while trainer.core.offsets.get("event/0", 0) < last + 60:
                    trainer.tick()
                rollback(log, 3, skip_of(first, last))
                left = [moment]

                def alive() -> None:
                    left[0] -= 1
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)

                trainer.core.rebuild._alive = alive  # type: ignore[attr-defined]
                follow(trainer)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with opened(place) as (log, store):
        before = store.latest()
        assert before is not None
        assert before.kind != "rollback", "it was not committed"
        trainer = follow(trainer_of(log, store, base, place))
        assert store.get(trainer.core.v).hash == truth
        assert trainer.differing == []


def test_rankers_read_the_counters_anew(shop: tuple[Path, int, int]) -> None:
    with opened(shop[0]) as (_, store):
        v = back_of(store)
        assert store.changes_since(v - 1) is None, "no changes lead there"
        checkpoint = store.latest_checkpoint(v)
        assert checkpoint is not None
        assert checkpoint.version == v, "in the same transaction"
        ranker = RealtimeState(SMALL)
        ranker.restore(store.load_chunks(checkpoint, "realtime/"))
        newest = store.latest_checkpoint()
        assert newest is not None
        for _, body in (one for one in store.changes_since(v) or [] if one[0] <= newest.version):
            ranker.apply(Ops.from_bytes(body))
        at_last = RealtimeState(SMALL)
        at_last.restore(store.load_chunks(newest, "realtime/"))
        assert ranker.digest() == at_last.digest()


def test_a_second_range_leaves_out_both(shop: tuple[Path, int, int], base: Artifact, tmp_path: Path) -> None:
    """The second reaches back before the first, so that its checkpoint still holds the first range's poison or not."""
    place, first, last = copied(shop, tmp_path), shop[1], shop[2]
    ranges = [(first, last), (first - 60, first - 20), (last + 10, last + 40)]
    with opened(place) as (log, store):
        trainer = trainer_of(log, store, base, place)
        for one in ranges[1:]:
            rollback(log, 2, skip_of(*one))
            follow(trainer)
        found, newest = counted(trainer), trainer.core.v
        told = verify_version(log, store, newest, lambda sha: base, realtime=SMALL)
        assert told["exact"], told
    other = tmp_path / "clean"
    write_log(other, base, tuple(ranges))
    with opened(other) as (log, store):
        assert counted(follow(trainer_of(log, store, base, other))) == found


def test_a_range_behind_a_rebuild_needs_nothing_from_before_it(
    shop: tuple[Path, int, int], base: Artifact, tmp_path: Path
) -> None:
    """What was left out stays out of every later checkpoint: the first range is not counted again for the second."""
    place, first, last = copied(shop, tmp_path), shop[1], shop[2]
    with opened(place) as (log, store):
        back = back_of(store)
        with store._transaction() as db:  # type: ignore[attr-defined]
            db.execute("DELETE FROM checkpoints WHERE v < ?", (back,))
        at = store.get(back).offsets["event/0"]
        assert at > last
        assert log.end_offsets()["event/0"] > at + 20
        trainer = trainer_of(log, store, base, place)
        rollback(log, back, skip_of(at + 5, at + 20))
        found = counted(follow(trainer))
        assert "control_refused" not in trainer.core.learning.join.counts
    other = tmp_path / "clean"
    write_log(other, base, ((first, last), (at + 5, at + 20)))
    with opened(other) as (log, store):
        assert counted(follow(trainer_of(log, store, base, other))) == found


def test_the_parts_of_a_range_that_are_not_there() -> None:
    assert lacking([(5, 20)], []) == [(5, 20)]
    assert lacking([(5, 20), (30, 40)], [(8, 10), (12, 15), (30, 50)]) == [(5, 8), (10, 12), (15, 20)]
    assert lacking([(5, 20)], [(0, 30)]) == lacking([], [(0, 30)]) == []
    assert lacking([(5, 20)], [(20, 30), (0, 5)]) == [(5, 20)]


def test_out_of_reach_it_is_refused_and_says_what_reaches(
    shop: tuple[Path, int, int], base: Artifact, tmp_path: Path
) -> None:
    place, first, last = copied(shop, tmp_path), shop[1], shop[2]
    skip = skip_of(first - 30, last)
    with opened(place) as (log, store):
        assert check_reach(log, store, skip) > 0
        with store._transaction() as db:  # type: ignore[attr-defined]
            db.execute("DELETE FROM checkpoints WHERE v < ?", (back_of(store),))
        with pytest.raises(InvalidRequest, match="no checkpoint from before the range") as refused:
            check_reach(log, store, skip)
        assert "bootstrap --archive URL --skip FROM..TO" in (refused.value.hint or "")
        trainer = trainer_of(log, store, base, place)
        before = counted(trainer), store.get(trainer.core.v).weights
        rollback(log, 3, skip)  # whoever asks past the command line
        follow(trainer)
        assert (counted(trainer), store.get(trainer.core.v).weights) == before
        assert trainer.core.learning.join.counts["control_refused"] == 1
        letter = msgspec.json.decode(log.read("dead-letter", 0)[-1].body)
        assert "bootstrap --archive" in letter["reason"]




def test_an_archive_reaches_where_the_log_does_not(base: Artifact, tmp_path: Path) -> None:
    """Everything was learned, archived and has expired; `bootstrap --skip` counts it without the range, once."""
    place = tmp_path / "shop"
    first, last = write_log(place, base)
    skip = skip_of(first, last)
    body = {"to": 3, "skip": skip, "applies_to": "weights", "counters": True}
    rules = msgspec.structs.asdict(Rules.of(settings_of(place)))
    with opened(place) as (log, store):
        old = follow(trainer_of(log, store, base, place))
        assert old.core.v > 20
        Sink(log, ArchiveStore(str(tmp_path / "archive")), began=Began(base.sha256, rules), rows=500).catch_up()
    with closing(open_log(Settings(data_dir=place, event_retention_days=0.001), lambda: END)) as log:
        log.retain(END + 200 * 86_400_000, log.end_offsets())
        assert log.start_offsets()["event/0"] > last
    for again in (False, True):
        with opened(place, "built") as (log, store), closing(ArchiveLog(str(tmp_path / "archive"))) as archive:
            made = Bootstrap(
                archive, log, store, base, settings_of(place), clock=lambda: END, realtime=SMALL, max_records=40,
                rollback=body,
            )  # fmt: skip
            made.run()
            assert made.follows
            assert [one.kind for one in log.read("control", 0)] == ["rollback"], again
            found, back = counted(made), back_of(store)
            assert store.get(back).weights == store.get(3).weights
    other = tmp_path / "clean"
    write_log(other, base, ((first, last),))
    with opened(other) as (log, store):
        assert counted(follow(trainer_of(log, store, base, other))) == found
