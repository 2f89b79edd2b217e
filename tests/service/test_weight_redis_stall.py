"""How long the weight store's writes stall Redis, by Redis's own clocks; prints what docs/redis.md states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from features.feature_store_redis import RedisFeatureStore
from features.user_state import UserState
from service.weight_keeping import DAY
from service.weight_store import Checkpoint, CheckpointWrite, chunk_sha
from service.weight_store_redis import RedisWeightStore
from tests.redis_server import RedisServer
from tests.service.test_weight_redis import version

LIMIT_MS = 20
CROWDED = 5
"""The machine of the tests is shared: the scheduler alone takes longer than a command."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    log = ("--slowlog-log-slower-than", "1000", "--latency-monitor-threshold", "1")
    made = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "everysec", *log)
    yield made
    made.stop()


@pytest.mark.long
def test_no_write_stalls_redis(server: RedisServer) -> None:
    rng = np.random.default_rng(1)
    worst: dict[str, int] = {}
    with (
        closing(redis.Redis.from_url(server.url)) as client,
        closing(RedisWeightStore(server.url, "shop", writer=True)) as store,
        closing(RedisFeatureStore(server.url, "shop")) as users,
    ):

        def measured(name: str, act: Callable[[], object]) -> None:
            client.execute_command("LATENCY", "RESET")
            act()
            found: Any = client.execute_command("LATENCY", "LATEST")
            worst[name] = max((int(row[3]) for row in found if row[0] != b"fork"), default=0)
            print(f"{name}: {worst[name]} ms  {[(row[0].decode(), row[3]) for row in found]}")

        for size in (1, 16, 48):
            body = rng.bytes(size << 20)
            measured(f"a chunk of {size} MB", lambda body=body: store.put_chunks({chunk_sha(body): body}))  # type: ignore[misc]
        chunks = [rng.bytes(64 << 10) for _ in range(5_000)]
        named = {f"a/{k}": chunk_sha(body) for k, body in enumerate(chunks)}
        measured("5,000 chunks of 64 KB", lambda: store.put_chunks({chunk_sha(body): body for body in chunks}))
        states = [(int(key), rng.bytes(900)) for key in rng.integers(0, 1 << 62, 50_000)]
        for v, some in ((1, states), (2, states[:20_000]), (3, []), (4, [])):
            write = CheckpointWrite(Checkpoint(v, {}, named), some)
            measured(
                f"checkpoint {v}: {len(some)} user states, 1 MB of changes, 5,000 chunks",
                lambda v=v, write=write: store.commit(version(v), rng.bytes(1 << 20), write),  # type: ignore[misc]
            )
        measured("thinning: two of these checkpoints go", lambda: store.thin(40 * DAY))
        many = [UserState(int(key)) for key in rng.integers(1, 1 << 62, 7_000)]
        for state in many:
            for t, item in enumerate(rng.integers(1, 1 << 62, 50)):
                state.append(int(item), 1, t)
        measured("7,000 user states of 50", lambda: users.commit(many, [], {"event/0": 9}))
    assert max(worst.values()) < CROWDED * LIMIT_MS, worst
