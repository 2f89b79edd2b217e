"""`repl-ranker size`: what it predicts is what a real Redis and a real ranker take; and what grows with what."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import redis
from typer.testing import CliRunner

from features.errors import ReplError
from features.feature_store_redis import RedisFeatureStore
from features.user_state import UserState
from service.cli import app
from service.cli_size import shown
from service.figures import FIGURES, Figure, load_figures, record
from service.settings import Settings
from service.sizing import ITEM_KEY_BYTES, Demand, plan, trainer_state_bytes, user_state_bytes
from service.weight_store import Checkpoint, CheckpointWrite, Version
from service.weight_store_redis import RedisWeightStore
from tests.redis_server import RedisServer

USERS, INTERACTIONS, ITEMS = 20_000, 33, 100_000
SHOP = Demand(users=1_000_000, items=100_000, events_per_day=8_640_000, requests=200)


def needs(demand: Demand, **settings: object) -> dict[str, float]:
    found = plan(demand, load_figures(), Settings(**settings))  # type: ignore[arg-type]
    return {need.name: need.value for need in found}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis")
    yield made
    made.stop()


def states() -> Iterator[UserState]:
    for user in range(USERS):
        state = UserState(int.from_bytes(secrets.token_bytes(8), "little") | 1)
        for k in range(INTERACTIONS):
            item = 0xC2B2AE3D27D4EB4F * (1 + secrets.randbelow(ITEMS)) % 2**64
            state.append(item, 1 + k % 4, 1_767_225_600_000 + secrets.randbelow(2_592_000_000), user * INTERACTIONS + k)
        yield state


def test_20000_users_take_in_a_real_redis_what_was_predicted(server: RedisServer) -> None:
    """Of a length of history that none of the figures was measured with. Both kinds of states, each ± 30 %."""
    figures, made = load_figures(), list(states())
    with closing(redis.Redis.from_url(server.url)) as client:
        empty = int(client.info("memory")["used_memory"])
        with closing(RedisFeatureStore(server.url, "shop")) as store:
            store.commit(made, [], {"event/0": 1, "event/1": 7})
        full = int(client.info("memory")["used_memory"])
        version = Version(1, "0" * 64, "push", 1, b"", {"event/0": 1}, 1, 1, None, "h", 1)
        with closing(RedisWeightStore(server.url, "shop", writer=True)) as weights:
            rows = [(state.key, state.encode()) for state in made]
            weights.commit(version, b"", CheckpointWrite(Checkpoint(1, {"event/0": 1}, {}), rows))
        both = int(client.info("memory")["used_memory"])
    predicted = user_state_bytes(figures, INTERACTIONS) * USERS + ITEM_KEY_BYTES * ITEMS
    assert predicted == pytest.approx(full - empty, rel=0.3), (full - empty) / USERS
    assert trainer_state_bytes(figures, INTERACTIONS) * USERS == pytest.approx(both - full, rel=0.3)


def test_what_grows_with_what() -> None:
    usual = needs(SHOP)
    assert usual["rankers"] >= 2
    assert usual["partitions"] >= 6
    double = needs(Demand(2_000_000, 100_000, 8_640_000, 200))
    listed = ITEM_KEY_BYTES * 100_000
    assert double["redis_user_states"] - listed == pytest.approx(2 * (usual["redis_user_states"] - listed))
    assert double["redis_checkpoints"] == usual["redis_checkpoints"]
    assert double["ranker_memory"] == usual["ranker_memory"], "only so many users are held in memory"
    busy = needs(Demand(1_000_000, 100_000, 8_640_000, 20_000))
    assert busy["rankers"] > 20
    assert busy["partitions"] == busy["rankers"], "each ranker reads a partition of its own"
    events = needs(Demand(1_000_000, 100_000, 86_400_000, 200))
    assert events["trainer_busy"] == pytest.approx(10 * usual["trainer_busy"])
    assert events["archive_a_year"] == pytest.approx(10 * usual["archive_a_year"])
    items = needs(Demand(1_000_000, 1_100_000, 8_640_000, 200))
    per_item = load_figures()["ranker_item_bytes"]
    assert items["ranker_memory"] - usual["ranker_memory"] == pytest.approx(per_item * 1e6)


def test_settings_count() -> None:
    usual = needs(SHOP)
    slow = needs(SHOP, publish_every_ms=2_000)
    assert slow["bytes_per_second_to_each_ranker"] < usual["bytes_per_second_to_each_ranker"]
    assert usual["redis_checkpoints"] == 2**28, "checkpoints of a day come to that"
    least = needs(SHOP, redis_checkpoint_bytes=2**20)["redis_checkpoints"]
    assert least == needs(SHOP, redis_checkpoint_bytes=2**21)["redis_checkpoints"], "two always stay"
    assert needs(SHOP, event_retention_days=45)["log_events"] == usual["log_events"] / 2
    assert needs(SHOP, users_in_memory=40_000)["ranker_memory"] > usual["ranker_memory"]


def test_a_user_of_fifty_interactions_is_what_the_documents_say() -> None:
    """docs/redis.md, measured there on other users (`bench states`): 0.48 KB."""
    assert user_state_bytes(load_figures(), 50) == pytest.approx(480, rel=0.1)


def test_the_command() -> None:
    words = ["size", "--users", "1000000", "--items", "50000", "--events-per-day", "5e6", "--requests", "100"]
    answer = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    values = {need["name"]: need["value"] for need in answer["needs"]}
    text = CliRunner().invoke(app, words).stdout
    line = next(line for line in text.splitlines() if line.startswith("redis_memory"))
    assert shown(values["redis_memory"], "B") in line
    assert "measured 20" in text
    assert answer["figures"]["redis_user_bytes"] > 0
    assert CliRunner().invoke(app, words[:3]).exit_code == 2


def test_every_figure_says_when_and_by_which_command(tmp_path: Path) -> None:
    found = load_figures().figures
    assert len(found) > 15
    for name, figure in found.items():
        assert figure.command.startswith("repl-ranker bench size"), name
        assert len(figure.date) == 10, name
        assert figure.value > 0, name
        assert figure.machine, name
    path = tmp_path / "figures.json"
    record({"a": Figure(1.0, "B", "?", "c", "2026-01-01")}, path)
    record({"b": Figure(2.0, "B", "?", "c", "2026-01-01"), "a": Figure(3.0, "B", "?", "c", "2026-01-02")}, path)
    again = load_figures(path)
    assert (again["a"], again["b"]) == (3.0, 2.0)
    with pytest.raises(ReplError, match="lack c"):
        again["c"]
    path.write_bytes(msgspec.json.encode({"format": 9, "figures": {}}))
    with pytest.raises(ReplError, match="format 9"):
        load_figures(path)
    with pytest.raises(ReplError, match="cannot be read"):
        load_figures(tmp_path / "none.json")
    assert FIGURES.is_file()
