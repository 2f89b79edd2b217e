"""The replay follows serving: order, groups, hold; it is quick; examples know nothing of what comes later."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.events import InteractionEvent, ItemEvent, RankingEvent, ShownItem
from features.keys import actor_key, item_key
from features.realtime import RealtimeConfig
from features.schema import Schema
from trainer.feature_replay import FeatureReplay, groups, in_time_order
from trainer.prior_examples import ExampleSampler, NegativeMix

CONFIG = RealtimeConfig(max_items=5_000, max_categories=100, max_lists=2_000)
T0 = 1_700_000_000_000


def interaction(n: int, t: int, item: str, user: str | None = "u", kind: str = "click") -> InteractionEvent:
    return InteractionEvent(id=str(n), timestamp=t, type=kind, item=item, user=user)


def events(n: int, seed: int = 0, items: int = 300, users: int = 100) -> list[InteractionEvent]:
    random = np.random.default_rng(seed)
    found = []
    for k in range(n):
        item = f"i{int(random.integers(items) * random.random())}"
        kind = str(random.choice(["click", "cart", "purchase"]))
        found.append(interaction(k, T0 + k // 3 * 1_000, item, f"u{random.integers(users)}", kind))
    return found


@given(st.lists(st.integers(0, 100), max_size=60))
def test_order_is_by_time_and_stable(times: list[int]) -> None:
    found = list(in_time_order(interaction(n, t, "i") for n, t in enumerate(times)))
    expected = sorted(range(len(times)), key=lambda n: times[n])
    assert [int(event.id) for event in found] == expected


def test_what_is_too_late_comes_late() -> None:
    times = [100, 200, 50, 1_000, 10, 2_000]
    found = list(in_time_order((interaction(n, t, "i") for n, t in enumerate(times)), lateness_ms=500))
    assert [event.timestamp for event in found] == [50, 100, 200, 10, 1_000, 2_000]
    bounded = list(in_time_order((interaction(n, t, "i") for n, t in enumerate(times)), held=1))
    assert len(bounded) == len(times)


def test_equal_times_are_one_group() -> None:
    found = [(t, len(members)) for t, members in groups(events(10))]
    assert found == [(T0, 3), (T0 + 1_000, 3), (T0 + 2_000, 3), (T0 + 3_000, 1)]


def test_counters_wait_for_the_hold_and_user_states_do_not() -> None:
    replay = FeatureReplay(Schema.default(), hold_ms=5_000, realtime=CONFIG)
    replay.learn(interaction(1, T0, "a"))
    names = list(replay.layout.names)
    clicks, flag = names.index("rt.item.click.1d"), names.index("rt.own.click")
    for ms, counted in ((0, False), (4_999, False), (5_000, True)):
        z = replay.assemble(replay.request(T0 + ms, actor_key("u", None)), replay.rows(["a"]))[:, 0]
        assert z[flag] == 1
        assert (z[clicks] > 0) == counted


def test_a_basket_pairs_its_items_and_rankings_count_as_shown() -> None:
    replay = FeatureReplay(Schema.default(), realtime=CONFIG)
    replay.learn(ItemEvent(id="1", timestamp=T0, item="c", fields={"category": "g"}))
    assert not replay.is_known(replay.rows(["c"]))[0]
    for n, item in enumerate("ab"):
        replay.learn(interaction(n, T0, item, kind="purchase"))
    shown = (ShownItem(id="c", position=1), ShownItem(id="a", position=2))
    replay.learn(RankingEvent(id="r", timestamp=T0 + 1, user="u", items=shown))
    replay.settle(T0 + 1)
    near = replay.realtime.neighbours(np.array([item_key("b")], np.uint64), 5)
    assert near.tolist() == [item_key("a")]
    assert replay.is_known(replay.rows(["a", "b", "c"])).all()
    assert replay.counted == 4
    assert replay.realtime.shown[0, :2].tolist() == [1, 1]


def test_a_hidden_part_stands_in_front() -> None:
    replay = FeatureReplay(
        Schema.default(),
        hidden=2,
        hidden_part=lambda request, rows: np.stack([rows, rows + 1], 1).astype(np.float32),
    )
    replay.learn(interaction(1, T0, "a"))
    z = replay.assemble(replay.request(T0, 0), np.array([0, -1], np.int32))
    assert z[:2].tolist() == [[0, -1], [1, 0]]


def sampled(mix: NegativeMix, n: int = 600) -> tuple[FeatureReplay, ExampleSampler]:
    replay = FeatureReplay(Schema.default(), realtime=CONFIG)
    sampler = ExampleSampler(replay, mix)
    for t, members in groups(events(n)):
        for event in members:
            row = int(replay.rows([event.item])[0])
            if row >= 0 and event.user is not None:
                sampler.take(t, actor_key(event.user, None), [row], np.array([row], np.int32))
        for event in members:
            replay.learn(event)
    return replay, sampler


def test_examples_are_the_same_every_time_and_weighted_by_chance() -> None:
    first, again = sampled(NegativeMix())[1].examples(), sampled(NegativeMix())[1].examples()
    np.testing.assert_array_equal(first.z, again.z)
    np.testing.assert_array_equal(first.weight, again.weight)
    assert 0.02 < first.label.mean() < 0.2
    assert (first.weight[first.label == 1] == 1).all()
    replay, sampler = sampled(NegativeMix(uniform=10, popular=0, own=0, near=0, temper=1.0))
    examples = sampler.examples()
    per_positive = examples.weight[examples.label == 0].sum() / examples.label.sum()
    assert per_positive == pytest.approx(len(replay.known), rel=0.3)  # stands for the whole known catalogue
    even = sampled(NegativeMix(temper=0.0))[1].examples()
    assert (even.weight == 1).all()


def test_twenty_thousand_events_a_second_without_scoring() -> None:
    found = events(40_000, items=2_000, users=2_000)
    FeatureReplay(Schema.default(), realtime=CONFIG).learn(found[0])
    best = 0.0
    for _ in range(3):
        replay = FeatureReplay(Schema.default(), realtime=replace(CONFIG, max_items=10_000))
        started = time.process_time()
        for n, event in enumerate(found):
            replay.learn(event)
            if n % 500 == 0:
                replay.settle(event.timestamp)
        replay.settle(found[-1].timestamp)
        best = max(best, len(found) / (time.process_time() - started))
    assert replay.counted == len(found)
    assert best >= 20_000
