"""What `bench size` measures is what is there, and it leaves no key; the whole bench is long."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from features.user_state import HISTORY, UserState
from service.figures import load_figures
from tests.redis_server import RedisServer
from trainer.bench.size import lifelike, memory_of_users
from trainer.bench.size_redis import states_of, user_bytes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis")
    yield made
    made.stop()


def test_bytes_in_redis_are_measured_and_nothing_stays(server: RedisServer) -> None:
    found = user_bytes(server.url, 20, HISTORY, users=1_500)
    body = len(UserState.encode(states_of(1, 20, HISTORY)[0]))
    assert 20 * 8 < body < 21 + 17 * 20, "the keys of items are most of it; in Redis their numbers stand there"
    assert body / 2 < found < body + 300, "the state, its key, and what Redis needs for both"
    figures = load_figures()
    assert found == pytest.approx(figures["redis_user_bytes"] + 20 * figures["redis_interaction_bytes"], rel=0.2)
    with closing(redis.Redis.from_url(server.url)) as client:
        assert client.dbsize() == 0


def test_users_in_memory_take_what_their_arrays_take() -> None:
    value, unit, _ = memory_of_users(HISTORY)["memory_interaction_bytes"]
    assert (value, unit) == (pytest.approx(17, abs=0.6), "B"), "8 of the item, 8 of the time, 1 of the kind"


def test_events_are_like_real_ones() -> None:
    made = lifelike(400)
    assert len(made) == 400
    assert len({record.id_hash for record in made}) == 400
    assert {record.kind for record in made} == {"interaction"}


@pytest.mark.long
def test_the_whole_bench(server: RedisServer, data_dir: Path) -> None:
    words = ["bench", "size", "--redis", server.url, "--data-dir", str(data_dir), "--json"]
    command = [sys.executable, "-m", "trainer.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer.keys() == load_figures().figures.keys()
    assert all(value > 0 for value in answer.values())
    with closing(redis.Redis.from_url(server.url)) as client:
        assert client.dbsize() == 0
