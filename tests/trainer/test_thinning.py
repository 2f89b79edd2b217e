"""Thinned negatives: by the record of the cut, with the inverse weight, and nothing else is thinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_kit import SMALL, Desk, make_base, shop_records
from test_gate import live
from test_join import Table

from features.errors import LogError
from features.records import Cut
from trainer.drift_generator import DriftShop
from trainer.gate_stats import CLICKS, LONG, LOSS_FROZEN, P_FROZEN, GateStats, N
from trainer.join_rows import LABEL, LABEL_1, REJECTED
from trainer.rings import Ring
from trainer.thinning import Pace, draws
from trainer.verify import verify_version

KEYS = np.arange(1, 40_001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def test_a_share_is_kept_and_what_less_keeps_more_keeps_too() -> None:
    drawn = np.concatenate([draws(ranking, KEYS[:1_000]) for ranking in (1, 2, 3, 1 << 63)])
    for share in (0.5, 0.25, 0.125, 0.3):
        assert (drawn < share).mean() == pytest.approx(share, abs=0.03)
        assert abs(np.corrcoef(drawn[:1_000], drawn[1_000:2_000])[0, 1]) < 0.1, "of two rankings: independent"
    assert (draws(7, KEYS) == draws(7, KEYS)).all()
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0


@settings(max_examples=100, deadline=None)
@given(
    clicks=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 500)), max_size=8),
    kept=st.sampled_from([0.5, 0.25, 1 / 64, 0.3]),
)
def test_positives_are_never_thinned_and_what_was_not_learned_is_not_taken_back(
    clicks: list[tuple[int, int]], kept: float
) -> None:
    """Click by click as without thinning; a negative is learned whole or not at all, and taken back as it was."""
    tables = [Table(), Table()]
    for table, share in zip(tables, (1.0, kept), strict=True):
        table.join.begin(1, share)
        table.show(1, 0, list(range(10)))
        for item, t in clicks:
            table.act(t, 1, item)
        table.advance(3_000)
    whole, thinned = tables
    positives = [one for one in whole.labels() if one[1] == 1.0]
    assert [one for one in thinned.labels() if one[1] == 1.0] == positives
    assert thinned.labels("purchase") == whole.labels("purchase")
    negatives = {which for which, label in whole.labels() if label == 0.0}
    mine = {which for which, label in thinned.labels() if label == 0.0}
    drawn = draws(1, np.arange(10, dtype=np.uint64))
    assert mine == {which for which in negatives if drawn[which - 10] < kept}
    assert thinned.join.counts.get("thinned", 0) == len(negatives) - len(mine)
    assert thinned.join.counts["shown"] == whole.join.counts["shown"] == 10
    for name in ("clicks", "repeated_clicks", "positives", "corrected", "late_clicks"):
        assert thinned.join.counts.get(name) == whole.join.counts.get(name)
    for which, label, back in [(w, label, b) for n, label, b, _, w in thinned.learned if n == "click"]:
        if label == 1.0 and which not in mine:
            assert back == 0.0
        elif label == 1.0 and which in mine:
            assert back > 0.0


def test_the_sum_of_weights_is_that_of_all() -> None:
    """Of the gate's statistics, too: what is watched is an estimate of what would be without thinning."""
    sums = []
    for share in (1.0, 0.25):
        table = Table()
        table.join.begin(1, share)
        for ranking in range(1, 91):
            table.show(ranking, ranking, list(range(10)))
            if ranking % 3 == 0:
                table.act(ranking + 1, ranking, ranking % 10)
                table.act(ranking + 300, ranking, (ranking + 1) % 10)  # takes a negative back
        table.advance(3_000)
        table.learner.flush(table.join.observe)
        sums.append(table.gate.stats.sums[LONG].copy())
    whole, thinned = sums
    assert thinned[CLICKS] == pytest.approx(whole[CLICKS], rel=1e-6)
    for column in (N, P_FROZEN, LOSS_FROZEN):
        assert thinned[column] == pytest.approx(whole[column], rel=0.12)


def test_a_correction_takes_back_what_its_negative_brought() -> None:
    """In the gate's statistics, whatever its weight was."""
    from test_gate import scored

    for more in (0.0, 3.0, -1.0):
        first = scored(64, 2)
        first.rows["label"], first.rows["more"] = 0.0, more
        stats, truth = GateStats(), GateStats()
        stats.add(first, frozen_long=False)
        late = scored(64, 2)
        late.rows["label"], late.rows["scored"], late.rows["since"] = 1.0, 0.5, late.rows["t"]
        late.rows["more"] = more
        stats.add(late, frozen_long=False)
        right = scored(64, 2)
        right.rows["label"] = 1.0
        truth.add(right, frozen_long=False)
        assert np.allclose(stats.histogram, truth.histogram)
        assert stats.sums[LONG, LOSS_FROZEN] == pytest.approx(truth.sums[LONG, LOSS_FROZEN])


@pytest.mark.parametrize("seed", [5, 6])
def test_what_is_served_is_as_good_and_as_level(seed: int) -> None:
    """A shop that drifts, a quarter of its negatives: calibration and log loss by the truth, against all of them."""
    runs = [live(DriftShop(seed=seed, drift=0.01, rankings_a_second=12), 400, kept=kept) for kept in (1.0, 0.25)]
    whole, thinned = runs
    assert thinned.learning.join.counts["thinned"] > 2.5 * thinned.learning.join.counts["negatives_click"]
    assert not any(thinned.held), "and the gate finds nothing wrong with it"
    assert thinned.calibration(60, 400) == pytest.approx(whole.calibration(60, 400), abs=0.025)
    assert thinned.ratio(60, 400) == pytest.approx(whole.ratio(60, 400), abs=0.015)


# records


def test_a_cut_that_thins_nothing_is_written_as_before() -> None:
    old = b'{"offsets":{"event/0":5},"watermark":7,"v":1}'
    assert Cut({"event/0": 5}, 7).to_bytes() == old
    assert Cut.from_bytes(old) == Cut({"event/0": 5}, 7)
    assert Cut.from_bytes(old).kept == 1.0


def test_a_cut_that_thins_is_refused_by_who_would_learn_all_of_it() -> None:
    body = Cut({"event/0": 5}, 7, kept=0.25).to_bytes()
    assert Cut.from_bytes(body).kept == 0.25
    assert msgspec.json.decode(body)["v"] == 2
    for wrong in (b"0", b"-0.5", b"1.5"):
        with pytest.raises(LogError, match="share"):
            Cut.from_bytes(body.replace(b"0.25", wrong))
    with pytest.raises(LogError, match="version 3"):
        Cut.from_bytes(body.replace(b'"v":2', b'"v":3'))


def test_rows_that_an_earlier_release_stored_weigh_one() -> None:
    former = np.zeros(2_048, LABEL_1)
    former["scored"], former["state"], former["cut"] = 0.25, REJECTED, 9
    ring = Ring(100, np.dtype([("x", "<i8")]), LABEL_1, 2)
    ring.append(60)
    ring.live[:60] = former[:60]
    now = Ring(100, np.dtype([("x", "<i8")]), LABEL, 2, former=LABEL_1)
    now.restore(ring.changed_chunks())
    assert (now.live["more"] == 0.0).all()
    assert (now.live["scored"][:60] == 0.25).all()
    assert (now.live["state"][:60] == REJECTED).all()
    again = Ring(100, np.dtype([("x", "<i8")]), LABEL, 2, former=LABEL_1)
    now.mark_changed()
    again.restore(now.changed_chunks())
    assert again.digest() == now.digest()


# the pace


def test_the_pace_halves_behind_the_log_and_comes_back() -> None:
    pace, share, seen = Pace(1.0, 1 / 8, 30_000), 1.0, []
    for behind in (10_000, 31_000, 90_000, 90_000, 90_000, 20_000, 14_000, 14_000, None):
        share = pace.next(share, behind)
        seen.append(share)
    assert seen == [1.0, 0.5, 0.25, 0.125, 0.125, 0.125, 0.25, 0.5, 1.0]
    assert Pace().next(1.0, 10**9) == 1.0, "not by default"
    assert Pace(0.5).next(1.0, 10**9) == 0.5
    assert Pace(0.5, 0.25).next(0.25, None) == 0.5


def fill(desk: Desk, seconds: int) -> None:
    for t, stream, records in shop_records(desk.artifact, seconds):
        desk.clock.now = max(desk.clock.now, t)
        desk.log.append(stream, records)  # type: ignore[arg-type]


def cuts_of(desk: Desk) -> list[Cut]:
    return [Cut.from_bytes(one.body) for one in desk.log.read("cut", 0)]


def test_a_trainer_behind_its_log_thins_by_its_cuts_and_a_replay_meets_the_bits(tmp_path: Path) -> None:
    """From the middle on, and no more once it has caught up."""
    base = make_base(tmp_path / "base")
    desk = Desk(tmp_path / "data", base, {"thin_to": 0.25, "thin_after_ms": 60_000})
    fill(desk, 200)
    trainer = desk.trainer(max_records=60)
    while trainer.tick():
        continue
    kept = [cut.kept for cut in cuts_of(desk)]
    assert min(kept) == 0.25
    assert kept[0] == kept[-1] == 1.0
    counts = trainer.core.learning.join.counts
    assert counts["thinned"] > 100
    assert counts["shown"] == 200 * 4 * 6, "impressions are counted, every one"
    desk.clock.now += 1_000
    desk.run(trainer, 31_000, 1_000)
    newest = desk.store.latest()
    assert newest is not None
    found = verify_version(desk.log, desk.store, newest.v, lambda sha256: base, realtime=SMALL)
    assert (found["ok"], found["exact"]) == (True, True)
    again = Desk(tmp_path / "again", base, {"thin_to": 1.0})
    for stream in ("event", "served", "cut"):
        for record in desk.log.read(stream, 0, 100_000):
            again.clock.now = record.append_time
            again.log.append(stream, [as_new(record)])
    repeated = again.trainer()
    assert repeated.core.standing().hash == trainer.core.standing().hash
    assert repeated.core.learning.join.counts == counts
    desk.close()
    again.close()


def as_new(record: Any) -> Any:
    from features.records import NewRecord

    return NewRecord(record.kind, record.tenant, record.timestamp, record.key, record.body, record.imported)


def test_a_share_that_is_set_stands_in_every_cut(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "data", make_base(tmp_path / "base"), {"negatives_kept": 0.5})
    fill(desk, 80)
    trainer = desk.trainer()
    while trainer.tick():
        continue
    desk.run(trainer, 40_000, 1_000)
    assert {cut.kept for cut in cuts_of(desk)[1:]} == {0.5}
    counts = trainer.core.learning.join.counts
    assert counts["thinned"] == pytest.approx(counts["negatives_click"], rel=0.2)
    assert desk.store.status()["negatives_kept"] == 0.5
    desk.close()
