"""Reports of experiments: the statistics against oracles, the counting against rules, A/A at 5 %, all on real logs."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from features.event_log import EventLog, open_log
from features.events import Event, InteractionEvent, ItemEvent, RankingEvent, ShownItem
from features.records import NewRecord, ServedRecord, event_record
from features.schema import Schema
from service.experiment_settings import ExperimentSettings
from service.experiments import Experiments, arms_of, salted, unit_key
from service.settings import Settings
from service.testkit import ReplService
from tests.trainer.learning_kit import START, Desk, make_base, shop_records
from trainer.experiments import aa
from trainer.experiments.report import report, summary
from trainer.experiments.statistics import chi_square_tail, difference, mismatch, moments, ratio
from trainer.experiments.tally import Rules, Tally
from trainer.experiments.units import COLUMNS, Units

MINUTE = 60_000
ARMS = {"live": {"share": 0.5, "does": "live"}, "frozen": {"share": 0.5, "does": "prior"}}
HALVES = ExperimentSettings.model_validate({"arms": ARMS})


# statistics against oracles


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 9])
def test_the_tail_of_chi_square_is_scipys(df: int) -> None:
    for x in (0.01, 0.5, 3.0, 9.5, 40.0):
        assert chi_square_tail(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-9)
    assert chi_square_tail(0.0, df) == 1.0


def test_the_sample_ratio_check_is_scipys() -> None:
    observed, shares = [480, 260, 190], [0.4, 0.2, 0.2]
    expected = [930 * share / 0.8 for share in shares]
    x, p = stats.chisquare(observed, expected)
    assert mismatch(observed, shares) == pytest.approx((x, p))
    assert math.isnan(mismatch([0, 0], [0.5, 0.5])[1])


def heavy(users: int, rng: np.random.Generator, lift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and impressions of users that differ in how much they see, and in how they like it."""
    shown = 1 + rng.pareto(1.6, users).clip(0, 400).astype(int) * 10
    return rng.binomial(shown, (rng.beta(1.0, 9.0, users) * lift).clip(0, 1)).astype(float), shown.astype(float)


def test_the_variance_is_that_of_a_bootstrap_over_users() -> None:
    rng = np.random.default_rng(1)
    y, x = heavy(3_000, rng)
    found = ratio(moments(y, x).sum(axis=0))
    draws = rng.integers(0, len(y), (800, len(y)))
    resampled = y[draws].sum(axis=1) / x[draws].sum(axis=1)
    assert found.value == pytest.approx(y.sum() / x.sum())
    assert math.sqrt(found.variance) == pytest.approx(resampled.std(), rel=0.12)
    naive = math.sqrt(found.value * (1 - found.value) / x.sum())
    assert math.sqrt(found.variance) > 2.5 * naive, "impressions of one user are not independent"


def test_a_mean_a_user_is_welchs_test() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.exponential(3.0, 900), rng.exponential(3.0, 1_100)
    found = difference(*(ratio(moments(part, np.ones(len(part))).sum(axis=0)) for part in (a, b)))
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=0.002)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    hit = relative = 0
    for _ in range(400):
        (y, x), (v, w) = heavy(3_000, rng, 1.2), heavy(3_000, rng)
        found = difference(ratio(moments(y, x).sum(axis=0)), ratio(moments(v, w).sum(axis=0)))
        hit += found.low <= 0.02 <= found.high  # beta(1, 9) has mean .1
        relative += found.relative_low <= 0.2 <= found.relative_high
    assert 0.91 < hit / 400 < 0.98
    assert 0.91 < relative / 400 < 0.98


def test_what_is_not_defined_is_not_a_number() -> None:
    nobody = ratio(np.zeros(6))
    assert math.isnan(nobody.value)
    some = ratio(moments(np.ones(5), np.full(5, 2.0)).sum(axis=0))
    assert math.isnan(difference(nobody, some).p)
    zero = ratio(moments(np.zeros(5), np.ones(5)).sum(axis=0))
    assert math.isnan(difference(zero, zero).p), "nothing was bought: no verdict, not p = 0 or 1"


# counting


def served(ranking: str, t: int, user: str | None, experiments: dict[str, str], **more: Any) -> NewRecord:
    fields = {"tenant": "default", "base": "b", "version": 1, "objective": "click", "items": [], "scores": b"", **more}
    body = ServedRecord(request_id=ranking, t=t, user=user, hidden=0, z=b"", experiments=experiments, **fields)
    return NewRecord("served", fields["tenant"], t, user or ranking, body.to_bytes(), imported=True)


def shown(ranking: str, t: int, user: str | None, count: int = 3) -> RankingEvent:
    items = tuple(ShownItem(f"i{k}", k + 1) for k in range(count))
    return RankingEvent(id=ranking, timestamp=t, user=user, items=items)


def act(name: str, t: int, of: str | None, kind: str = "click", item: str = "i0", **fields: float) -> InteractionEvent:
    return InteractionEvent(id=name, timestamp=t, type=kind, item=item, user="anna", ranking=of, fields=dict(fields))


def counted(place: Path, answers: list[NewRecord], told: list[Event], name: str | None = "x") -> Tally:
    with closing(open_log(place)) as log:
        log.append("served", answers)
        log.append("event", [event_record(event, imported=True) for event in told])
        tally = Tally(name, list(ARMS), Schema.default(), Rules("default"))
        tally.read(log)
    return tally


def test_windows_and_repeats_are_those_of_the_label_join(tmp_path: Path) -> None:
    t, live = START, {"x": "live"}
    price = ItemEvent(id="p", timestamp=t - 1, item="i1", fields={"price": 2.5})
    tally = counted(
        tmp_path, [served("r1", t, "anna", live), served("r2", t + 1, "anna", live), served("r1", t, "anna", live)],
        [price, shown("r1", t, "anna"), shown("r1", t + 5, "anna"), shown("r2", t + 1, "anna"),
         act("a", t + 100, "r1"), act("b", t + 200, "r1"), act("c", t + 300, "r2", "cart"),
         act("d", t + 11 * MINUTE, "r1", item="i1"), act("e", t + 400, None), act("f", t + 500, "other"),
         act("g", t + 600, "r1", "purchase", price=3.0, quantity=2), act("h", t + 700, "r1", "purchase", price=99.0),
         act("i", t + 800, "r2", "purchase", item="i1", quantity=4), act("j", t + 900, "r2", "refund"),
         act("k", t + 25 * 60 * MINUTE, "r2", "purchase"), act("l", t + 1_000, "r1", "whistle", item="i2"),
         act("m", t + 10 * 60 * MINUTE, "r2", "purchase", revenue=1.5)],
    )  # fmt: skip
    assert dict(zip(COLUMNS, tally.units.sums[0].tolist(), strict=True)) == {
        "answers": 2, "impressions": 6, "clicks": 3, "purchases": 3, "revenue": 6.0 + 10.0 + 1.5,
    }  # fmt: skip
    assert tally.counts == {"late clicks": 1, "late purchases": 1}


def test_who_is_counted_and_who_is_not(tmp_path: Path) -> None:
    t = START
    answers = [
        served("r1", t, "anna", {"x": "live"}),
        served("r2", t, "anna", {"x": "frozen"}),
        served("r3", t, "bert", {"x": "frozen"}),
        served("r9", t, "bert", {"x": "frozen"}),
        served("r4", t, "carl", {"y": "live"}),
        served("r5", t, "dora", {"x": "gone"}),
        served("r6", t, "emil", {"x": "live"}, tenant="other"),
        served("r7", t, None, {"x": "live"}, session="bert"),
        served("r8", t, None, {"x": "live"}),
    ]
    told = [shown("r9", t, "someone else"), shown("r3", t + 1, "bert"), shown("r8", t, None), shown("r4", t, "carl")]
    tally = counted(tmp_path, answers, list(told))
    units = {int(key): k for k, key in enumerate(tally.units.keys)}
    who = [("anna", None, ""), ("bert", None, ""), (None, "bert", ""), (None, None, "r8")]
    places = [units[unit_key(*one)] for one in who]
    assert sorted(places) == list(range(4)), "a user and a session of one name are two, nobody is each request"
    assert tally.units.mixed.tolist() == [k == units[unit_key("anna", None, "")] for k in range(4)]
    assert [tally.units.sums[k].tolist()[:2] for k in places] == [[2, 0], [2, 3], [1, 0], [1, 3]]
    assert tally.counts == {
        "answers of no arm": 1, "answers of an unknown arm gone": 1, "rankings of somebody else": 1
    }  # fmt: skip
    found = summary("x", HALVES, tally)
    assert found["users"] == {"live": 2, "frozen": 1}
    assert found["left_out"]["users_in_two_arms"] == 1
    assert len(found["warnings"]) == 2


def test_a_ranking_that_comes_before_its_served_record_joins(tmp_path: Path) -> None:
    t = START
    tally = counted(
        tmp_path, [served("r1", t + 50_000, "anna", {"x": "live"})], [shown("r1", t, "anna"), act("a", t + 9, "r1")]
    )
    assert tally.units.sums[0].tolist() == [1, 3, 1, 0, 0]


def test_units_are_bounded() -> None:
    units = Units(most=2_000)
    slots = [units.slot(key, 0) for key in range(1, 2_101)]
    assert (len(units), units.refused, slots[1_999], slots[2_000]) == (2_000, 100, 1_999, -1)
    units.add(1_999, 3, 2.0)
    assert units.sums[1_999].tolist() == [0, 0, 0, 2.0, 0]


# a whole experiment


def experiment_log(users: int, lift: float, seed: int = 5, lost: float = 0.0) -> Iterator[tuple[str, list[NewRecord]]]:
    """(stream, records): every user asks often or seldom; an item is clicked `lift` times as often in arm frozen; of
    the answers in it a share is lost."""
    rng, split = np.random.default_rng(seed), Experiments({"x": HALVES})
    for number in range(users):
        name, liking = f"u{number}", float(rng.beta(1.0, 7.0))
        arm = dict(split.play(unit_key(name, None, ""), START, 0, {}).experiments)
        if arm["x"] == "frozen" and rng.random() < lost:
            continue
        chance = min(1.0, liking * (lift if arm["x"] == "frozen" else 1.0))
        for k in range(1 + int(min(rng.pareto(1.5), 12))):
            t, ranking = START + int(rng.integers(0, 3_600_000)), f"{name}-{k}"
            yield "served", [served(ranking, t, name, arm)]
            told: list[Event] = [shown(ranking, t + 5, name, 8)]
            for item in np.flatnonzero(rng.random(8) < chance):
                kind = "purchase" if rng.random() < 0.2 else "click"
                told.append(
                    InteractionEvent(id=f"{ranking}-{item}", timestamp=t + 1_000, type=kind, item=f"i{item}", user=name,
                                     ranking=ranking, fields={"price": 10.0})
                )  # fmt: skip
            yield "event", [event_record(event, imported=True) for event in told]


def filled(log: EventLog, *given: Any, **more: Any) -> None:
    """All of it, each stream in order of time."""
    found: dict[str, list[NewRecord]] = {"served": [], "event": []}
    for stream, records in experiment_log(*given, **more):
        found[stream] += records
    for stream, records in found.items():
        log.append(stream, sorted(records, key=lambda record: record.timestamp))  # type: ignore[arg-type]


def test_a_planted_effect_is_found_with_its_size(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, experiments={"x": HALVES})
    with closing(open_log(tmp_path)) as log:
        filled(log, 3_000, 1.5)
        found = report(settings, log, "x")
    gap = found["differences"]["frozen"]
    assert gap["ctr"]["relative_low"] < 0.5 < gap["ctr"]["relative_high"]
    assert gap["ctr"]["p"] < 1e-4
    assert gap["cvr"]["p"] > 0.01, "of the clicked as many were bought"
    assert gap["revenue"]["relative"] > 0.2
    assert not found["sample_ratio"]["suspect"]
    assert found["warnings"] == []
    arms = found["arms"]
    assert arms["live"]["impressions"] == 8 * arms["live"]["answers"]
    assert sum(arm["users"] for arm in arms.values()) == 3_000
    one = arms["frozen"]["revenue_per_user"]
    assert one["value"] == pytest.approx(10.0 * arms["frozen"]["purchases"] / arms["frozen"]["users"])
    assert one["low"] < one["value"] < one["high"]
    json.dumps(found, allow_nan=False)


def test_users_that_went_missing_are_said(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, experiments={"x": HALVES})
    with closing(open_log(tmp_path)) as log:
        filled(log, 1_500, 1.0, lost=0.2)
        found = report(settings, log, "x")
    assert found["sample_ratio"]["suspect"]
    assert "sample ratio mismatch" in found["warnings"][0]


def test_several_partitions_give_the_same_figures(tmp_path: Path, kafka_url: str) -> None:
    from features.event_log_kafka import KafkaEventLog, make_topics
    from features.event_log_kafka_topics import topic_plans
    from features.event_log_kafka_url import parse_address

    settings = Settings(data_dir=tmp_path, experiments={"x": HALVES})
    address = parse_address(f"{kafka_url}/{uuid.uuid4().hex}?timeout_ms=8000")
    make_topics(address, topic_plans(3))
    with closing(open_log(tmp_path)) as one, closing(KafkaEventLog(address)) as many:
        for log in (one, many):
            filled(log, 300, 1.3)
        ends = {name: end for name, end in many.end_offsets().items() if name.startswith("event/")}
        assert len(ends) == 3
        assert all(ends.values())
        assert report(settings, many, "x") == report(settings, one, "x")


def test_the_ranker_and_the_report_agree(repl_service_factory, tmp_path: Path) -> None:
    """Over HTTP: assignment, served records, what was shown and clicked; then the command."""
    import subprocess
    import sys

    shop: ReplService = repl_service_factory(experiments={"x": {"arms": ARMS}})
    names = [f"i{k}" for k in range(6)]
    shop.events(*(shop.item(name, price=2.0) for name in names))
    clicks = {"live": 0, "frozen": 0}
    users = dict.fromkeys(clicks, 0)
    for k in range(24):
        answer = shop.rank(names, user=f"u{k}")
        arm, rid = answer["experiments"]["x"], answer["request_id"]
        users[arm] += 1
        shop.clock.advance(1)
        items = [{"id": name} for name in answer["ids"]]
        shop.events({"event": "ranking", "id": rid, "user": f"u{k}", "items": items})
        if k % 3 == 0:
            shop.events(shop.click(f"u{k}", answer["ids"][0], "purchase", ranking=rid))
            clicks[arm] += 1
    shop.settle()
    config = tmp_path / "x.toml"
    lines = [f"[experiments.x.arms.{name}]\nshare = 0.5\ndoes = {one['does']!r}" for name, one in ARMS.items()]
    config.write_text("\n".join(lines))
    words = ["experiments", "report", "x", "--config", str(config), "--data-dir", str(shop.settings.data_dir)]
    done, text = (
        subprocess.run([sys.executable, "-m", "trainer.cli", *words, *more], capture_output=True, text=True, check=True)
        for more in (["--json"], [])
    )
    found = json.loads(done.stdout)
    assert found["users"] == users
    for arm, one in found["arms"].items():
        assert (one["clicks"], one["impressions"], one["revenue"]) == (clicks[arm], 6 * users[arm], 2.0 * clicks[arm])
    assert "WARN an arm has fewer than 100 users" in text.stdout
    words[2] = "y"
    failed = subprocess.run(
        [sys.executable, "-m", "trainer.cli", *words], capture_output=True, text=True, check=False
    )
    assert (failed.returncode, "known: x" in failed.stderr) == (2, True)


# A/A


def test_without_a_difference_one_split_in_twenty_says_there_is_one(tmp_path: Path) -> None:
    tally = Tally(None, [], Schema.default(), Rules("default"))
    with closing(open_log(tmp_path)) as log:
        filled(log, 1_500, 1.0)
        tally.read(log)
    found = aa.figures(tally, 800, seed=3)
    assert found["users"] == 1_500
    assert found["within"], found
    assert set(found["below_05"]) == {"ctr", "cvr", "purchase_rate", "revenue", "sample_ratio"}
    sums, keys = tally.units.sums, tally.units.keys
    shares = []
    for k in range(200):  # what counting impressions as independent would say
        first = arms_of(salted(f"naive-{k}"), aa.HALVES, keys) == 0
        (c, n), (d, m) = ((sums[part, 2].sum(), sums[part, 1].sum()) for part in (first, ~first))
        p = (c + d) / (n + m)
        shares.append(abs(c / n - d / m) / math.sqrt(p * (1 - p) * (1 / n + 1 / m)) > 1.96)
    assert np.mean(shares) > 0.15


# learning goes on


def test_what_an_arm_did_changes_nothing_in_what_is_learned(tmp_path: Path) -> None:
    """The inputs are logged as scored whatever order was shown: the weights are the same to the bit."""
    artifact = make_base(tmp_path / "base")
    hashes = []
    for marked in (False, True):
        desk = Desk(tmp_path / f"desk-{marked}", artifact)
        trainer = desk.trainer()
        for number, (t, stream, records) in enumerate(shop_records(artifact, 60)):
            desk.clock.now = max(desk.clock.now, t)
            desk.log.append(stream, [marked_as(one, number) if marked else one for one in records])  # type: ignore[arg-type]
            trainer.tick()
        desk.run(trainer, 60_000)
        newest = desk.store.latest()
        assert newest is not None
        hashes.append((newest.v, newest.hash))
        assert trainer.core.learning.join.counts["joined"] > 500
        desk.close()
    assert hashes[0] == hashes[1]


def marked_as(record: NewRecord, number: int) -> NewRecord:
    if record.kind != "served":
        return record
    found = ServedRecord.from_bytes(record.body)
    arms = ({"x": "noop"}, {"x": "mixed"}, {"x": "frozen"}, {})
    chances = np.full(len(found.items), 0.25, np.float32).tobytes() if number % 4 == 1 else b""
    mode = "passthrough" if number % 4 == 3 else "rank"
    changed = msgspec.structs.replace(found, experiments=arms[number % 4], propensity=chances, mode=mode)
    return record._replace(body=changed.to_bytes())


@pytest.mark.long
def test_the_shipped_purchases_split_by_a_thousand_salts(tmp_path: Path) -> None:
    """The figure in docs/ab-tests.md: real users, a few of whom buy a hundred times as much as others."""
    from trainer.experiments.retail import write
    from trainer.importing.online_retail import read, sample_file

    tally = Tally(None, [], Schema.default(), Rules("default"))
    with closing(open_log(tmp_path)) as log:
        write(read(sample_file()), log)
        tally.read(log)
    found = aa.figures(tally, 1_000, seed=17)
    assert (found["users"], found["impressions"]) == (5_705, 890_771)
    assert found["within"], found
