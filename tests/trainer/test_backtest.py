"""The backtest's measures, its protocol on a made log, and the floor on the real one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from features.events import InteractionEvent
from features.realtime import RealtimeConfig
from features.schema import Schema
from trainer.backtest.measures import Tally, auc_of, rank_of
from trainer.backtest.replay import Backtest, Protocol, run_backtest
from trainer.backtest.sets import online_retail
from trainer.cli_backtest import backtest_online_retail, lines
from trainer.feature_replay import FeatureReplay
from trainer.importing.load import lines_of
from trainer.importing.online_retail import sample_file
from trainer.prior_examples import ExampleSampler, NegativeMix

T0 = 1_700_000_000_000
DAY = 86_400_000


def test_ties_count_half() -> None:
    scores = np.array([1.0, 3.0, 3.0, 2.0, 3.0])
    assert rank_of(scores, 1) == 1.0
    assert rank_of(scores, 3) == 3.0
    assert auc_of(2.0, np.array([1.0, 2.0, 2.0, 3.0])) == 0.5


def test_new_pairs_are_ranked_among_untouched_items() -> None:
    tally = Tally()
    tally.add(True, 3.0, 1.0, 0.5, 0.0)
    tally.add(False, 25.0, 0.5, 0.5, 4.0)
    found = tally.summary()
    assert found["all"]["recall@20"] == 0.5
    assert (found["known"]["recall@20"], found["new"]["recall@20"]) == (1.0, 1.0)
    assert found["new"]["recall@20_whole"] == 0.0
    assert Tally().summary()["all"] == {"count": 0.0}


def made_log(n: int = 3_000, items: int = 60, users: int = 30) -> list[InteractionEvent]:
    """Users who come back, mostly to one of three items of their own."""
    random = np.random.default_rng(0)
    found = []
    for k in range(n):
        user = int(random.integers(users))
        own = random.random() < 0.7
        item = (user * 3 + int(random.integers(3))) % items if own else int(random.integers(items))
        found.append(
            InteractionEvent(
                id=str(k), timestamp=T0 + k * 600_000, type="purchase", item=f"i{item}", user=f"u{user}"
            )
        )
    return found


def test_own_items_are_found_in_a_log_of_habits() -> None:
    protocol = Protocol(cut=T0 + 2_400 * 600_000, positives=frozenset({4}), negatives=20)
    found = run_backtest(made_log(), protocol)
    assert found["all"]["count"] == 600 - found["cold_targets"]
    assert found["all"]["recall@20"] > 0.75
    assert found["known"]["auc_uniform"] > 0.8
    again = run_backtest(made_log(), protocol)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in found.items() if k != "seconds"
    }


def test_a_group_is_scored_whole_before_it_is_learned() -> None:
    """Two buys at one time: neither is in the history or the counters that the other is scored with."""
    log = made_log(400)
    t = log[-1].timestamp + 600_000
    pair = [
        InteractionEvent(id=f"p{k}", timestamp=t, type="purchase", item=f"i{k}", user="fresh")
        for k in range(2)
    ]
    replay = FeatureReplay(Schema.default(), realtime=RealtimeConfig(max_items=1_000, max_lists=100))
    own = [k for k, name in enumerate(replay.layout.names) if name.startswith("rt.own.")]

    def fit(sampler: ExampleSampler) -> dict[str, np.ndarray]:
        weights = np.zeros(replay.layout.d)
        weights[own] = 1
        return {"own": weights}

    protocol = Protocol(cut=t, positives=frozenset({4}), negatives=20)
    backtest = Backtest(replay, protocol, NegativeMix(), fit)
    backtest.run([*log, *pair])
    found = backtest.tallies["own"].summary()
    assert found["new"]["count"] == 2
    assert found["new"]["auc_uniform"] == 0.5  # all ties: no own history at all
    user = replay.user(next(key for key in replay._users if len(replay._users[key]) == 2))
    assert user is not None


def test_figures_come_with_what_a_reader_has_to_know(tmp_path: Path) -> None:
    small = tmp_path / "small.csv"
    rows = islice(lines_of(sample_file()), 4_000)
    small.write_bytes(b"\n".join(line for _, line in rows) + b"\n")
    answer = backtest_online_retail(small, 4, lambda done, total: None)
    printed = list(lines(answer))
    first_figure = next(at for at, line in enumerate(printed) if "recall@20" in line)
    above = " ".join(printed[:first_figure])
    assert all(word in above for word in ("negatives are sampled", "no queries", "do not foretell"))
    assert [f"note: {note}" for note in answer["notes"]] == printed[: len(answer["notes"])]


@pytest.mark.long
def test_the_floor_on_online_retail() -> None:
    path: Path = sample_file()
    real = online_retail(path)
    found = run_backtest(real.events, real.protocol)
    for pairs, floor in (("all", (0.218, 0.890, 0.717)), ("new", (0.069, 0.841, 0.586))):
        for name, least in zip(("recall@20", "auc_uniform", "auc_popular"), floor, strict=True):
            assert found[pairs][name] >= least, (pairs, name)
