"""The label join against a brute-force oracle, and its rules one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.settings import Settings
from trainer.gate import Gate
from trainer.hold import EVENT, Hold
from trainer.join import Join, JoinRules, Shown
from trainer.learner import SETTLED, Learner
from trainer.rules import Rules

D = 3
RULES = JoinRules(
    negative_after=30,
    click_window=600,
    purchase_wait=100,
    purchase_window=2_000,
    hold=0,
    capacity=1_000,
    clicks=250,
)
CLICK, FAVOURITE, CART, BUY = 1, 2, 3, 4


@dataclass
class Table:
    """A join with a learner that only writes down what it is told to learn."""

    rules: JoinRules = RULES
    skipped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        prior = {head: (np.zeros(D), np.eye(D) * 0.01) for head in ("click", "purchase")}
        self.learner = Learner(prior, np.array([[0, D]], np.int64), noise=0, rate=0.3, waits=(30, 100))
        self.gate, self.hold = Gate(), Hold()
        self.join = Join(
            D, self.rules, self.learner, self.gate, self.hold, lambda offset: offset not in self.skipped
        )
        self.learned: list[tuple[str, float, float, bool, int]] = []
        for name, head in self.learner.heads.items():
            head.add = self._watch(name, head.add)  # type: ignore[method-assign]

    def _watch(self, name: str, add: Any) -> Any:
        def watched(z: Any, rows: Any, observe: Any) -> None:
            sound = np.isfinite(z).all(axis=1)
            first = sound & (rows["phase"] != SETTLED)
            for k, row in zip(np.flatnonzero(first), rows[first], strict=True):
                self.learned.append(
                    (name, float(row["label"]), float(row["back"]), bool(row["teach"]), int(z[k, 1]))
                )
            add(z, rows, observe)

        return watched

    def show(self, ranking: int, t: int, items: list[int], **more: Any) -> None:
        z = np.zeros((len(items), D), np.float16)
        z[:, 0], z[:, 1] = 1, [ranking * 10 + item for item in items]
        self.join.show(
            Shown(ranking, t, ranking, 0, np.array(items, np.uint64), np.zeros(len(items), np.uint64),
                  np.arange(1, len(items) + 1, dtype=np.int16), z, **more)
        )  # fmt: skip

    def advance(self, t: int) -> None:
        for due, kind, _, payload in self.hold.release(t):
            if kind == EVENT:
                self.join.act(due, *payload)
            else:
                self.join.fire(due, kind, payload)

    def act(self, t: int, ranking: int, item: int, behaviour: int = CLICK) -> None:
        self.hold.push(t, EVENT, (ranking, item, behaviour))

    def labels(self, head: str = "click") -> list[tuple[int, float]]:
        """(impression, label) in the order learned."""
        return [(which, label) for name, label, _, _, which in self.learned if name == head]


def oracle(
    rankings: dict[int, tuple[int, list[int]]], acts: list[tuple[int, int, int, int]], end: int
) -> dict[str, dict[int, list[float]]]:
    """Brute force: each impression and click on its own, from the whole history up to `end`."""
    found: dict[str, dict[int, list[float]]] = {"click": {}, "purchase": {}}
    for ranking, (shown, items) in rankings.items():
        for item in items:
            mine = sorted(
                t for t, r, i, b in acts if (r, i) == (ranking, item) and CLICK <= b <= BUY and t <= end
            )
            buys = sorted(t for t, r, i, b in acts if (r, i, b) == (ranking, item, BUY) and t <= end)
            first = next((t for t in mine if t - shown <= RULES.click_window), None)
            labels: list[float] = []
            if shown + RULES.negative_after <= end and (
                first is None or first > shown + RULES.negative_after
            ):
                labels.append(0.0)
            if first is not None:
                labels.append(1.0)
                bought = next((t for t in buys if t >= first and t - first <= RULES.purchase_window), None)
                later: list[float] = []
                if first + RULES.purchase_wait <= end and (
                    bought is None or bought > first + RULES.purchase_wait
                ):
                    later.append(0.0)
                if bought is not None:
                    later.append(1.0)
                found["purchase"][ranking * 10 + item] = later
            found["click"][ranking * 10 + item] = labels
    return found


ACTS = st.tuples(
    st.integers(0, 900),
    st.integers(1, 5),
    st.integers(0, 3),
    st.sampled_from([CLICK, FAVOURITE, CART, BUY, 5]),
)


@settings(max_examples=300, deadline=None)
@given(
    shows=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), min_size=1, max_size=5),
    acts=st.lists(ACTS, max_size=25),
    steps=st.lists(st.integers(1, 300), min_size=1, max_size=8),
)
def test_every_label_once_as_brute_force_says(
    shows: list[tuple[int, int]], acts: list[tuple[int, int, int, int]], steps: list[int]
) -> None:
    table = Table()
    rankings = {r + 1: (t, list(range(n))) for r, (t, n) in enumerate(shows)}
    acts = [(t, r, i, b) for t, r, i, b in acts if r not in rankings or t >= rankings[r][0]]
    order = sorted([(t, 0, r) for r, (t, _) in rankings.items()] + [(a[0], 1, k) for k, a in enumerate(acts)])
    now = 0
    pending = list(order)
    for step in [*steps, 3_000]:
        now += step
        while pending and pending[0][0] <= now:
            t, kind, k = pending.pop(0)
            if kind == 0:
                table.show(k, t, rankings[k][1])
            else:
                table.act(*acts[k])
        table.advance(now)
    truth = oracle(rankings, acts, now)
    for head in ("click", "purchase"):
        found: dict[int, list[float]] = {}
        for which, label in table.labels(head):
            found.setdefault(which, []).append(label)
        assert found == {which: labels for which, labels in truth[head].items() if labels}


@settings(max_examples=60, deadline=None)
@given(
    acts=st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 3), st.sampled_from([CLICK, BUY])), max_size=12
    ),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=10),
)
def test_how_time_is_cut_changes_nothing(acts: list[tuple[int, int, int]], cuts: list[int]) -> None:
    results = []
    for steps in (cuts, [5_000]):
        table = Table()
        table.show(1, 0, [0, 1, 2, 3])
        for t, item, behaviour in acts:
            table.act(t, 1, item, behaviour)
        now = 0
        for step in [*steps, 5_000]:
            now += step
            table.advance(now)
        results.append((table.learned, table.join.shown.digest(), table.join.clicks.digest()))
    assert results[0] == results[1]


def test_a_late_click_takes_its_residual_back() -> None:
    table = Table()
    table.show(1, 0, [0, 1])
    table.advance(31)
    table.learner.flush(table.join.observe)
    table.act(300, 1, 1)
    table.advance(300)
    name, label, back, teach, which = table.learned[-1]
    assert (name, label, teach, which) == ("click", 1.0, True, 11)
    assert back == pytest.approx(0.5)
    table.act(301, 1, 1)
    table.advance(301)
    assert table.labels().count((11, 1.0)) == 1
    assert table.join.counts["repeated_clicks"] == 1


def test_the_residual_of_a_negative_in_the_same_batch_is_known() -> None:
    table = Table()
    table.show(1, 0, [0])
    table.act(35, 1, 0)
    table.advance(40)
    assert [entry[1:3] for entry in table.learned] == [(0.0, 0.0), (1.0, pytest.approx(0.5))]


def test_after_the_window_a_click_is_not_seen() -> None:
    table = Table()
    table.show(1, 0, [0])
    table.act(601, 1, 0)
    table.advance(700)
    assert table.labels() == [(10, 0.0)]
    assert table.join.counts["late_clicks"] == 1


def test_a_purchase_implies_the_click() -> None:
    table = Table()
    table.show(1, 0, [0])
    table.act(5, 1, 0, BUY)
    table.advance(3_000)
    assert table.labels() == [(10, 1.0)]
    assert table.labels("purchase") == [(10, 1.0)]


def test_a_purchase_after_its_negative_takes_it_back() -> None:
    table = Table()
    table.show(1, 0, [0])
    table.act(5, 1, 0, CLICK)
    table.act(900, 1, 0, BUY)
    table.advance(3_000)
    assert table.labels("purchase") == [(10, 0.0), (10, 1.0)]
    assert table.learned[-1][2] == pytest.approx(0.5)


def test_an_interaction_before_its_ranking_waits_a_little() -> None:
    table = Table(JoinRules(negative_after=30_000))
    table.act(100, 7, 0)
    table.advance(200)
    table.show(7, 90, [0])
    table.advance(20_000)
    assert table.labels() == [(70, 1.0)]
    table.act(30_000, 8, 0)
    table.advance(60_000)
    assert table.join.counts["unjoined"] == 1


def test_items_and_rankings_that_were_not_shown_join_nothing() -> None:
    table = Table()
    table.show(1, 0, [0, 1])
    table.act(5, 1, 9)
    table.advance(20)
    assert table.join.counts["not_shown"] == 1
    assert table.learned == []


def test_rows_that_make_place_are_decided() -> None:
    table = Table(JoinRules(negative_after=30, click_window=600, hold=0, capacity=6, clicks=4))
    table.show(1, 0, [0, 1, 2])
    table.act(1, 1, 1)
    table.advance(2)
    table.show(2, 3, [0, 1])
    table.show(3, 4, [0, 1, 2])
    assert sorted(table.labels()) == [(10, 0.0), (11, 1.0)], "two rows made place, the open one as a negative"
    assert table.join.counts["evicted"] == 2
    table.advance(100)
    assert sorted(table.labels()) == sorted(
        [(10, 0.0), (11, 1.0), (12, 0.0), (20, 0.0), (21, 0.0), (30, 0.0), (31, 0.0), (32, 0.0)]
    )
    table.act(101, 1, 0)
    table.advance(10_000)
    assert table.labels().count((10, 1.0)) == 0


def test_pending_clicks_are_bounded_and_decided() -> None:
    table = Table(
        JoinRules(negative_after=30, click_window=600, purchase_wait=10_000, hold=0, capacity=50, clicks=3)
    )
    table.show(1, 0, [0, 1, 2, 3, 4])
    for item in range(5):
        table.act(1 + item, 1, item)
    table.advance(20)
    assert table.labels("purchase") == [(10, 0.0), (11, 0.0)]
    assert table.join.counts["evicted_clicks"] == 2
    table.act(30, 1, 0, BUY)
    table.act(31, 1, 4, BUY)
    table.advance(40)
    assert table.labels("purchase")[2:] == [(14, 1.0)]


def test_a_served_record_that_comes_later_replaces_the_inputs_until_its_deadline() -> None:
    rules = JoinRules(negative_after=30_000, hold=0)
    table = Table(rules)
    table.show(1, 1_000, [0, 1], waiting=True)
    table.act(1_500, 1, 0)
    table.advance(2_000)
    assert table.learned == [], "the label waits for the inputs"
    z = np.full((2, D), 2, np.float16)
    z[:, 1] = (77, 78)
    assert table.join.replace(1, z, 2_500, control=True)
    assert table.labels() == [(77, 1.0)], "and follows when they come"
    table.advance(6_000)
    assert table.labels() == [(77, 1.0)], "once"
    assert not table.join.replace(1, z, 2_600, control=True)
    table.show(2, 10_000, [0], waiting=True)
    assert not table.join.replace(2, z[:1], 15_001, control=False)
    table.advance(60_000)
    assert (20, 0.0) in table.labels()


def test_a_click_that_waited_as_long_as_the_negatives_is_no_negative_first() -> None:
    """No served record comes, and a shop's negatives are due before its deadline (5 s): both fall on one moment."""
    table = Table(JoinRules(negative_after=2_000, hold=300))
    table.show(1, 1_000, [0, 1], waiting=True)
    table.act(1_500, 1, 0)
    table.advance(60_000)
    assert sorted(table.labels()) == [(10, 1.0), (11, 0.0)]


def test_labels_that_wait_for_a_served_record_come_back_with_a_checkpoint() -> None:
    table, copy = (Table(JoinRules(negative_after=30_000, hold=0)) for _ in range(2))
    table.show(1, 1_000, [0, 1], waiting=True)
    table.act(1_500, 1, 0)
    table.act(1_600, 1, 1)
    table.advance(2_000)
    copy.join.restore(table.join.changed_chunks())
    copy.hold.load(table.hold.state(list), tuple)
    assert copy.join.replace(1, np.full((2, D), 3, np.float16), 2_500, control=False)
    assert len(copy.labels()) == 2
    former = msgspec.msgpack.decode(table.join.changed_chunks()["counts"])
    old = {"counts": msgspec.msgpack.encode(former[:3])}
    copy.join.restore(table.join.changed_chunks() | old)
    assert not copy.join._early, "of a release that knew none"
    table.advance(5_999)
    assert table.learned == []
    table.advance(6_000)
    assert len(table.labels()) == 2, "the record does not come: the inputs made here do"


def test_a_log_begun_in_an_earlier_form_is_followed_in_it() -> None:
    table = Table(JoinRules(negative_after=30_000, hold=0, at_once=False))
    table.show(1, 1_000, [0, 1], waiting=True)
    table.act(1_500, 1, 0)
    table.advance(2_000)
    assert table.join.replace(1, np.full((2, D), 3, np.float16), 2_500, control=False)
    table.advance(5_999)
    assert table.learned == []
    table.advance(6_000)
    assert len(table.labels()) == 1
    now = Rules.of(Settings())
    stored = {name: value for name, value in msgspec.structs.asdict(now).items() if name != "form"}
    assert not msgspec.convert(stored, Rules).join().at_once
    assert now.join().at_once


def test_what_is_skipped_is_watched_and_not_taught() -> None:
    table = Table(skipped={1})
    table.show(1, 0, [0, 1])
    table.act(50, 1, 0)
    table.advance(100)
    table.learner.flush(table.join.observe)
    assert [entry[3] for entry in table.learned] == [False, False, False]
    assert table.learned[-1][2] == 0.0
    np.testing.assert_array_equal(table.learner.heads["click"].kalman.mean, np.zeros(D))


def test_a_negative_that_a_rollback_took_is_not_taken_back_again() -> None:
    table = Table()
    table.join.begin(4)
    table.show(1, 0, [0])
    table.advance(31)
    table.learner.flush(table.join.observe)
    table.join.undo_after(3)
    table.act(60, 1, 0)
    table.advance(60)
    assert table.learned[-1][1:4] == (1.0, 0.0, False)


def test_inputs_that_are_not_numbers_are_dropped() -> None:
    table = Table()
    z = np.full((2, D), np.nan, np.float16)
    z[1] = (1, 11, 0)
    keys = np.array([0, 1], np.uint64)
    table.join.show(Shown(1, 0, 1, 0, keys, keys, np.array([1, 2], np.int16), z))
    table.advance(31)
    table.act(40, 1, 0)
    table.advance(50)
    table.learner.flush(table.join.observe)
    assert table.learner.heads["click"].poisoned == 2
    assert np.isfinite(table.learner.heads["click"].kalman.mean).all()


def test_a_click_is_learned_at_once_and_level_with_what_was_shown() -> None:
    table = Table()
    table.join.begin(1)
    table.show(1, 0, [0, 1, 2, 3])
    table.act(3, 1, 1)
    table.advance(3)
    head = table.learner.heads["click"]
    table.learner.flush(table.join.observe)
    assert table.labels() == [(11, 1.0)]
    assert head.lead.open == 1
    assert head.kalman.mean[1] != 0, "it moved weights"
    table.advance(30)
    table.learner.flush(table.join.observe)
    assert head.lead.open == 0


@pytest.mark.parametrize("end", ["settled", "evicted", "rolled back"])
def test_no_early_click_owes_for_ever(end: str) -> None:
    """Whatever becomes of a list, its clicks are early only until then; a whole list of clicks as well."""
    table = Table(JoinRules(**{**RULES.__dict__, "capacity": 8, "clicks": 2, "purchase_wait": 40}))
    lead = {name: head.lead for name, head in table.learner.heads.items()}
    table.join.begin(5)
    table.show(1, 0, [0, 1])
    for item in (0, 1):
        table.act(3, 1, item, BUY)
    table.advance(4)
    table.learner.flush(table.join.observe)
    assert (lead["click"].open, lead["purchase"].open) == (2, 2)
    if end == "evicted":
        table.show(2, 10, list(range(8)))
        for item in (0, 1):
            table.act(12, 2, item)
        table.advance(12)
        table.learner.flush(table.join.observe)
        assert (lead["click"].open, lead["purchase"].open) == (2, 0), "those of the second list"
    elif end == "rolled back":
        table.join.undo_after(4)
        assert [one.open for one in lead.values()] == [0, 0]
    table.advance(100)
    table.learner.flush(table.join.observe)
    for one in lead.values():
        assert one.open == 0
        assert one.owes == 0.0


def test_the_join_comes_back_from_its_chunks() -> None:
    table = Table()
    for ranking in range(1, 400):
        table.show(ranking, ranking, [0, 1, 2])
        table.act(ranking + 3, ranking, 1)
        table.advance(ranking)
    table.learner.flush(table.join.observe)
    copy = Table()
    first = dict(table.join.changed_chunks())
    table.join.mark_clean()
    table.act(500, 399, 2)
    table.advance(520)
    table.learner.flush(table.join.observe)
    chunks = first | table.join.changed_chunks()
    assert set(chunks) == set(table.join.chunk_names())
    copy.join.restore(chunks)
    for ring in ("shown", "rankings", "clicks"):
        assert getattr(copy.join, ring).digest() == getattr(table.join, ring).digest()
    assert copy.join.counts == table.join.counts
    copy.hold.load(table.hold.state(list), tuple)
    for one in (table, copy):
        one.learned.clear()
        one.act(530, 398, 0)
        one.advance(2_000)
    assert copy.learned == table.learned
