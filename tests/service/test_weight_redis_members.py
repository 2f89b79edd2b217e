"""service/weight_redis_members.py on a real Redis: who is there, who has left, who has run out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from features.errors import StoreError
from service import weight_redis_members as subject
from service.weight_redis_lease import RedisLease, holder
from service.weight_redis_members import RedisMembers
from tests.conftest import fresh_tenant


@pytest.fixture
def two(redis_url: str) -> Iterator[tuple[RedisMembers, RedisMembers]]:
    tenant = fresh_tenant()
    pair = (RedisMembers(redis_url, tenant, 2_000), RedisMembers(redis_url, tenant, 2_000))
    yield pair
    for one in pair:
        one.leave()
        one.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as found:
        yield found


def keys(members: RedisMembers, client: redis.Redis) -> list[bytes]:
    return sorted(client.scan_iter(f"{members._keys.members[:-1]}*", count=1_000))


def test_each_knows_the_others_and_what_they_would_train(two: tuple[RedisMembers, RedisMembers]) -> None:
    one, other = two
    assert one.beat({"a": False}) == {one.me: {"a": False}}
    assert other.beat({"a": True, "b": False}) == {one.me: {"a": False}, other.me: {"a": True, "b": False}}
    assert one.beat({"a": False}).keys() == {one.me, other.me}
    other.leave()
    assert one.beat({"a": False}).keys() == {one.me}


def test_who_says_nothing_runs_out_and_every_key_goes(
    two: tuple[RedisMembers, RedisMembers], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "MEMBER_MS", 400)
    one, other = two
    other.beat({})
    time.sleep(0.25)
    one.beat({})
    time.sleep(0.25)
    assert one.beat({}).keys() == {one.me}
    assert client.smembers(one._keys.members) == {one.me.encode()}
    assert all(0 < client.pttl(key) <= 400 for key in keys(one, client))
    time.sleep(0.6)
    assert keys(one, client) == []


def test_what_cannot_be_read_offers_nothing(two: tuple[RedisMembers, RedisMembers], client: redis.Redis) -> None:
    one, other = two
    other.beat({"a": False})
    client.set(other._keys.member(other.me), b"\xff", px=4_000)
    assert one.beat({"a": False}) == {one.me: {"a": False}, other.me: {}}


def test_there_is_a_bound(two: tuple[RedisMembers, RedisMembers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MOST_MEMBERS", 1)
    one, other = two
    one.beat({})
    with pytest.raises(StoreError, match="more than 1 trainers share the tenants"):
        other.beat({})
    assert one.beat({}).keys() == {one.me}, "the one too many is none"


def test_the_lease_says_who_holds_it(redis_url: str, client: redis.Redis) -> None:
    tenant = fresh_tenant()
    prefix = f"repl:{{{tenant}}}"
    assert holder(client, prefix) is None
    lease = RedisLease(redis_url, tenant, 2_000)
    assert lease.take(force=False)
    host, _, pid = (holder(client, prefix) or "").rpartition(":")
    assert host
    assert int(pid) > 0
    lease.stop()
    assert holder(client, prefix) is None
