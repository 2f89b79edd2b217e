"""Another base beside the answering one: what it learns, when it may answer, and that going back costs nothing."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_kit import END, SMALL, Desk, control, make_base, shop_records

from features.errors import ArtifactError
from features.records import ServedRecord
from service.artifact import Artifact
from service.base_fetch import fetch
from service.last_layer import sigmoid
from trainer.core import Core
from trainer.verify import verify_version


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    place = tmp_path_factory.mktemp("bases")
    return make_base(place / "a"), make_base(place / "b", other=True)


@pytest.fixture
def desk(tmp_path: Path, bases: tuple[Artifact, Artifact]) -> Iterator[Desk]:
    made = Desk(tmp_path / "data", bases[0])
    yield made
    made.close()


def base_of(bases: tuple[Artifact, ...]) -> Any:
    return lambda sha256: next((one for one in bases if one.sha256 == sha256), None)


def fill(desk: Desk, seconds: int, artifact: Artifact, seed: int = 1) -> None:
    """A shop whose answers are of this base."""
    for t, stream, records in shop_records(artifact, seconds, seed=seed):
        desk.clock.now = max(desk.clock.now, t)
        desk.log.append(stream, records)


def stage(desk: Desk, base: Artifact, start: dict[str, int] | None = None) -> None:
    desk.log.append("control", [
        control("base-stage", sha256=base.sha256, url=""),
        control("base-begin", sha256=base.sha256, **{"from": start or {}}),
    ])  # fmt: skip


def follow(desk: Desk, bases: tuple[Artifact, ...], **more: Any) -> Any:
    """A trainer that has read the log to its end, in cuts of a fixed number of records."""
    desk.clock.now = END
    trainer = desk.trainer(max_records=60, base_of=base_of(bases), **more)
    while trainer.tick():
        continue
    return trainer


def learned(core: Core, pair: str) -> list[bytes]:
    """The filters of a pair, and its shown items with their inputs."""
    learning = core.learning if pair == "live" else core.rollout.shadow.learning  # type: ignore[union-attr]
    rings = [ring.digest().encode() for ring in learning.join._rings().values()]
    return [*learning.learner.chunks().values(), *rings]


def test_the_pair_beside_learns_what_it_would_learn_alone_and_moves_nothing(
    tmp_path: Path, bases: tuple[Artifact, Artifact]
) -> None:
    """Two trainers over one log, each with the other's base beside its own: both bases come to the same bits."""
    a, b = bases
    cores = []
    for name, mine, other in (("a", a, b), ("b", b, a)):
        desk = Desk(tmp_path / name, mine)
        stage(desk, other)
        fill(desk, 60, a)
        cores.append(follow(desk, bases).core)
        desk.close()
    with_a, with_b = cores
    assert with_a.rollout.shadow.live
    assert with_a.learning.join.counts["joined"] > 500
    assert with_b.learning.join.counts["rebased"] > 500
    assert learned(with_a, "live") == learned(with_b, "beside")
    assert learned(with_a, "beside") == learned(with_b, "live")
    z = with_a.rollout.shadow.learning.join.shown.z
    h = b.manifest.hidden
    assert (z[:500, :h] != 0).any(axis=1).all(), "hidden is this base's, though the other one answered with zeros"


def test_behind_the_log_it_learns_what_was_served_and_then_goes_on_live(
    desk: Desk, bases: tuple[Artifact, Artifact]
) -> None:
    fill(desk, 60, bases[0])
    begun = follow(desk, bases)
    before = begun.core.learning.join.counts["shown"]
    stage(desk, bases[1])
    desk.clock.now = END
    seen = []
    while begun.tick():
        seen.append(begun.core.rollout.status()["behind"])
    assert sum(one > 0 for one in seen) >= 1, "it took more than one cut"
    shadow = begun.core.rollout.shadow
    assert shadow.live
    counts = shadow.learning.join.counts
    assert counts["shown"] + counts["not_logged"] == before
    assert counts["rebased"] == counts["shown"]
    all_clicks = begun.core.learning.join.counts["clicks"]
    assert 0.8 * all_clicks < counts["clicks"] <= all_clicks, "nine rankings in ten have a served record"
    assert counts["negatives_click"] > 0.8 * begun.core.learning.join.counts["negatives_click"]
    moved = shadow.learning.learner.heads["click"].kalman.mean - bases[1].prior["click"][0]
    assert np.linalg.norm(moved) > 0.01
    version = desk.store.latest()
    assert version is not None
    assert version.beside is not None
    assert version.beside.base == bases[1].sha256
    assert version.beside.caught_up
    np.testing.assert_array_equal(
        version.weights_of(bases[1].sha256), shadow.learning.last
    )


def test_logged_hidden_counts_where_this_base_answered(desk: Desk, bases: tuple[Artifact, Artifact]) -> None:
    """After a promotion to some users, both pairs take as logged what their own base answered."""
    stage(desk, bases[1])
    fill(desk, 10, bases[1])
    core = follow(desk, bases).core
    mine, theirs = core.learning.join, core.rollout.shadow.learning.join
    assert theirs.counts["joined"] == mine.counts["rebased"] > 100
    served = {}
    for one in desk.log.read("served", 0):
        found = ServedRecord.from_bytes(one.body)
        served[found.request_id] = found
    h = bases[1].manifest.hidden
    assert not theirs.shown.z[:100, :h].any() or theirs.counts["reconstructed"], "as logged: zeros"
    np.testing.assert_array_equal(mine.shown.z[:100, h:], theirs.shown.z[:100, h:])


def test_promotion_waits_for_evidence(desk: Desk, bases: tuple[Artifact, Artifact]) -> None:
    a, b = bases
    stage(desk, b)
    fill(desk, 10, a)
    trainer = follow(desk, bases)
    last = order(desk, trainer, "base-promote", sha256=b.sha256, percent=100)
    assert (last["done"], trainer.core.artifact.sha256) == (False, a.sha256)
    assert "are the least" in last["reason"]
    assert 100 < last["figures"]["shown"] < 500


def by_hand(core: Core) -> float:
    """Log loss of the pair beside over that of the answering one, by what their joins hold."""
    joins = (core.learning.join, core.rollout.shadow.learning.join)  # type: ignore[union-attr]
    rows = [join.shown.live[: join.shown.next] for join in joins]
    known = np.isfinite(rows[0]["seen"]["p"]) & np.isfinite(rows[1]["seen"]["p"])
    assert known.sum() > 500
    losses = []
    for live in rows:
        p = np.clip(live["seen"]["p"][known], 1e-7, 1 - 1e-7)
        losses.append(-np.log(np.where(live["state"][known] == 2, p, 1 - p)).mean())
    return float(losses[1] / losses[0])


def ready(desk: Desk, bases: tuple[Artifact, Artifact]) -> Any:
    """A trainer whose pair beside may be promoted."""
    stage(desk, bases[1])
    fill(desk, 90, bases[0])
    trainer = follow(desk, bases)
    trainer.core.rollout.gate.refusal()
    return trainer


def order(desk: Desk, trainer: Any, kind: str, **body: Any) -> dict[str, Any]:
    """Give the trainer a control record, and what became of it."""
    desk.log.append("control", [control(kind, **body)])
    desk.clock.now += 200
    trainer.tick()
    found: dict[str, Any] = trainer.core.rollout.last
    assert found["kind"] == kind
    return found


def test_promoted_to_some_to_all_and_taken_back(desk: Desk, bases: tuple[Artifact, Artifact]) -> None:
    a, b = bases
    trainer = ready(desk, bases)
    core = trainer.core
    assert core.rollout.gate.refusal() is None, core.rollout.gate.figures()
    assert core.rollout.gate.figures()["ratio"] == pytest.approx(by_hand(core), rel=0.03)
    weights = dict(core.learning.learner.means()), dict(core.rollout.shadow.learning.learner.means())
    counters, users = core.realtime.digest(), core.catalogue.digest()

    assert order(desk, trainer, "base-promote", sha256=b.sha256, percent=25)["done"]
    version = desk.store.latest()
    assert (version.base, version.beside.base, version.beside.percent) == (a.sha256, b.sha256, 25.0)
    assert order(desk, trainer, "base-promote", sha256=b.sha256, percent=100)["done"]
    version = desk.store.latest()
    assert (version.kind, version.base, version.beside.base) == ("base", b.sha256, a.sha256)
    assert version.beside.percent == 0
    np.testing.assert_array_equal(version.vectors()["click"], weights[1]["click"])
    assert (core.realtime.digest(), core.catalogue.digest()) == (counters, users)
    assert verify_version(desk.log, desk.store, version.v, base_of(bases), realtime=SMALL)["ok"]

    before = learned(core, "live")
    late = control("rollback", to=1, skip=None, by="gate", base=a.sha256)
    desk.log.append("control", [late])
    desk.clock.now += 200
    trainer.tick()
    assert learned(core, "live") == before, "the gate of the pair that answered asked for it"

    held = order(desk, trainer, "base-stage", sha256=b.sha256, url="")
    assert (held["done"], held["reason"]) == (False, f"base {b.sha256[:12]} answers already")
    assert order(desk, trainer, "base-revert")["done"]
    version = desk.store.latest()
    assert (version.base, version.beside.base) == (a.sha256, b.sha256)
    np.testing.assert_array_equal(version.vectors()["click"], weights[0]["click"])
    assert not order(desk, trainer, "base-revert")["done"]
    again = desk.trainer(base_of=base_of(bases))
    assert again.differing == []
    assert (again.core.v, again.core.artifact.sha256) == (core.v, a.sha256)


def test_both_pairs_learn_on_after_a_promotion_and_a_restart(desk: Desk, bases: tuple[Artifact, Artifact]) -> None:
    """The settings still name the old base: what was promoted stays."""
    a, b = bases
    trainer = ready(desk, bases)
    assert order(desk, trainer, "base-promote", sha256=b.sha256, percent=100)["done"]
    again = desk.trainer(base_of=base_of(bases))
    assert (again.core.artifact.sha256, again.core.rollout.shadow.base) == (b.sha256, a.sha256)
    before = {pair: learned(again.core, pair) for pair in ("live", "beside")}
    desk.clock.now = END + 1_000
    for t, stream, records in shop_records(b, 40, seed=5):
        desk.clock.now = max(desk.clock.now, t)
        moved = [one._replace(timestamp=desk.clock.now) for one in records]
        desk.log.append(stream, moved)
    desk.run(again, 60_000, every=2_000)
    assert again.core.learning.join.counts["joined"] > 200
    for pair in ("live", "beside"):
        assert learned(again.core, pair)[0] != before[pair][0], f"the {pair} pair has learned nothing"
    restarted = desk.trainer(base_of=base_of(bases))
    assert restarted.differing == []
    assert learned(restarted.core, "beside") == learned(again.core, "beside")


def test_a_worse_pair_is_refused_with_the_figures(tmp_path: Path, bases: tuple[Artifact, Artifact]) -> None:
    import msgspec

    a, b = bases
    prior = {head: (mean.copy(), covariance * 1e-6) for head, (mean, covariance) in b.prior.items()}
    prior["click"][0][list(b.layout_names).index("intercept")] += 3.0
    bad = type(b)(**{**{f: getattr(b, f) for f in b.__dataclass_fields__}, "prior": prior})
    desk = Desk(tmp_path / "data", a)
    stage(desk, bad)
    fill(desk, 60, a)
    trainer = follow(desk, (a, bad))
    refused = order(desk, trainer, "base-promote", sha256=bad.sha256, percent=100)
    assert not refused["done"]
    assert "at most +2%" in refused["reason"]
    assert refused["figures"]["ratio"] > 1.02
    assert msgspec.json.encode(trainer.core.rollout.status())
    assert trainer.core.artifact.sha256 == a.sha256
    desk.close()


def test_p_of_the_gate_is_that_of_the_moment_when_it_was_shown(desk: Desk, bases: tuple[Artifact, Artifact]) -> None:
    stage(desk, bases[1])
    fill(desk, 10, bases[0])
    join = follow(desk, bases).core.rollout.shadow.learning.join
    p, _ = join.foretold(int(join.rankings.fixed["hash"][0]))
    prior = bases[1].prior["click"][0]
    np.testing.assert_allclose(p, sigmoid(join.shown.z[: len(p)].astype(np.float64) @ prior), rtol=1e-9)


def test_a_trainer_elsewhere_fetches_what_it_has_not(
    desk: Desk, bases: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    """A standby takes over with both bases; where one cannot be fetched it says which is missing."""
    a, b = bases
    url = str(b.dir)
    desk.log.append("control", [control("base-stage", sha256=b.sha256, url=url)])
    fill(desk, 90, a)
    fetched = partial(_fetched, tmp_path / "elsewhere")
    trainer = desk.trainer(fetch=fetched, base_of=base_of(bases))
    deadline = time.monotonic() + 20
    while trainer.core.rollout.status()["state"] != "caught up":
        assert time.monotonic() < deadline
        desk.run(trainer, 200)
    desk.run(trainer, 200)
    elsewhere = desk.trainer(fetch=fetched)
    assert (elsewhere.differing, elsewhere.core.rollout.shadow.base) == ([], b.sha256)
    assert (tmp_path / "elsewhere" / b.sha256 / "manifest.json").exists()
    with pytest.raises(ArtifactError, match=f"base {b.sha256} is not here"):
        desk.trainer()


def _fetched(bases: Path, sha256: str, url: str, in_use: Collection[str]) -> Artifact:
    return fetch(url, bases, sha256)
