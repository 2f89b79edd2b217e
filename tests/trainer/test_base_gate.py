"""The AUC that the gate of a promotion shows beside both losses: by brute force, through a checkpoint, exchanged."""

from __future__ import annotations

from typing import cast

import msgspec
import numpy as np
import pytest

from trainer.base_gate import TAU_MS, BaseGate, Judged
from trainer.join import Join
from trainer.join_rows import ACCEPTED

Floats = np.ndarray


class Foretold:
    """What the gate asks of a join: P(click) of the items of a ranking, and what became of each."""

    def __init__(self, lists: dict[int, tuple[Floats, Floats]]) -> None:
        self.lists = lists

    def foretold(self, ranking: int) -> tuple[Floats, Floats] | None:
        return self.lists.get(ranking)


def brute(p: Floats, clicked: Floats) -> float:
    above = p[clicked][:, None] - p[~clicked][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def judged() -> tuple[BaseGate, Floats, Floats, Floats]:
    """A gate that has judged 4,000 items at one time: (gate, P live, P beside, clicked)."""
    rng = np.random.default_rng(5)
    truth = rng.normal(-3.0, 1.0, 4_000)
    clicked = rng.random(4_000) < 1 / (1 + np.exp(-truth))
    live, beside = (1 / (1 + np.exp(-truth - rng.normal(0, noise, 4_000))) for noise in (1.5, 0.3))
    state = np.where(clicked, ACCEPTED, ACCEPTED + 1)
    gate = BaseGate()
    pairs = []
    for p in (live, beside):
        rows = {k + 1: (p[k * 20 : k * 20 + 20], state[k * 20 : k * 20 + 20]) for k in range(200)}
        pairs.append(cast(Join, Foretold(rows)))
    for k in range(200):
        gate.show(k + 1, 1_000)
    gate.judge(1_000, *pairs)
    return gate, live, beside, clicked


def test_auc_is_that_of_the_items_which_were_judged() -> None:
    gate, live, beside, clicked = judged()
    found = gate.figures()
    assert (found["shown"], found["clicks"]) == (4_000, clicked.sum())
    assert found["auc_live"] == pytest.approx(brute(live, clicked), abs=0.002)
    assert found["auc_beside"] == pytest.approx(brute(beside, clicked), abs=0.002)
    assert found["auc_beside"] > found["auc_live"] + 0.02


def test_it_goes_through_a_checkpoint_and_changes_places_with_the_pairs() -> None:
    gate, *_ = judged()
    before = gate.figures()
    stored = msgspec.msgpack.encode(gate.state())
    again = BaseGate(msgspec.msgpack.decode(stored, type=Judged))
    assert again.figures() == before
    again.swap()
    after = again.figures()
    assert (after["auc_live"], after["auc_beside"]) == (before["auc_beside"], before["auc_live"])
    assert msgspec.msgpack.encode(gate.state()) == stored, "a copy was exchanged"


def test_nothing_is_said_before_there_are_both_labels_and_a_checkpoint_of_before_is_read() -> None:
    assert BaseGate().figures()["auc_live"] is None
    old = msgspec.to_builtins(BaseGate().state())
    old.pop("histogram")
    assert BaseGate(msgspec.convert(old, Judged)).figures()["auc_beside"] is None


def test_what_is_old_fades_with_the_sums() -> None:
    gate, *_ = judged()
    before = gate.figures()
    p, state = np.array([0.4, 0.2]), np.array([ACCEPTED, ACCEPTED + 1])
    pair = cast(Join, Foretold({7: (p, state)}))
    gate.show(7, 1_000 + int(TAU_MS) * 30)
    gate.judge(1_000 + int(TAU_MS) * 30, pair, pair)
    after = gate.figures()
    assert before["shown"] == 4_000
    assert (after["shown"], after["auc_live"], after["auc_beside"]) == (2.0, pytest.approx(1.0), pytest.approx(1.0))
