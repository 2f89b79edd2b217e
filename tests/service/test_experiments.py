"""Experiments: settings with clear refusals, who is in which arm, and what each arm answers and logs."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from features.errors import SettingsError
from features.records import ServedRecord
from service.arms import arm_of
from service.artifact import load_artifact
from service.experiment_settings import ExperimentSettings
from service.experiments import LIVE, Experiments, Play, arms_of, bounds_of, salted, shuffled, unit_key
from service.settings import load_settings
from service.testkit import BASE, ReplService
from service.weight_store import decode_weights
from tests.second_base import second_base
from tests.service.test_bases import publish, weights_of
from tests.service.test_states import served, stocked, until

HALVES = {"live": {"share": 0.5, "does": "live"}, "other": {"share": 0.5, "does": "noop"}}


def one(**more: object) -> ExperimentSettings:
    return ExperimentSettings.model_validate({"arms": HALVES, **more})


def people(n: int) -> list[int]:
    return [unit_key(f"u{k}", None, "") for k in range(n)]


# settings


def refusal(tmp_path: Path, text: str) -> SettingsError:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "s.toml")
    return caught.value


TWO = """
[experiments.{name}]
{line}
[experiments.{name}.arms.a]
share = {share}
does = "live"
[experiments.{name}.arms.b]
share = 0.5
does = "{does}"
{more}
"""


def toml(name: str = "x", line: str = "", share: float = 0.5, does: str = "noop", more: str = "") -> str:
    return TWO.format(name=name, line=line, share=share, does=does, more=more)


def test_settings_are_read_from_the_file(tmp_path: Path) -> None:
    times = "start = 2026-12-01T00:00:00Z\nend = \"2026-12-15T00:00:00+01:00\"\nsurface = 1\nsalt = 's'"
    (tmp_path / "s.toml").write_text(toml(line=times, does="version", more="version = 7"))
    settings, sources = load_settings(tmp_path / "s.toml")
    found = settings.experiments["x"]
    assert found.period() == (1_796_083_200_000, 1_797_289_200_000)
    assert (found.arms["b"].version, found.salt, found.surface, found.reference_arm()) == (7, "s", 1, "a")
    assert sources["experiments"] == "file"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        (toml(share=0.7), "experiments.x.arms", "sum to 1.2"),
        (toml(share=0), "experiments.x.arms.a.share", "greater than 0"),
        (toml(does="best"), "experiments.x.arms.b.does", "'live', 'prior', 'version', 'noop' or 'shuffle'"),
        (toml(does="version"), "experiments.x.arms.b", "`version` belongs to"),
        (toml(more="version = 3"), "experiments.x.arms.b", "`version` belongs to"),
        (toml(more="top = 3"), "experiments.x.arms.b", "`top` belongs to"),
        (toml(line="surface = 2"), "experiments.x.surface", "0 or 1"),
        (toml(line="start = 2026-01-01T00:00:00"), "experiments.x.start", "timezone"),
        (toml(line="start = 2026-02-01T00:00:00Z\nend = 2026-01-01T00:00:00Z"), "experiments.x", "before it starts"),
        (toml(line='reference = "c"'), "experiments.x", "none of its arms: one of a, b"),
        (toml(line="slat = 1"), "experiments.x.slat", "not permitted"),
        ("[experiments.x.arms.a]\nshare = 1\ndoes = 'live'", "experiments.x.arms", "2 to 10 arms, this one 1"),
        (toml(name='"a b"'), "experiments", "'a b' is no name"),
        (toml() + toml(name="y"), "experiments", "nobody is left for 'y': 'x' stands before it"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, field: str, says: str) -> None:
    error = refusal(tmp_path, text)
    assert says in error.message
    assert (error.field, error.hint) == (field, "set by: file")


def test_experiments_on_two_surfaces_or_at_two_times_may_both_take_all(tmp_path: Path) -> None:
    texts = (toml(line="surface = 0") + toml(name="y", line="surface = 1"),
             toml(line="end = 2026-01-01T00:00:00Z") + toml(name="y", line="start = 2026-01-01T00:00:00Z"))  # fmt: skip
    for text in texts:
        (tmp_path / "s.toml").write_text(text)
        assert len(load_settings(tmp_path / "s.toml")[0].experiments) == 2


def test_experiments_stand_in_the_file_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPL_EXPERIMENTS", "{}")
    with pytest.raises(SettingsError, match="TOML file"):
        load_settings()


# who is in which arm


def test_shares_are_met_and_salts_are_independent() -> None:
    arms = {"a": {"share": 0.2, "does": "live"}, "b": {"share": 0.3, "does": "prior"}}
    keys = np.array(people(20_000), np.uint64)
    settings = ExperimentSettings.model_validate({"arms": arms})
    found = {salt: arms_of(salted(salt), bounds_of(settings), keys) for salt in ("s", "t")}
    assert np.allclose(np.bincount(found["s"] + 1) / 20_000, [0.5, 0.2, 0.3], atol=0.01)
    both = np.mean((found["s"] == 1) & (found["t"] == 1))
    assert abs(both - 0.09) < 0.008
    plays = Experiments({"s": settings})
    one_by_one = [list(plays.play(int(key), 0, 0, {}).experiments.values()) for key in keys[:500]]
    assert one_by_one == [[["a"], ["b"], []][at] for at in found["s"][:500]]


def test_one_person_is_in_one_experiment_at_most_and_the_first_takes_first() -> None:
    first = ExperimentSettings.model_validate({"arms": {k: {**v, "share": 0.25} for k, v in HALVES.items()}})
    both = Experiments({"x": first, "y": one()})
    alone = Experiments({"y": one()})
    plays = [(both.play(key, 0, 0, {}), alone.play(key, 0, 0, {})) for key in people(4_000)]
    assert {len(play.experiments) for play, _ in plays} == {1}
    assert abs(sum("x" in play.experiments for play, _ in plays) / 4_000 - 0.5) < 0.03
    assert all(play.experiments == other.experiments for play, other in plays if "y" in play.experiments)


def test_an_experiment_sees_its_surface_and_its_time_only() -> None:
    found = Experiments({"x": one(surface=1, start="1970-01-01T00:00:01Z", end="1970-01-01T00:00:02Z")})
    key = people(1)[0]
    asked = [found.play(key, t, surface, {}) is not LIVE for t, surface in
             ((1_500, 1), (1_500, 0), (999, 1), (1_000, 1), (2_000, 1))]  # fmt: skip
    assert asked == [True, False, False, True, False]


def test_a_user_and_a_session_of_the_same_name_are_two() -> None:
    assert len({unit_key("a", None, "r"), unit_key(None, "a", "r"), unit_key(None, None, "a")}) == 3
    assert unit_key("a", "s", "r1") == unit_key("a", None, "r2")


# what an arm does


def test_shuffling_is_uniform_and_its_propensity_is_the_chance() -> None:
    keys = np.array([0.5, 3.0, 2.0, 1.0], np.float32)
    counts = dict.fromkeys(permutations(range(4)), 0)
    for k in range(4_800):
        places, chances = shuffled(keys, Play(does="shuffle"), f"r{k}", 4)
        counts[tuple(places.tolist())] += 1
        assert chances.tolist() == [0.25] * 4
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 49.7  # chi-square of 23, p = .001
    assert shuffled(keys, LIVE, "r1", 4)[0].tolist() == shuffled(keys, LIVE, "r1", 4)[0].tolist()


def test_only_the_top_is_shuffled_where_that_is_asked() -> None:
    keys = np.arange(10, dtype=np.float32)
    seen = set()
    for k in range(200):
        places, chances = shuffled(keys, Play(does="shuffle", top=3), f"r{k}", 10)
        assert places[3:].tolist() == [6, 5, 4, 3, 2, 1, 0]
        assert chances.tolist() == pytest.approx([1 / 3] * 3 + [1.0] * 7)
        seen.add(tuple(places[:3].tolist()))
    assert seen == set(permutations((7, 8, 9)))


def with_arms(factory, control: float = 0.0, **arms: dict[str, object]) -> ReplService:
    return factory(control_share=control, experiments={"x": {"arms": arms}})


def ask(shop: ReplService, names: list[str], users: int, **more: object) -> dict[str, dict[str, object]]:
    """An answer for some user of each arm."""
    answers = [shop.rank(names, user=f"u{k}", **more) for k in range(users)]
    return {answer["experiments"].get("x", answer["arm"]): answer for answer in answers}


def test_every_arm_answers_and_logs_what_it_does(repl_service_factory) -> None:
    shop = with_arms(
        repl_service_factory, live={"share": 0.25, "does": "live"}, noop={"share": 0.25, "does": "noop"},
        prior={"share": 0.25, "does": "prior"}, mixed={"share": 0.25, "does": "shuffle"},
    )  # fmt: skip
    names = stocked(shop)
    random.Random(3).shuffle(names)
    plain = shop.rank(names, user="nobody-in-particular")["ids"]
    shop.publish(click={"rt.item.click.1h": 3.0, "intercept": 1.0})
    found = ask(shop, names, 60)
    assert set(found) == {"live", "noop", "prior", "mixed"}
    assert found["noop"]["ids"] == names
    assert sorted(found["mixed"]["ids"]) == sorted(names) != found["mixed"]["ids"]
    assert found["mixed"]["ids"] != found["live"]["ids"] != names
    assert (found["prior"]["weights_version"], found["live"]["weights_version"]) == (0, 1)
    assert max(found["prior"]["click"]) < min(found["live"]["click"]), "the intercept was raised by 1"
    assert len(plain) == len(names)
    for arm, answer in found.items():
        record = served(shop, answer["request_id"])
        assert record.experiments == answer["experiments"] == {"x": arm}
        assert (record.arm, record.mode, answer["mode"]) == ("live", "rank", "rank")
        assert record.items == answer["ids"][:30]
        assert np.isfinite(record.z_rows()).all()
        assert record.z_rows()[:, record.hidden].any(), "inputs are logged, so that learning goes on"
        assert record.score_row().tolist() == np.array(answer["scores"][:30], np.float32).tolist()
        chances = np.frombuffer(record.propensity, "<f4").tolist()
        assert chances == ([pytest.approx(1 / 60)] * 30 if arm == "mixed" else [])
    text = shop.call("GET", "/metrics")[1]
    counts = [line for line in text.splitlines() if line.startswith("repl_experiment_answers_total{")]
    assert len(counts) == 4
    assert sum(float(line.split()[-1]) for line in counts) == 61


def test_the_order_sent_is_kept_whatever_the_model_thinks(repl_service_factory) -> None:
    """Repeats and filtered items go, nothing else: `pre_rank` would let the model choose."""
    shop = with_arms(repl_service_factory, a={"share": 0.5, "does": "noop"}, b={"share": 0.5, "does": "noop"})
    names = stocked(shop)[::-1]
    answer = shop.rank(
        [names[0], *names], user="u", top_k=5, pre_rank=10, filter=[{"field": "price", "op": "lt", "value": 58}]
    )
    assert answer["ids"] == names[2:7]
    assert answer["removed"] == {"duplicates": 1, "excluded": 0, "filtered": 2, "unavailable": 0}
    assert len(answer["click"]) == 5
    coarse = shop.retrieve(user="u", top_k=20)["coarse"]
    assert coarse == sorted(coarse, reverse=True), "retrieval is sent no order: the coarse one stands for it"


def test_a_shuffled_retrieval_is_the_best_in_another_order(repl_service_factory) -> None:
    shop = with_arms(repl_service_factory, a={"share": 0.5, "does": "shuffle"}, b={"share": 0.5, "does": "shuffle"})
    stocked(shop)
    answers = [shop.retrieve(user="u", top_k=6) for _ in range(4)]
    assert len({tuple(answer["ids"]) for answer in answers}) > 1
    assert len({frozenset(answer["ids"]) for answer in answers}) == 1
    assert len(np.frombuffer(served(shop, answers[0]["request_id"]).propensity, "<f4")) == 6


def test_the_control_share_is_as_it_was_and_in_no_experiment(repl_service_factory) -> None:
    shop = with_arms(repl_service_factory, 0.3, **HALVES)
    names = stocked(shop)
    for k in range(60):
        answer = shop.rank(names[:5], user=f"u{k}")
        assert answer["arm"] == arm_of(f"u{k}", None, "", 0.3)
        assert bool(answer["experiments"]) == (answer["arm"] == "live")
    assert "repl_control_answers_total 0.0" not in shop.call("GET", "/metrics")[1]


# versions side by side


def test_an_arm_serves_an_older_version_beside_the_newest(repl_service_factory) -> None:
    shop = with_arms(
        repl_service_factory, live={"share": 0.5, "does": "live"}, old={"share": 0.5, "does": "version", "version": 1}
    )
    names = stocked(shop)
    assert shop.rank(names, user="u0")["experiments"] == {}, "version 1 is not there yet: the experiment is off"
    assert 'repl_experiment_off{experiment="x"} 1.0' in shop.call("GET", "/metrics")[1]
    first = shop.publish(click={"intercept": 1.0})
    shop.clock.advance(4_000)
    until(lambda: bool(shop.rank(names, user="u0")["experiments"]))
    before = {f"u{k}": shop.rank(names, user=f"u{k}") for k in range(20)}
    shop.publish(click={"intercept": 2.0})
    for user, earlier in before.items():
        now = shop.rank(names, user=user)
        old = now["experiments"]["x"] == "old"
        assert (now["scores"] == earlier["scores"]) == old
        assert (now["version"], now["weights_version"]) == (2, first if old else 2)
        assert now["ages_ms"]["weights"] == (4_000 if old else 0)
    assert {answer["experiments"]["x"] for answer in before.values()} == {"live", "old"}
    shop.service.store.thin(shop.clock.now + 100 * 86_400_000)
    shop.restart()
    assert shop.rank(names, user="u0")["experiments"], "the version is kept while an arm names it"


def test_a_version_of_another_base_is_not_served(repl_service_factory) -> None:
    import msgspec

    shop = with_arms(
        repl_service_factory, live={"share": 0.5, "does": "live"}, old={"share": 0.5, "does": "version", "version": 2}
    )
    names = stocked(shop)
    shop.publish()
    newest = shop.service.store.get(1)
    shop.service.store.commit(msgspec.structs.replace(newest, v=2, weights_version=2, base="ee" * 32), b"")
    shop.clock.advance(4_000)
    until(lambda: shop.service.running.replica.snapshot.version == 2)
    assert {len(shop.rank(names, user=f"u{k}")["experiments"]) for k in range(10)} == {0}


def test_during_a_rollout_each_user_gets_the_version_by_the_base_that_answers_her(
    repl_service_factory, tmp_path: Path
) -> None:
    old, new = load_artifact(BASE), second_base(tmp_path / "second")
    shop = with_arms(
        repl_service_factory, live={"share": 0.5, "does": "live"}, old={"share": 0.5, "does": "version", "version": 2}
    )
    names = stocked(shop)

    def off() -> bool:
        return 'repl_experiment_off{experiment="x"} 1.0' in shop.call("GET", "/metrics")[1]

    publish(shop, old)
    publish(shop, old, beside=new)
    until(lambda: new.sha256 in shop.service.running.bases.loaded)
    shop.clock.advance(4_000)
    until(lambda: all(2 in shop.service.running.replica.fixed(base.sha256) for base in (old, new)))
    publish(shop, old, beside=new, percent=50.0)
    assert not off()
    found = [shop.rank(names, user=f"u{k}", explain=True) for k in range(40)]
    cells = {(one["base"], one["experiments"]["x"]) for one in found}
    assert cells == {(base.sha256, arm) for base in (old, new) for arm in ("live", "old")}
    place = old.layout_names.index("intercept")
    for one in found:
        base, version = (old, new)[one["base"] == new.sha256], 2 if one["experiments"]["x"] == "old" else 3
        assert (one["weights_version"], one["version"]) == (version, 3)
        made = weights_of(base, 0.1 * version if base is old else -1.0 * version)
        weight = next(term["weight"] for term in one["explain"][0]["terms"] if term["name"] == "intercept")
        assert weight == pytest.approx(float(decode_weights(made)["click"][place]))


def test_where_the_version_has_no_weights_of_the_new_base_the_experiment_is_off_for_its_users_alone(
    repl_service_factory, tmp_path: Path
) -> None:
    old, new = load_artifact(BASE), second_base(tmp_path / "second")
    shop = with_arms(
        repl_service_factory, live={"share": 0.5, "does": "live"}, old={"share": 0.5, "does": "version", "version": 1}
    )
    names = stocked(shop)
    publish(shop, old)
    publish(shop, old, beside=new)
    until(lambda: new.sha256 in shop.service.running.bases.loaded)
    shop.clock.advance(4_000)
    until(lambda: 1 in shop.service.running.replica.fixed(old.sha256))
    assert 'repl_experiment_off{experiment="x"} 0.0' in shop.call("GET", "/metrics")[1], "the new one answers nobody"
    publish(shop, old, beside=new, percent=50.0)
    found = [shop.rank(names, user=f"u{k}") for k in range(40)]
    assert {(one["base"] == old.sha256, bool(one["experiments"])) for one in found} == {(True, True), (False, False)}
    assert 'repl_experiment_off{experiment="x"} 1.0' in shop.call("GET", "/metrics")[1], "it is said of some"


def test_records_of_before_and_of_after_are_read_alike() -> None:
    old = ServedRecord(request_id="r", t=1, tenant="default", base="b", version=1, objective="click", items=[],
                       scores=b"", hidden=0, z=b"")  # fmt: skip
    assert (old.mode, old.experiments) == ("rank", {})
    assert b"mode" not in old.to_bytes()


# both stages compared


def test_the_overlap_of_both_stages_is_sampled(repl_service: ReplService) -> None:
    from service.overlap import overlaps

    rng = np.random.default_rng(1)
    scores = rng.normal(size=400).astype(np.float32)
    assert overlaps(scores, scores) == [(10, 1.0), (100, 1.0)]
    assert overlaps(scores, -scores) == [(10, 0.0), (100, 0.0)]
    assert overlaps(scores[:30], scores[:30]) == [(10, 1.0)]
    mixed = scores.copy()
    best = np.argsort(-scores)
    mixed[best[:4]] = -9.0
    assert overlaps(scores, mixed)[0] == (10, 0.6)
    stocked(repl_service)
    for k in range(17):
        repl_service.retrieve(user=f"u{k}", top_k=5)
    text = repl_service.call("GET", "/metrics")[1]
    assert 'repl_retrieve_overlap_count{k="10"} 2.0' in text
