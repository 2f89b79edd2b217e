"""API keys: kept as hashes, found by what was sent, taken up and dropped while it runs; what each scope opens."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.errors import SettingsError
from service import cli, keys
from service.testkit import ReplService

RANK = ("POST", "/v1/rank", {"items": ["a"]})
EVENTS = ("POST", "/v1/events", {"id": "e", "timestamp": 1_767_225_600_000, "event": "item", "item": "a"})
PIN = ("POST", "/v1/versions/1/pin", {})
CALLS = {
    "read": [RANK, ("POST", "/v1/retrieve", {}), ("POST", "/v1/embeddings", {"items": ["a"]}),
             ("GET", "/v1/items?ids=a", None), ("GET", "/v1/status", None), ("GET", "/v1/versions", None),
             ("GET", "/metrics", None), ("GET", "/v1/mode", None), ("GET", "/v1/bases", None)],
    "write": [EVENTS],
    "admin": [PIN, ("POST", "/v1/mode", {"mode": "rank"}),
              ("POST", "/v1/versions/1/unpin", {}), ("POST", "/v1/versions/1/rollback", {}),
              ("POST", "/v1/bases/stage", {"source": "x"}), ("POST", "/v1/bases/promote", {"wait_ms": 0}),
              ("POST", "/v1/bases/revert", {"wait_ms": 0})],
}  # fmt: skip
LET_IN = (200, 202, 404, 422)
"""Also without such a version, and with a source that may not be staged."""

PATIENCE = 5.0


def make(path: Path, *scopes: str, tenant: str | None = None) -> str:
    """A new key in a file."""
    with keys.changing(path) as found:
        key, token = keys.new_key("a test", scopes, tenant, 1)  # type: ignore[arg-type]
        found.append(key)
    return token


def until(done: Callable[[], bool], what: str) -> float:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < PATIENCE, what
        time.sleep(0.02)
    return time.monotonic() - began


def status(shop: ReplService, call: tuple, token: str | None, **more: str) -> int:
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    return shop.call(*call, {**bearer, **more})[0]


def test_the_file_holds_no_key_and_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    token = make(path, "read")
    text = path.read_text()
    assert token not in text
    assert token.split("_", 2)[2] not in text
    assert json.loads(text)["keys"][0]["hash"] == keys.hash_of(token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["", "x", "_", "é"])
def test_only_the_whole_key_is_found(tmp_path: Path, change: str) -> None:
    path = tmp_path / "keys.json"
    token = make(path, "read")
    known = keys.Keys(path)
    found = known.find(token)
    assert found is not None
    assert found.id == token[3:11]
    assert known.find(token[:-1] + change) is None
    assert known.find(token + change) is (found if not change else None)
    assert known.find("rr_00000000" + token[11:]) is None


@pytest.mark.parametrize("text", ["", "{", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"id": "x"}]}'])
def test_a_file_that_is_none_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"keys\.json"):
        keys.Keys(path)


def test_two_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=lambda: [make(path, "read") for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in keys.read_keys(path) or ()}) == 40


@pytest.mark.parametrize("scope", ["read", "write", "admin", None])
def test_what_a_scope_opens_and_what_not(repl_service_factory, tmp_path: Path, scope: str | None) -> None:
    path = tmp_path / "keys.json"
    token = make(path, *([scope] if scope else []))
    shop = repl_service_factory(keys_file=path)
    for needed, calls in CALLS.items():
        opens = scope in (needed, "admin")
        for call in calls:
            answered = status(shop, call, token)
            assert answered in (LET_IN if opens else (403,)), call
            assert status(shop, call, None) == 401, call
            assert status(shop, call, "rr_00000000_" + "A" * 43) == 401, call
            assert status(shop, call, shop.admin_key) in LET_IN, call
    for path_ in ("/health/live", "/health/ready", "/", "/docs", "/openapi.json"):
        assert status(shop, ("GET", path_, None), None) == 200


def test_keys_are_taken_up_and_dropped_while_it_runs(repl_service_factory, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    shop = repl_service_factory(request_log="info")
    path = shop.settings.data_dir / "keys.json"
    assert status(shop, RANK, None) == 200, "no keys file: loopback is open"
    first = make(path, "read")
    until(lambda: status(shop, RANK, None) == 401, "the first key closes the door")
    assert status(shop, RANK, first) == 200
    second = make(path, "read")
    took = until(lambda: status(shop, RANK, second) == 200, "the new key opens")
    assert took < 1.5
    with keys.changing(path) as found:
        found[:] = [key for key in found if key.id != first[3:11]]
    until(lambda: status(shop, RANK, first) == 401, "the old key is shut out")
    assert status(shop, RANK, second) == 200, "and the new one stays"
    assert first not in caplog.text
    assert second not in caplog.text
    assert any(getattr(record, "key", None) == second[3:11] for record in caplog.records), "the log names the key's id"


def test_a_file_that_breaks_or_goes_leaves_the_keys_as_they_were(repl_service_factory, caplog) -> None:
    caplog.set_level(logging.ERROR)
    shop = repl_service_factory()
    path = shop.settings.data_dir / "keys.json"
    token = make(path, "read")
    until(lambda: status(shop, RANK, None) == 401, "locked")
    path.write_text("{")
    until(lambda: "stay as they were" in caplog.text, "it is told")
    assert (status(shop, RANK, token), status(shop, RANK, None)) == (200, 401)
    path.unlink()
    until(lambda: "the keys file is gone" in caplog.text, "it is told")
    assert (status(shop, RANK, token), status(shop, RANK, None)) == (200, 401)


def test_metrics_may_be_left_open(repl_service_factory, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path, "read")
    shop = repl_service_factory(keys_file=path, metrics_open=True)
    assert status(shop, ("GET", "/metrics", None), None) == 200
    assert status(shop, ("GET", "/v1/status", None), None) == 401


def test_a_call_for_another_tenant_is_refused(repl_service_factory, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    foreign, own = make(path, "read", tenant="lamps"), make(path, "read", tenant="default")
    shop = repl_service_factory(keys_file=path)
    assert status(shop, RANK, foreign) == 403
    assert status(shop, RANK, own) == 200
    assert status(shop, RANK, own, **{"X-Tenant": "default"}) == 200
    assert status(shop, RANK, own, **{"X-Tenant": "lamps"}) == 403


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, words)
    return done.exit_code, done.stdout


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path))
    assert run("keys", "list", *where)[1].startswith("there is no keys file")
    code, out = run("keys", "add", "--name", "the shop", *where)
    token = out.strip().splitlines()[-1]
    assert code == 0
    assert keys.Keys(tmp_path / "keys.json").find(token) is not None
    code, out = run("keys", "add", "--name", "events", "--scope", "write", "--tenant", "default", "--json", *where)
    made = json.loads(out[out.index("{"):])
    assert (made["scopes"], made["tenant"]) == (["write"], "default")
    code, out = run("keys", "list", *where)
    assert token not in out
    assert "the shop" in out
    assert made["id"] in out
    code, _ = run("keys", "revoke", made["id"], *where)
    assert code == 0
    assert keys.Keys(tmp_path / "keys.json").find(made["key"]) is None


@pytest.mark.parametrize(
    "words",
    [("add", "--name", "x", "--scope", "root"), ("add", "--name", "x", "--tenant", "nobody"), ("revoke", "00000000")],
)
def test_the_command_line_refuses_what_there_is_not(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, ["keys", *words, "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, SettingsError)
    assert not (tmp_path / "keys.json").exists()
    assert os.listdir(tmp_path) in ([], [".keys.json.lock"])
