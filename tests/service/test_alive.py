"""service/alive.py: by the heartbeat of a real weight store, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from service.alive import reason
from service.settings import Settings
from service.weight_store import open_weight_store
from service.weight_version import Heartbeat


def beat(settings: Settings, at: int) -> None:
    with closing(open_weight_store(settings, writer=True)) as store:
        store.beat(Heartbeat(1, 1, at))


def run(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"REPL_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_young_heartbeat_is_a_living_trainer(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    assert reason(settings, 20, 1_000_000) == "no trainer has begun to learn yet"
    beat(settings, 1_000_000)
    assert reason(settings, 20, 1_020_000) is None
    assert reason(settings, 20, 1_021_001) == "the trainer's last heartbeat is 21 s old"
    assert reason(settings, 20, 990_000) is None, "a clock that is behind"


def test_as_a_process_it_ends_with_the_answer(data_dir: Path) -> None:
    none = run(data_dir, "service.alive")
    assert (none.returncode, none.stderr) == (1, "no trainer has begun to learn yet\n")
    beat(Settings(data_dir=data_dir), time.time_ns() // 1_000_000)
    assert run(data_dir, "service.alive", "--seconds", "60").returncode == 0


def test_of_several_tenants_one_that_is_trained_is_enough(data_dir: Path) -> None:
    (data_dir / "repl-ranker.toml").write_text("[tenants.lamps]\n[tenants.chairs]\n")
    none = run(data_dir, "service.alive")
    assert none.returncode == 1
    assert "lamps: no trainer has begun" in none.stderr
    beat(Settings(data_dir=data_dir / "tenants" / "lamps"), time.time_ns() // 1_000_000)
    one = run(data_dir, "service.alive", "--seconds", "60")
    assert (one.returncode, one.stderr) == (0, "chairs: no trainer has begun to learn yet\n")


def test_redis_that_is_down_is_said(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPL_WEIGHTS_URL", "redis://127.0.0.1:1/0")
    done = run(data_dir, "service.alive")
    assert done.returncode == 1
    assert "redis://127.0.0.1:1/0" in done.stderr
    assert "Traceback" not in done.stderr
