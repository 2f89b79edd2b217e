"""Bytes that user states and the trainer's states of users take in a real Redis. It deletes what it wrote."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager

from features.feature_store_redis import RedisFeatureStore
from features.redis_client import RedisPlace
from features.user_state import UserState
from service.weight_store import Checkpoint, CheckpointWrite, Version
from service.weight_store_redis import RedisWeightStore

USERS = 4_000
ITEMS = 100_000
LENGTHS = (10, 50)
_MINUTE = 60_000


def states_of(users: int, interactions: int, history: int) -> list[UserState]:
    """Users with so many interactions each, of ITEMS items; no item twice in one history."""
    return [_state(user, (user * 7_919 + k * 104_729 for k in range(interactions)), history) for user in range(users)]


def _state(user: int, items: Iterable[int], history: int) -> UserState:
    state = UserState(0x9E3779B97F4A7C15 * (user + 1) % 2**64, history)
    t = 1_767_225_600_000
    for k, item in enumerate(items):
        t += 1 + (k * k * 37 + user * 101) % 5_000 * _MINUTE // 7  # up to half a day between two, to the millisecond
        state.append(0xC2B2AE3D27D4EB4F * (item % ITEMS + 1) % 2**64, 1, t, k)
    return state


def everything(history: int) -> list[UserState]:
    """Few users who know all items between them: what Redis keeps of items, it keeps from then on."""
    return [_state(-2 - n, range(n, n + history), history) for n in range(0, ITEMS, history)]


@contextmanager
def own_tenant(url: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """(a tenant of the bench's own, bytes that Redis uses now); its keys go afterwards. Raises StoreError."""
    tenant = f"bench-{secrets.token_hex(6)}"
    place = RedisPlace(url, tenant, setting="redis")

    def used() -> int:
        with place.errors("measure memory") as client:
            return int(client.info("memory")["used_memory"])

    try:
        yield tenant, used
    finally:
        with place.errors("delete what the bench wrote") as client:
            for key in client.scan_iter(f"{place.prefix}:*", count=1_000):
                client.unlink(key)
        place.close()


def user_bytes(url: str, interactions: int, history: int, users: int = USERS) -> float:
    """Redis bytes of one user's state."""

    def write(tenant: str, states: list[UserState], through: int) -> None:
        with closing(RedisFeatureStore(url, tenant, history)) as store:  # closed: its buffers in Redis are given back
            store.commit(states, [], {"event/0": through})

    with own_tenant(url) as (tenant, used):
        write(tenant, everything(history), 1)
        before = used()
        write(tenant, states_of(users, interactions, history), 2)
        return (used() - before) / users


def trainer_user_bytes(url: str, interactions: int, history: int, users: int = USERS) -> float:
    """Redis bytes of the trainer's state of one user, as one checkpoint writes it."""
    version = Version(1, "0" * 64, "push", 1, b"", {"event/0": 1}, 1, 1, None, "bench", 1)
    with own_tenant(url) as (tenant, used), closing(RedisWeightStore(url, tenant, writer=True)) as store:
        states = [(state.key, state.encode()) for state in states_of(users, interactions, history)]
        store.latest()
        before = used()
        store.commit(version, b"", CheckpointWrite(Checkpoint(1, {"event/0": 1}, {}), states))
        return (used() - before) / users


def redis_bytes(url: str, history: int) -> dict[str, tuple[float, str, str]]:
    """Both, as a line through two lengths of histories: figure → value, unit, what it is."""
    found = {}
    for name, measure, about in (
        ("", user_bytes, "a user's state in Redis (:u:)"),
        ("trainer_", trainer_user_bytes, "the trainer's state of a user in Redis (:w:user:)"),
    ):
        short, long = (measure(url, length, history) for length in LENGTHS)
        each = (long - short) / (LENGTHS[1] - LENGTHS[0])
        found[f"redis_{name}user_bytes"] = (short - each * LENGTHS[0], "B", f"{about}, without its interactions")
        found[f"redis_{name}interaction_bytes"] = (each, "B", "each interaction of it")
    return found
