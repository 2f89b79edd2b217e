"""`repl-ranker backtest`: Online Retail replayed under one stated protocol, printed beside the floor and
the goal.

Small on purpose: one set, the last layer without a network. The replay is `trainer/backtest/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.events import Event

FLOOR = {"all": (0.218, 0.890, 0.717), "new": (0.069, 0.841, 0.586)}
GOAL = {"all": (0.225, 0.90, 0.75), "new": (0.085, 0.857, 0.655)}
NAMES = ("recall@20", "auc_uniform", "auc_popular")
NOTES = (
    "the log holds purchases only: no impressions and no clicks, so that negatives are sampled, where the weights are"
    " fitted and in both AUCs (99 uniform, 99 by popularity; a customer's own items left out)",
    "the log holds no queries: none are simulated, every request is a recommendation, and searches are not measured",
    "bought is not clicked: these figures do not foretell a shop's clicks (docs/experiments.md)",
)


def backtest_online_retail(file: Path | None, every: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Cut at 80 % of the time span; a basket (customer, minute) is scored whole before it is learned, at most three
    of its lines; every n-th basket is scored. Raises InvalidInput when the file cannot be read.
    """
    from dataclasses import replace

    from trainer.backtest.replay import run_backtest
    from trainer.backtest.sets import online_retail
    from trainer.importing.online_retail import sample_file

    real = online_retail(file or sample_file())

    def told() -> Iterator[Event]:
        total = len(real.events)
        for done, event in enumerate(real.events, start=1):
            if done % 5_000 == 0 or done == total:
                progress(done, total)
            yield event

    answer = run_backtest(told(), replace(real.protocol, every=every))
    return {"data": "Online Retail", "notes": NOTES, "every": every, **answer}


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """What a reader has to know, then a table: each metric with its standard error, the floor and the goal."""
    yield from (f"note: {note}" for note in answer["notes"])
    yield f"{answer['data']}; each {answer['every']}. basket; {answer['cold_targets']:,} cold targets apart"
    yield f"{'pairs':<6} {'targets':>8}  {'metric':<12} {'value':>7}  {'± se':>6}  {'floor':>6}  {'goal':>6}"
    for pairs in ("all", "known", "new"):
        row = answer.get(pairs, {})
        for place, name in enumerate(NAMES):
            if name not in row:
                continue
            floor = f"{FLOOR[pairs][place]:>6.3f}  {GOAL[pairs][place]:>6.3f}" if pairs in FLOOR else ""
            yield (
                f"{pairs:<6} {row['count']:>8,.0f}  {name:<12} {row[name]:>7.4f}  {row[name + '_se']:>6.4f}  {floor}"
            ).rstrip()
