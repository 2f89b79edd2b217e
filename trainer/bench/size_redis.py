"""Bytes that user states and the trainer's states of users take in a real Redis. It deletes what it wrote."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from features.feature_store_redis import RedisFeatureStore
from features.redis_client import RedisPlace
from features.user_state import UserState
from service.weight_store import Checkpoint, CheckpointWrite, Version
from service.weight_store_redis import RedisWeightStore

USERS = 4_000
LENGTHS = (10, 50)
_MINUTE = 60_000


def states_of(users: int, interactions: int, history: int) -> list[UserState]:
    """Users with so many interactions each; no item twice."""
    made = []
    for user in range(users):
        state = UserState(0x9E3779B97F4A7C15 * (user + 1) % 2**64, history)
        for k in range(interactions):
            state.append(0xC2B2AE3D27D4EB4F * (user * 1_000 + k + 1) % 2**64, 1, 1_767_225_600_000 + k * _MINUTE, k)
        made.append(state)
    return made


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
    with own_tenant(url) as (tenant, used), closing(RedisFeatureStore(url, tenant, history)) as store:
        store.commit([], [], {"event/0": 1})
        before = used()
        store.commit(states_of(users, interactions, history), [], {"event/0": 2})
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
