"""The online trainer over a real log and store: joins, cuts, rollbacks, pins, guards, restarts, verify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learning_kit import SMALL, START, Desk, items_of, make_base, shop_records

from features.events import InteractionEvent, ItemEvent, RankingEvent, ShownItem, UserEvent
from features.keys import actor_key, item_key
from features.ops import Ops
from features.realtime import RealtimeState
from features.records import NewRecord
from service.artifact import Artifact
from service.weight_store import chunk_sha
from trainer.online import OnlineTrainer
from trainer.verify import verify_version

HOLD = 5_000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def desk(tmp_path: Path, artifact: Artifact) -> Iterator[Desk]:
    made = Desk(tmp_path / "data", artifact)
    made.add(*items_of(20))
    yield made
    made.close()


def ranking(name: str, t: int, items: list[str], user: str | None = "u", **fields: str) -> RankingEvent:
    shown = tuple(ShownItem(item, k + 1) for k, item in enumerate(items))
    return RankingEvent(id=name, timestamp=t, user=user, items=shown, fields=dict(fields))


def click(name: str, t: int, item: str, of: str | None, kind: str = "click", user: str = "u") -> InteractionEvent:
    return InteractionEvent(id=name, timestamp=t, type=kind, item=item, user=user, ranking=of)


def counts(trainer: OnlineTrainer) -> dict[str, int]:
    return trainer.core.learning.join.counts


def learn_shop(desk: Desk, trainer: OnlineTrainer, seconds: int, seed: int = 1) -> None:
    """Live learning of a seeded shop, a tick every 200 ms."""
    began = desk.clock.now - START
    for t, stream, records in shop_records(desk.artifact, seconds, seed):
        while desk.clock.now + 200 <= t + began:
            desk.clock.now += 200
            trainer.tick()
        desk.log.append(stream, [record._replace(timestamp=record.timestamp + began) for record in records])


def test_the_first_version_is_the_prior(desk: Desk) -> None:
    desk.trainer()
    first = desk.store.latest()
    assert first is not None
    assert (first.v, first.kind) == (1, "start")
    np.testing.assert_array_equal(first.vectors()["click"], desk.artifact.prior["click"][0])
    assert desk.store.latest_checkpoint() is not None


def test_the_served_inputs_are_what_is_learned(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.clock.now += 1_000
    z = desk.serve("r1", ["i3", "i5", "i1"], "u")
    desk.add(ranking("r1", desk.clock.now, ["i5", "i3"]))
    trainer.tick()
    join = trainer.core.learning.join
    expected = z[[1, 0]].copy()
    trainer.core.arrivals.reconstruct.assembler.fill_position(expected, np.array([1, 2]), 0)
    np.testing.assert_array_equal(join.shown.z[:2], expected)
    assert counts(trainer) == {"joined": 2, "shown": 2}


def test_a_click_moves_the_weights_once(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.clock.now += 1_000
    desk.serve("r1", ["i1", "i2"], "u")
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2"]))
    desk.add(click("c1", desk.clock.now + 100, "i1", "r1"))
    desk.run(trainer, 4_000)
    first = desk.store.get(1).weights
    assert desk.store.latest().weights == first, "the hold"  # type: ignore[union-attr]
    desk.run(trainer, 60_000)
    once = desk.store.latest()
    assert once is not None
    assert once.weights != first
    desk.add(click("c2", desk.clock.now, "i1", "r1"))
    assert desk.log.append("event", []) == []
    desk.run(trainer, 20_000)
    assert desk.store.latest().weights == once.weights  # type: ignore[union-attr]
    assert counts(trainer)["clicks"] == 1
    assert counts(trainer)["repeated_clicks"] == 1


def test_nothing_to_do_makes_no_cut_and_beats(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.run(trainer, 1_000)
    before = desk.store.latest()
    desk.run(trainer, 30_000)
    assert desk.store.latest() == before
    beat = desk.store.heartbeat()
    assert beat is not None
    assert desk.clock.now - 1_200 <= beat.watermark <= desk.clock.now
    assert beat.counters_through == beat.watermark - HOLD


def test_served_after_its_ranking_replaces_what_was_made(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.clock.now += 1_000
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2"]))
    desk.run(trainer, 1_000)
    assert counts(trainer)["reconstructed"] == 2
    z = desk.serve("r1", ["i1", "i2"], "u", arm="control")
    desk.run(trainer, 400)
    assert counts(trainer)["reconstructed"] == 0
    assert counts(trainer)["joined"] == 2
    trainer.core.arrivals.reconstruct.assembler.fill_position(z, np.array([1, 2]), 0)
    np.testing.assert_array_equal(trainer.core.learning.join.shown.z[:2], z)
    assert trainer.core.learning.join.shown.fixed["control"][:2].all()


def test_a_served_record_that_is_too_late_changes_nothing(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.clock.now += 1_000
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2"]))
    desk.run(trainer, 6_000)
    made = trainer.core.learning.join.shown.z[:2].copy()
    desk.serve("r1", ["i1", "i2"], "u")
    desk.run(trainer, 1_000)
    np.testing.assert_array_equal(trainer.core.learning.join.shown.z[:2], made)
    assert counts(trainer)["served_late"] == 1


@pytest.mark.parametrize(("more", "name"), [({"tenant": "other"}, "foreign_tenant"), ({}, "foreign_user")])
def test_records_of_others_are_not_joined(desk: Desk, more: dict[str, object], name: str) -> None:
    trainer = desk.trainer()
    desk.serve("r1", ["i1", "i2"], "u" if more else "somebody else", **more)
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2"]))
    desk.run(trainer, 400)
    assert counts(trainer)[name] == 1
    assert counts(trainer)["reconstructed"] == 2


def test_items_past_those_logged_are_made_here(desk: Desk) -> None:
    trainer = desk.trainer()
    z = desk.serve("r1", ["i1"], "u")
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2"]))
    desk.run(trainer, 400)
    shown = trainer.core.learning.join.shown.z
    np.testing.assert_array_equal(shown[0], z[0])
    assert (counts(trainer)["joined"], counts(trainer)["reconstructed"]) == (1, 1)
    assert shown[1, desk.artifact.manifest.hidden] == 1


def test_another_base_answered_only_hidden_is_made_here(desk: Desk) -> None:
    trainer = desk.trainer()
    z = desk.serve("r1", ["i1", "i2"], "u", base="ff" * 32)
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2"]), ranking("foreign", desk.clock.now, ["i1", "i2"]))
    desk.run(trainer, 400)
    h = desk.artifact.manifest.hidden
    shown = trainer.core.learning.join.shown.z
    rest = z.copy()
    trainer.core.arrivals.reconstruct.assembler.fill_position(rest, np.array([1, 2]), 0)
    np.testing.assert_array_equal(shown[:2, h:], rest[:, h:])
    np.testing.assert_array_equal(shown[:2, :h], shown[2:4, :h])
    assert counts(trainer)["rebased"] == 2


def test_made_inputs_are_what_serving_would_have_seen(desk: Desk) -> None:
    """User state through t, counters through t − hold: what the hold has counts in `own`, not in counters."""
    trainer = desk.trainer()
    names = list(desk.artifact.layout_names)
    desk.clock.now += 1_000
    desk.add(click("c0", desk.clock.now, "i1", None, user="other"))
    desk.run(trainer, 6_000)
    desk.add(click("c1", desk.clock.now - 1_000, "i2", None))
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2", "i3"]))
    desk.run(trainer, 400)
    z = trainer.core.learning.join.shown.z
    popular, own = names.index("rt.item.click.1h"), names.index("rt.own.click")
    assert z[0, popular] > 0
    assert z[1, popular] == 0, "still held"
    assert z[1, own] > 0
    assert z[0, own] == z[2, own] == 0


def test_changes_bring_a_replica_to_the_trainers_counters(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 40)
    desk.run(trainer, 10_000)
    checkpoint = desk.store.latest_checkpoint(before=desk.store.latest().v // 2)  # type: ignore[union-attr]
    assert checkpoint is not None
    replica = RealtimeState(SMALL)
    replica.restore(desk.store.load_chunks(checkpoint, "realtime/"))
    changes = desk.store.changes_since(checkpoint.version)
    assert changes
    for _, body in changes:
        if body:
            replica.apply(Ops.from_bytes(body))
    assert replica.digest() == trainer.core.realtime.digest()


def test_a_rollback_is_not_undone_by_the_next_push(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 40)
    desk.run(trainer, 60_000, every=1_000)
    target = desk.store.latest()
    assert target is not None
    learn_shop(desk, trainer, 60, seed=2)
    body = msgspec.json.encode({"v": 1, "by": "test", "to": target.v, "skip": None, "applies_to": "weights"})
    desk.log.append("control", [NewRecord("rollback", "default", desk.clock.now, "control", body)])
    trainer.tick()
    back = desk.store.latest()
    assert back is not None
    assert back.kind == "rollback"
    # only examples from before v may have moved the weights within the very cut of the rollback
    covariance = trainer.core.learning.learner.heads["click"].kalman.covariance.copy()
    assert trainer.core.learning.skipped == [(target.offsets["event/0"], back.offsets["event/0"])]
    moved = np.abs(back.vectors()["click"] - target.vectors()["click"]).max()
    relearned = np.abs(desk.store.get(back.v - 1).vectors()["click"] - target.vectors()["click"]).max()
    desk.run(trainer, 700_000, every=5_000)
    later = desk.store.latest()
    assert later is not None
    drift = np.abs(later.vectors()["click"] - target.vectors()["click"]).max()
    assert moved < 0.05 * relearned
    assert drift < 0.1 * relearned, "what was shown in the skipped range is not learned again"
    assert np.trace(covariance) < np.trace(desk.artifact.prior["click"][1]), "covariances stay"
    assert verify_version(desk.log, desk.store, later.v, base_of(desk), realtime=SMALL)["ok"]


def base_of(desk: Desk):  # type: ignore[no-untyped-def]
    return lambda sha256: desk.artifact if sha256 == desk.artifact.sha256 else None


def test_everything_shown_in_the_skipped_range_teaches_nothing(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.clock.now += 1_000
    desk.add(ranking("r1", desk.clock.now, ["i1", "i2", "i3"]))
    desk.add(click("c1", desk.clock.now + 10, "i2", "r1"))
    desk.run(trainer, 1_000)
    end = trainer.core.offsets["event/0"]
    body = msgspec.json.encode({"v": 1, "by": "t", "to": 1, "skip": {"from": {"event/0": 0}, "to": {"event/0": end}}})
    desk.log.append("control", [NewRecord("rollback", "default", desk.clock.now, "control", body)])
    desk.run(trainer, 700_000, every=2_000)
    assert desk.store.latest().weights == desk.store.get(1).weights  # type: ignore[union-attr]


def test_pins_are_records_and_learning_goes_on(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 20)
    for kind, v in (("pin", 2), ("pin", 10**9), ("unpin", 2)):
        body = msgspec.json.encode({"v": 1, "by": "test", "version": v})
        desk.log.append("control", [NewRecord(kind, "default", desk.clock.now, "control", body)])
        before = desk.store.latest()
        desk.run(trainer, 200)
        assert desk.store.pinned() == (None if kind == "unpin" else 2)
        assert desk.store.latest().v > before.v  # type: ignore[union-attr]
    assert counts(trainer)["control_refused"] == 1


def test_unreadable_records_become_dead_letters(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.log.append("event", [NewRecord("ranking", "default", desk.clock.now, "k", b"{not json")])
    desk.log.append("served", [NewRecord("served", "default", desk.clock.now, "k", b"\x00\x01")])
    desk.add(click("c1", desk.clock.now, "i1", None))
    desk.run(trainer, 400)
    letters = [msgspec.json.decode(record.body) for record in desk.log.read("dead-letter", 0)]
    assert [letter["source"] for letter in letters] == ["served/0", "event/0"]
    assert letters[1]["offset"] == 20
    assert trainer.core.users.get(actor_key("u", None)) is not None, "what follows is read"


def test_duplicates_on_the_log_count_once(desk: Desk) -> None:
    """As with a broker that delivers twice: the same event without the embedded log's own check."""
    trainer = desk.trainer()
    from features.records import event_record

    record = event_record(click("c1", desk.clock.now, "i1", None))._replace(id_hash=0)
    desk.log.append("event", [record, record])
    desk.run(trainer, 10_000)
    assert counts(trainer)["duplicates"] == 1
    assert len(trainer.core.users.get(actor_key("u", None))) == 1  # type: ignore[arg-type]


def test_a_deleted_user_is_gone_from_state_and_log(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.add(click("c1", desk.clock.now, "i1", None))
    desk.run(trainer, 12_000)
    desk.add(click("c2", desk.clock.now, "i1", None, user="other"))
    desk.run(trainer, 400)
    key = actor_key("u", None)
    found = desk.store.latest_checkpoint()
    assert found is not None
    assert desk.store.user_states([key], found.version)[0] is not None
    before = desk.store.latest().v  # type: ignore[union-attr]
    desk.add(UserEvent(id="gone", timestamp=desk.clock.now, user="u", op="delete"))
    desk.run(trainer, 12_000)
    desk.add(click("c3", desk.clock.now, "i1", None, user="other"))
    desk.run(trainer, 400)
    assert trainer.core.users.get(key) is None
    assert desk.store.user_states([key], found.version)[0] is None
    assert next(record.kind for record in desk.log.read("event", 20)) == "blank"
    assert before < desk.store.latest().v  # type: ignore[union-attr]


def test_after_a_deletion_a_restart_meets_every_hash_and_what_comes_later_stays(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 15)
    desk.add(
        click("c1", desk.clock.now, "i1", None),
        UserEvent(id="gone", timestamp=desk.clock.now, user="u", op="delete"),
        click("c2", desk.clock.now, "i2", None),
    )
    desk.run(trainer, 400)
    end = desk.log.end_offsets()["event/0"]
    kinds = [record.kind for record in desk.log.read("event", end - 3)]
    assert kinds == ["blank", "user", "interaction"], "she came back: that is not blanked"
    again = desk.trainer()
    assert again.differing == [], "a checkpoint stands behind the deletion"
    assert len(again.core.users.get(actor_key("u", None))) == 1  # type: ignore[arg-type]


def test_a_dead_letter_is_written_before_its_version(desk: Desk) -> None:
    seen: list[tuple[int, int]] = []
    trainer = desk.trainer(steps=lambda number: seen.append((number, len(desk.log.read("dead-letter", 0)))))
    desk.log.append("event", [NewRecord("item", "default", desk.clock.now, "x", b"{")])
    desk.run(trainer, 200)
    assert (3, 1) in seen, "a kill between the commit and the letter would lose it"


def test_skips_of_counters_and_of_user_states(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.run(trainer, 200)
    start = trainer.core.offsets["event/0"]
    for what, first in (("counters", start), ("user_state", start + 1)):
        body = {"v": 1, "by": "t", "applies_to": what,
                "from": {"event/0": first}, "to": {"event/0": first + 1}}  # fmt: skip
        desk.log.append("control", [NewRecord("skip", "default", desk.clock.now, "c", msgspec.json.encode(body))])
    desk.add(*(click(f"c{k}", desk.clock.now, f"i{k}", None) for k in range(3)))
    desk.run(trainer, 8_000)
    state = trainer.core.users.get(actor_key("u", None))
    assert state is not None
    assert state.items.tolist() == [item_key("i0"), item_key("i2")]
    desk.add(ranking("r1", desk.clock.now, ["i0", "i1", "i2"]))
    desk.run(trainer, 200)
    popular = list(desk.artifact.layout_names).index("rt.item.click.1h")
    z = trainer.core.learning.join.shown.z[:3, popular]
    assert z[0] == 0
    assert z[1] > 0
    assert z[2] > 0
    assert verify_version(desk.log, desk.store, trainer.core.v, base_of(desk), realtime=SMALL)["ok"]


def test_late_events_count_when_they_come(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.clock.now += 1_000
    desk.serve("r1", ["i1", "i2"], "u")
    shown = desk.clock.now
    desk.add(ranking("r1", shown, ["i1", "i2"]))
    desk.run(trainer, 60_000)
    assert counts(trainer)["negatives_click"] == 2
    desk.add(click("c1", shown + 5_000, "i1", "r1"))  # a minute late
    desk.run(trainer, 400)
    assert counts(trainer)["corrected"] == 1
    state = trainer.core.users.get(actor_key("u", None))
    assert state is not None
    assert state.times.tolist() == [shown + 5_000]


def test_timestamps_ahead_are_taken_at_their_arrival(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.add(click("c1", desk.clock.now + 3_000_000, "i1", None))
    desk.run(trainer, 6_000)
    state = trainer.core.users.get(actor_key("u", None))
    assert state is not None
    assert state.times.tolist() == [START]


def test_a_restart_meets_every_hash_and_verify_too(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 30)
    latest = desk.store.latest()
    assert latest is not None
    again = desk.trainer()
    assert again.differing == []
    assert again.core.v == latest.v
    assert desk.store.latest() == latest
    answer = verify_version(desk.log, desk.store, latest.v, base_of(desk), realtime=SMALL)
    assert answer["ok"]
    assert answer["exact"]
    assert answer["compared"] == answer["cuts"] > 0


def test_a_version_that_cannot_be_repeated_is_said_and_replaced(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 20)
    latest = desk.store.latest()
    assert latest is not None
    import sqlite3

    with sqlite3.connect(desk.data_dir / "trainer.db") as db:
        db.execute("UPDATE versions SET hash = 'other' WHERE v = ?", (latest.v,))
    db.close()
    answer = verify_version(desk.log, desk.store, latest.v, base_of(desk), realtime=SMALL)
    assert answer["differing"] == [latest.v]
    desk.trainer()
    newest = desk.store.latest()
    assert newest is not None
    assert (newest.v, newest.kind) == (latest.v + 1, "start")
    assert "could not be repeated" in caplog.text
    assert desk.store.changes_since(latest.v) is None, "replicas reload"


def test_other_settings_are_a_record(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 10)
    changed = {"learning_rate": 0.1, "join_capacity": 500, "negative_after_ms": 10_000}
    desk.settings = desk.settings.model_copy(update=changed)
    again = desk.trainer()
    desk.run(again, 400)
    assert again.core.rules.learning_rate == 0.1
    assert again.core.learning.learner.heads["click"].kalman.rate == 0.1
    assert again.core.learning.join.shown.capacity == 500
    assert [head.lead.open for head in again.core.learning.learner.heads.values()] == [0, 0]
    learn_shop(desk, again, 10, seed=3)
    third = desk.trainer()
    assert third.differing == []
    assert third.core.rules == again.core.rules


def test_a_newer_form_of_labels_is_a_record(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that an earlier release began is followed in its form, and goes on in the newest one from a record on."""
    monkeypatch.setattr("trainer.rules.FORM", 1)
    trainer = desk.trainer()
    learn_shop(desk, trainer, 10)
    assert not trainer.core.learning.join.rules.at_once
    monkeypatch.undo()
    again = desk.trainer()
    assert not again.core.learning.join.rules.at_once
    desk.run(again, 400)
    assert again.core.learning.join.rules.at_once
    learn_shop(desk, again, 10, seed=3)
    assert desk.trainer().differing == []


def test_another_base_starts_from_its_prior_and_keeps_the_rest(desk: Desk, tmp_path: Path) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 20)
    other = make_base(tmp_path / "other", seed=9)
    assert other.sha256 != desk.artifact.sha256
    counters = trainer.core.realtime.digest()
    made = OnlineTrainer(
        desk.log, desk.store, other, desk.settings, clock=desk.clock, realtime=SMALL, base_of=base_of(desk)
    )
    made.start()
    assert made.differing == []
    assert made.core.realtime.digest() == counters
    made.tick()
    version = desk.store.latest()
    assert version is not None
    assert (version.kind, version.base) == ("base", other.sha256)
    np.testing.assert_array_equal(version.vectors()["click"], other.prior["click"][0])
    again = OnlineTrainer(desk.log, desk.store, other, desk.settings, clock=desk.clock, realtime=SMALL)
    again.start()
    assert again.differing == []
    assert again.core.v == version.v


def test_a_backlog_is_taken_in_cuts_and_ends_with_a_checkpoint(tmp_path: Path, artifact: Artifact) -> None:
    desk = Desk(tmp_path / "data", artifact)
    from features.records import event_record

    lines = [
        event_record(
            click(f"l{k}", START - 10**9 + k * 1_000, f"i{k % 50}", None, "purchase"),
            imported=True,
        )
        for k in range(500)
    ]
    desk.log.append("event", lines)
    trainer = desk.trainer(max_records=100)
    while trainer.tick():
        continue
    versions = desk.store.versions()
    assert [version.offsets["event/0"] for version in reversed(versions)][:6] == [0, 100, 200, 300, 400, 500]
    assert versions[-2].watermark == START - 10**9 + 99_000, "a backlog has the time of what it holds"
    assert versions[0].watermark == desk.clock.now
    desk.close()


def test_checkpoints_write_only_what_changed(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 30)
    points = [desk.store.latest_checkpoint()]
    assert points[0] is not None
    points.append(desk.store.latest_checkpoint(before=points[0].version - 1))
    assert points[1] is not None
    same = set(points[0].chunks.items()) & set(points[1].chunks.items())
    assert any(name.startswith("catalogue/") for name, _ in same)
    for sha in set(points[0].chunks.values()):
        assert chunk_sha(desk.store.chunk(sha)) == sha


def test_without_ranking_events_shown_is_inferred_where_asked(tmp_path: Path, artifact: Artifact) -> None:
    desk = Desk(tmp_path / "data", artifact, {"infer_shown": True})
    desk.add(*items_of(10))
    trainer = desk.trainer()
    desk.clock.now += 1_000
    desk.serve("r1", [f"i{k}" for k in range(8)], "u")
    desk.run(trainer, 1_000)
    desk.add(click("c1", desk.clock.now, "i3", "r1"), click("c2", desk.clock.now + 5, "i1", "r1"))
    desk.add(click("c3", desk.clock.now, "i1", "never answered"))
    desk.run(trainer, 20_000)
    assert counts(trainer).get("shown", 0) == 0
    again = desk.trainer()
    desk.run(again, 40_000)
    assert again.differing == []
    found = counts(again)
    assert (found["inferred"], found["shown"], found["clicks"], found["negatives_click"]) == (5, 5, 2, 3)
    assert found["unjoined"] == 1
    desk.close()


def test_items_change_for_those_made_later(desk: Desk) -> None:
    trainer = desk.trainer()
    desk.add(ranking("r1", desk.clock.now, ["i1"]))
    desk.run(trainer, 400)
    desk.add(ItemEvent(id="new", timestamp=desk.clock.now, item="i1", fields={"title": "blue chair", "category": "x"}))
    desk.add(ranking("r2", desk.clock.now, ["i1"]))
    desk.run(trainer, 400)
    z, h = trainer.core.learning.join.shown.z, desk.artifact.manifest.hidden
    assert (z[0, :h] != z[1, :h]).any()


def test_the_status_says_what_the_page_shows(desk: Desk) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 90)
    desk.run(trainer, 2_000)
    status = desk.store.status()
    assert status["counts"]["joined"] > 0
    assert status["progressive"]["10m"]["loss_live"] > 0
    assert len(status["curve"]) >= 1
    assert len(status["curve"][0]) == len(status["curve_columns"])
    assert status["gate"]["held"] is None


def test_a_hold_of_the_gate_is_said_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    trainer = desk.trainer()
    learn_shop(desk, trainer, 30)
    desk.run(trainer, 60_000)
    good = desk.store.latest()
    assert good is not None
    assert good.held is None
    trainer.core.learning.learner.heads["click"].kalman.mean[0] = np.nan
    learn_shop(desk, trainer, 30)
    desk.run(trainer, 2_000)
    said = [record for record in caplog.records if "gate holds" in record.message]
    assert [record.reason for record in said] == ["not finite: weights of click"]  # type: ignore[attr-defined]
    held = [v for v in desk.store.versions(100) if v.held is not None]
    assert held
    assert all(np.isfinite(vector).all() for v in held for vector in v.vectors().values())
