"""`mode: passthrough`: the order sent, said in the answer, logged, by surface; whatever store, trainer and model do."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from service.passthrough import modes, surfaces_of, switch
from service.testkit import ReplService
from tests.conftest import ROOT
from tests.service.test_states import served, stocked, until


def post(shop: ReplService, mode: str, **more: object) -> tuple[int, dict]:
    return shop.call(
        "POST", "/v1/mode", {"mode": mode, **more}, headers={"Authorization": f"Bearer {shop.admin_key}"}
    )


def test_answers_keep_the_order_sent_and_are_logged(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)[::-1]
    ranked = shop.rank(names, user="anna")
    assert (ranked["mode"], ranked["ids"] == names) == ("rank", False)
    status, answer = post(shop, "passthrough")
    assert (status, answer["modes"]) == (200, {"recommendation": "passthrough", "search": "passthrough"})
    until(lambda: shop.rank(names, user="anna")["mode"] == "passthrough", 1.0)
    plain = shop.rank(names, user="anna", explain=True)
    assert plain["ids"] == names
    by_item = dict(zip(ranked["ids"], ranked["click"], strict=True))
    assert dict(zip(plain["ids"], plain["click"], strict=True)) == by_item, "what is scored is said, not followed"
    assert [part["id"] for part in plain["explain"]] == names
    record = served(shop, plain["request_id"])
    assert (record.mode, record.items, record.arm) == ("passthrough", names[:30], "live")
    assert np.isfinite(record.z_rows()).all()
    rows = shop.rank(names, user="anna", format="rows", top_k=3)
    assert (rows["mode"], [row["id"] for row in rows["items"]]) == ("passthrough", names[:3])
    text = shop.call("GET", "/metrics")[1]
    assert 'repl_passthrough{surface="0"} 1.0' in text
    assert 'repl_passthrough_answers_total{surface="0"}' in text
    assert post(shop, "rank")[1]["modes"] == {"recommendation": "rank", "search": "rank"}
    until(lambda: shop.rank(names, user="anna")["mode"] == "rank", 1.0)
    assert shop.rank(names, user="anna")["ids"] == ranked["ids"]


def test_one_surface_is_switched_alone(repl_service: ReplService) -> None:
    shop = repl_service
    names = stocked(shop)
    assert post(shop, "passthrough", surface=1)[1]["modes"] == {"recommendation": "rank", "search": "passthrough"}
    until(lambda: shop.rank(names, query="lamp")["mode"] == "passthrough", 1.0)
    assert shop.rank(names)["mode"] == "rank"
    assert shop.call("GET", "/v1/mode")[1]["modes"]["search"] == "passthrough"
    shop.restart()
    assert shop.rank(names, query="lamp")["mode"] == "passthrough", "known from the first answer on"


def test_the_switch_goes_before_experiments(repl_service_factory) -> None:
    arms = {"a": {"share": 0.5, "does": "shuffle"}, "b": {"share": 0.5, "does": "prior"}}
    shop = repl_service_factory(experiments={"x": {"arms": arms}}, control_share=0.5)
    names = stocked(shop)
    post(shop, "passthrough")
    until(lambda: shop.rank(names, user="u")["mode"] == "passthrough", 1.0)
    for k in range(12):
        answer = shop.rank(names, user=f"u{k}")
        assert (answer["ids"], answer["experiments"]) == (names, {})


def test_only_an_administrator_switches_and_wrong_modes_are_refused(repl_service: ReplService) -> None:
    shop = repl_service
    assert shop.call("POST", "/v1/mode", {"mode": "passthrough"})[0] == 401
    for body in ({"mode": "off"}, {"mode": "rank", "surface": 2}, {}, {"mode": "rank", "surfaces": 1}):
        status, answer = shop.call("POST", "/v1/mode", body, headers={"Authorization": f"Bearer {shop.admin_key}"})
        assert (status, bool(answer["error"]["message"])) == (422, True)


def test_weights_that_cannot_be_read_do_not_stop_the_switch(repl_service: ReplService) -> None:
    """A damaged version is why somebody would use it."""
    shop = repl_service
    names = stocked(shop)
    shop.publish()
    with shop.service.store._transaction() as db:  # type: ignore[attr-defined]
        db.execute("UPDATE versions SET v = 2, weights = x'00'")
        db.execute("INSERT INTO changes VALUES (2, x'')")
    until(lambda: shop.rank(names)["stale"])
    post(shop, "passthrough")
    until(lambda: shop.rank(names)["mode"] == "passthrough", 1.0)
    assert shop.rank(names)["ids"] == names


def test_foreign_flags_mean_rank() -> None:
    assert surfaces_of({"mode/0": "pass", "mode/2": "passthrough", "mode/1": "passthrough"}) == {1}
    assert modes(frozenset({1})) == {"recommendation": "rank", "search": "passthrough"}


def test_without_a_base_the_answer_says_that_nothing_was_ranked() -> None:
    from service.objectives import Objectives
    from service.ranked import Question
    from service.settings import Settings
    from service.unranked import unranked

    settings = Settings()
    objective = Objectives(settings.objectives, settings.objective).get(None)
    answer = unranked(Question("r", 0, objective, "live"), ["b", "a"])
    assert (answer.mode, answer.ids, answer.experiments) == ("passthrough", ["b", "a"], {})


@pytest.mark.parametrize("where", ["embedded", "redis"])
def test_the_command_line_switches_without_ranker_trainer_or_log(where: str, request, tmp_path) -> None:
    from contextlib import closing

    from service.settings import load_settings
    from service.weight_store import open_weight_store
    from tests.conftest import fresh_tenant

    config = tmp_path / "s.toml"
    url = request.getfixturevalue("redis_url") if where == "redis" else ""
    lines = [f'tenant = "{fresh_tenant()}"', f'data_dir = "{tmp_path}"', *([f'weights_url = "{url}"'] if url else [])]
    config.write_text("\n".join(lines))
    command = [sys.executable, "-m", "trainer.cli", "mode"]

    def repl(*words: str) -> subprocess.CompletedProcess[str]:
        done = [*command, *words, "--config", str(config), "--json"]
        return subprocess.run(done, cwd=ROOT, capture_output=True, text=True, check=False)

    if not url:
        missing = repl("passthrough")
        assert (missing.returncode, "no weight store" in missing.stderr) == (1, True)
    settings, _ = load_settings(config)
    with closing(open_weight_store(settings)) as store:
        switched = repl("passthrough", "--surface", "1")
        assert json.loads(switched.stdout) == {"recommendation": "rank", "search": "passthrough"}, switched.stderr
        assert surfaces_of(store.flags()) == {1}
        if url:  # one Redis, another tenant
            with closing(open_weight_store(settings.model_copy(update={"tenant": fresh_tenant()}))) as other:
                assert other.flags() == {}
        switch(store, "rank", None)
        if not url:
            assert json.loads(repl().stdout) == {"recommendation": "rank", "search": "rank"}
            wrong = repl("off")
            assert (wrong.returncode, "no mode" in wrong.stderr) == (2, True)
