"""A rollout over HTTP: stage, promote, revert with a real trainer; what may be staged from where; refusals."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from features.errors import InvalidRequest
from service import answers, cli
from service.artifact import Artifact, load_artifact
from service.base_fetch import fetch
from service.base_rollout import allowed_source
from service.settings import Settings, load_settings
from service.testkit import BASE, ManualClock, ReplService
from tests.second_base import second_base
from tests.trainer.test_status import follow, learning
from trainer import base_gate
from trainer.online import OnlineTrainer

ITEMS = [f"i{k}" for k in range(30)]


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    place = tmp_path / "bases"
    place.mkdir()
    return place


@pytest.fixture
def shop(tmp_path: Path, allowed: Path) -> Iterator[ReplService]:
    made = ReplService(tmp_path / "shop", ManualClock(), base_sources=(str(allowed),), negative_after_ms=1_000)
    made.events(*(made.item(one, title=f"lamp {one}") for one in ITEMS))
    made.settle()
    yield made
    made.stop()


def post(shop: ReplService, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    return shop.call("POST", f"/v1/bases/{path}", body, headers={"Authorization": f"Bearer {shop.admin_key}"})


def obeyed(shop: ReplService, trainer: OnlineTrainer, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """The answer of a call while a trainer makes cuts."""
    found: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: found.append(post(shop, path, {"wait_ms": 20_000, **body})))
    asking.start()
    while asking.is_alive():
        follow(shop, trainer)
        time.sleep(0.02)
    asking.join()
    return found[0]


def state(shop: ReplService) -> dict[str, Any]:
    status, found = shop.call("GET", "/v1/bases")
    assert status == 200
    msgspec.convert(found, answers.BasesAnswer)
    shown: dict[str, Any] = found
    return shown


def click_around(shop: ReplService, trainer: OnlineTrainer, rounds: int) -> None:
    """Users are shown ten items each; some click."""
    for user in range(rounds):
        answer = shop.rank(ITEMS, user=f"u{user}")
        shown = [{"id": item} for item in answer["ids"][:10]]
        shop.events({"id": answer["request_id"], "event": "ranking", "user": f"u{user}", "items": shown})
        shop.events({**shop.click(f"u{user}", answer["ids"][user % 10]), "ranking": answer["request_id"]})
    shop.settle()
    for _ in range(20):
        follow(shop, trainer)


def test_staged_promoted_and_reverted_over_http(
    shop: ReplService, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_gate, "WORSE", 1.0)  # which of the two test bases predicts better is not this test's
    old, new = load_artifact(BASE), second_base(allowed / "new")
    assert state(shop)["version"] is None, "no trainer has run yet"
    with learning(shop) as trainer:
        status, refused = obeyed(shop, trainer, "promote", {})
        assert (status, refused["error"]["code"]) == (409, "refused")
        assert "stage one first" in refused["error"]["message"]
        status, answer = obeyed(shop, trainer, "stage", {"source": str(new.dir)})
        assert (status, answer["sha256"], answer["pending"]) == (200, new.sha256, False), answer
        for _ in range(100):
            follow(shop, trainer)
            if state(shop)["state"] == "caught up":
                break
            time.sleep(0.1)
        status, refused = obeyed(shop, trainer, "promote", {"percent": 20})
        assert (status, refused["error"]["field"]) == (409, "base-promote")
        assert "are the least: wait" in refused["error"]["message"]
        click_around(shop, trainer, 80)
        assert obeyed(shop, trainer, "promote", {"percent": 20})[0] == 200, state(shop)
        assert (state(shop)["percent"], state(shop)["state"]) == (20.0, "answering some")
        assert obeyed(shop, trainer, "promote", {})[0] == 200
        assert shop.rank(ITEMS, user="anna")["base"] == new.sha256
        assert obeyed(shop, trainer, "revert", {})[0] == 200
        assert shop.rank(ITEMS, user="anna")["base"] == old.sha256
        assert obeyed(shop, trainer, "revert", {})[0] == 409
    shown = CliRunner().invoke(cli.app, ["base", "status", "--data-dir", str(shop.settings.data_dir), "--json"])
    assert msgspec.json.decode(shown.stdout) == {
        name: value for name, value in state(shop).items() if name not in ("request_id", "ranker")
    }
    assert set(state(shop)["ranker"]["loaded"]) == {old.sha256, new.sha256}


def test_without_a_trainer_it_is_pending(shop: ReplService, allowed: Path) -> None:
    new = second_base(allowed / "new")
    status, answer = post(shop, "stage", {"source": str(new.dir), "wait_ms": 50})
    assert (status, answer["pending"], answer["sha256"]) == (202, True, new.sha256)
    record = list(shop.service.log.read("control", 0))[-1]
    body = msgspec.json.decode(record.body)
    assert (record.kind, body["sha256"], body["url"], body["by"]) == ("base-stage", new.sha256, str(new.dir), "http")


def test_a_base_that_was_fetched_is_staged_by_its_sha256(shop: ReplService, tmp_path: Path) -> None:
    new = second_base(tmp_path / "elsewhere")
    status, answer = post(shop, "stage", {"source": new.sha256, "wait_ms": 0})
    assert (status, answer["error"]["field"]) == (422, "source"), "it is not here yet"
    fetch(str(new.dir), shop.settings.data_dir / "base")
    status, answer = post(shop, "stage", {"source": new.sha256, "wait_ms": 0})
    assert (status, answer["sha256"]) == (202, new.sha256)


def control_records(shop: ReplService) -> int:
    return len(list(shop.service.log.read("control", 0)))


def test_nothing_else_is_read_and_nothing_half_done(shop: ReplService, allowed: Path, tmp_path: Path) -> None:
    outside = second_base(tmp_path / "outside").dir
    (allowed / "link").symlink_to(outside)
    damaged = allowed / "damaged"
    shutil.copytree(outside, damaged)
    (damaged / "tables.safetensors").write_bytes(b"x")
    (allowed / "empty").mkdir()
    for source, words in {
        str(outside): "nothing is staged from there over HTTP",
        str(allowed / "link"): "nothing is staged from there over HTTP",
        f"{allowed}/../outside": "nothing is staged from there over HTTP",
        f"{allowed}-more": "nothing is staged from there over HTTP",
        "../outside": "nothing is staged from there over HTTP",
        f"file://{outside}": "nothing is staged from there over HTTP",
        "http://127.0.0.1:9/base": "nothing is staged from there over HTTP",
        "a\0b": "nothing is staged from there over HTTP",
        "x" * 1_999: "nothing is staged from there over HTTP",
        "0" * 64: "nothing is staged from there over HTTP",
        str(damaged): "tables.safetensors has sha256",
        str(allowed / "empty"): "manifest.json cannot be read",
    }.items():
        status, answer = post(shop, "stage", {"source": source, "wait_ms": 0})
        assert (status, answer["error"]["field"]) == (422, "source"), (source, answer)
        assert words in answer["error"]["message"], source
    assert control_records(shop) == 0
    assert not (shop.settings.data_dir / "base").exists() or not os.listdir(shop.settings.data_dir / "base")
    assert post(shop, "stage", {"source": ""})[0] == 422
    assert post(shop, "promote", {"percent": 0})[1]["error"]["field"] == "percent"
    assert post(shop, "promote", {"percent": 101})[0] == 422
    assert post(shop, "revert", {"to": 1})[0] == 422
    for path in ("stage", "promote", "revert"):
        assert shop.call("POST", f"/v1/bases/{path}", {})[0] == 401, "the administrator's key"
    assert control_records(shop) == 0


ADDRESSES = ("https://models.example/bases", "http://10.0.0.7:9000/")


@pytest.mark.parametrize(
    "source",
    ["https://models.example/bases/a", "https://models.example/bases", "http://10.0.0.7:9000/x/y"],
)
def test_addresses_below_a_prefix_are_allowed(source: str) -> None:
    assert allowed_source(source, ADDRESSES) == source


@pytest.mark.parametrize(
    "source",
    [
        "https://models.example/bases-of-others/a", "https://models.example/bases/../secret", "http://10.0.0.7:9000@evil/x",
        "https://models.example/bases/%2e%2e/secret", "https://models.example/bases/a?b", "https://models.example/bases/a#b",
        "https://models.example.evil/bases/a", "http://models.example/bases/a", "https://models.example/bases/.",
        "https://user@models.example/bases/a", "https://models.example/bases/a\\b", "ftp://models.example/bases/a", "http://[",
    ],
)  # fmt: skip
def test_addresses_that_only_look_like_it_are_not(source: str) -> None:
    with pytest.raises(InvalidRequest, match="over HTTP"):
        allowed_source(source, ADDRESSES)
    with pytest.raises(InvalidRequest):
        allowed_source(source, ())


def test_the_setting_is_a_list_with_commas_of_whole_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPL_BASE_SOURCES", "/srv/bases, https://models.example/bases")
    assert load_settings()[0].base_sources == ("/srv/bases", "https://models.example/bases")
    assert Settings().base_sources == ()
    with pytest.raises(ValueError, match="neither an absolute directory"):
        Settings.model_validate({"base_sources": "bases"})


def test_one_fetch_at_a_time(shop: ReplService, allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service import base_rollout

    began, go = threading.Event(), threading.Event()
    real = base_rollout.fetch

    def slow(*words: Any) -> Artifact:
        began.set()
        go.wait(20)
        return real(*words)

    monkeypatch.setattr(base_rollout, "fetch", slow)
    new = second_base(allowed / "new")
    first: list[tuple[int, Any]] = []
    ask = {"source": str(new.dir), "wait_ms": 0}
    asking = threading.Thread(target=lambda: first.append(post(shop, "stage", ask)))
    asking.start()
    assert began.wait(20)
    status, answer = post(shop, "stage", ask)
    assert (status, answer["error"]["message"]) == (409, "another base is being fetched")
    go.set()
    asking.join(20)
    assert first[0][0] == 202
