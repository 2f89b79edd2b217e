"""Bench of user states in Redis: its memory a user, and the time to read and write one.

The Redis is that of `user_states_url` where it is set (a tenant of its own, deleted afterwards), else a `redis-server`
of the system that is started for it on loopback, keeping nothing on disk.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import StoreError
from features.feature_store_redis import RedisFeatureStore
from features.keys import text_key
from features.redis_client import RedisPlace
from features.user_state import UserState
from service.settings import Settings
from trainer.bench.server import free_port

TENANT = "bench-states"
_AT_ONCE = 1_000
_READ = 2_000
_GIB = 1 << 30
_NOW = 1_763_000_000_000
REPEATS = 0.126
"""Share of clicks on an item clicked before, among the last 50 of Online Retail's customers with 50 or more."""


@contextlib.contextmanager
def redis_url(settings: Settings) -> Iterator[str]:
    """The Redis to measure. Raises StoreError where there is none."""
    if settings.user_states_url is not None:
        yield settings.user_states_url.get_secret_value()
        return
    program = shutil.which("redis-server")
    if program is None:
        raise StoreError("there is no redis-server to measure", hint="install it, or set user_states_url")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="repl-bench-") as home:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", home, "--save", "", "--appendonly", "no"]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait(server, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise StoreError("redis-server did not start")


def histories(
    users: int, history: int, keys: npt.NDArray[np.uint64], repeats: float, seed: int
) -> Iterator[UserState]:
    """Users with visits some days apart and clicks some 40 s apart, at whole milliseconds; items evenly over `keys`.

    repeats: the share of clicks on an item that the user has clicked before; 0: no item twice.
    """
    rng = np.random.default_rng(seed)
    for user in range(users):
        items = keys[_distinct(rng, len(keys), history)]
        again = np.flatnonzero(rng.random(history) < repeats)
        for at in again[again > 0].tolist():
            items[at] = items[rng.integers(0, at)]
        days, seconds = rng.exponential(3 * 86_400_000, history), rng.exponential(40_000, history)
        gaps = np.where(rng.random(history) < 0.2, days, seconds).astype(np.int64)
        times = _NOW - np.cumsum(gaps)[::-1]
        kinds = rng.choice(np.array([1, 1, 1, 1, 3, 4], np.uint8), history)
        state = UserState(text_key("user", f"{seed}-{user}"), history)
        for k in range(history):
            state.append(int(items[k]), int(kinds[k]), int(times[k]), (3 << 48) + 1_000_000 + user * history + k)
        yield state


def _distinct(rng: np.random.Generator, items: int, n: int) -> npt.NDArray[np.int64]:
    found = np.unique(rng.integers(0, items, 2 * n))
    return rng.permutation(found)[:n]


def _percentile(seconds: list[float], share: float) -> float:
    return round(sorted(seconds)[int(share * (len(seconds) - 1))] * 1e6, 1)


def measure(
    url: str, users: int, history: int, keys: npt.NDArray[np.uint64], repeats: float, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Write the states, ask Redis for its memory, read some; all keys of the tenant are deleted before and after."""
    place = RedisPlace(url, TENANT, setting="user_states_url")
    store = RedisFeatureStore(url, TENANT, history, max_items=max(2_000_000, len(keys)))
    with place.errors("measure") as client:
        _forget(client, place.prefix)
        before, read, began = int(client.info("memory")["used_memory"]), [], time.perf_counter()
        batch: list[UserState] = []
        for number, state in enumerate(histories(users, history, keys, repeats, int(repeats * 100))):
            batch.append(state)
            if len(batch) == _AT_ONCE or number == users - 1:
                store.commit(batch, [], {"event/0": number})
                tell(number + 1)
                some, batch = [state.key for state in batch], []
        wrote = time.perf_counter() - began
        after = int(client.info("memory")["used_memory"])
        listed = int(client.memory_usage(f"{place.prefix}:u-items") or 0)
        for turn in range(_READ):
            start = time.perf_counter()
            store.get(some[turn % len(some)])
            read.append(time.perf_counter() - start)
        body = client.strlen(f"{place.prefix}:u:{some[0]:016x}")
        _forget(client, place.prefix)
    store.close()
    place.close()
    each = (after - before - listed) / users
    return {
        "bytes_a_user": round(each, 1),
        "of_which_value": int(body),
        "items_list_mb": round(listed / (1 << 20), 1),
        "gib_for_a_million_users": round((1_000_000 * each + listed) / _GIB, 3),
        "get_p50_us": _percentile(read, 0.5),
        "get_p99_us": _percentile(read, 0.99),
        "made_and_written_per_second": round(users / wrote),
    }


def _forget(client: Any, prefix: str) -> None:
    names = list(client.scan_iter(f"{prefix}:*", count=5_000))
    for start in range(0, len(names), 10_000):
        client.unlink(*names[start : start + 10_000])
    until = time.monotonic() + 10  # UNLINK frees in the background
    while int(client.info("memory").get("lazyfree_pending_objects", 0)) and time.monotonic() < until:
        time.sleep(0.05)


def run(
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    *,
    users: int = 100_000,
    history: int = 50,
    items: int = 1_000_000,
) -> dict[str, Any]:
    """Both kinds of histories; the figures are Redis's own (`INFO memory`, used_memory)."""
    tell = progress or (lambda done, total: None)
    keys = np.unique(np.random.default_rng(5).integers(1, 1 << 63, items).astype(np.uint64))
    answer: dict[str, Any] = {"users": users, "history": history, "items": len(keys)}
    with redis_url(settings) as url:
        answer["no_item_twice"] = measure(url, users, history, keys, 0.0, lambda n: tell(n, 2 * users))
        answer["with_repeats"] = measure(url, users, history, keys, REPEATS, lambda n: tell(users + n, 2 * users))
    return answer
