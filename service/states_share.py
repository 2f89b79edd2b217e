"""Which partitions each of several `repl-ranker states` reads: leases in Redis, by the clock of Redis. It reads no log.

A member renews its entry twice a second; one that does not for LEASE_MS is no member, and its partitions are free.
Every member is due an equal share. One with more gives the surplus back once what it read of it is written; one with
less takes what is free. The leases spread the work: what keeps a member that wakes up late from doing harm is that the
newer of two states stays (`features/feature_store_redis_script.py`), not this.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any

from features.errors import StoreError
from features.redis_client import RedisPlace
from service.background import Background
from service.settings import Settings

log = logging.getLogger(__name__)

LEASE_MS = 6_000
RENEW_SECONDS = 0.5
KEPT_MS = 600_000
"""How long the keys stay when no member is left."""

RENEW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local members, place, alive = redis.call('ZRANGE', KEYS[1], 0, -1), 0, {}
table.sort(members)
for i, member in ipairs(members) do
  alive[member] = true
  if member == ARGV[1] then place = i end
end
local count = #ARGV - 3
local due = math.floor(count / #members)
if place <= count % #members then due = due + 1 end
local mine, free = {}, {}
for i = 4, #ARGV do
  local owner = redis.call('HGET', KEYS[2], ARGV[i])
  if owner == ARGV[1] then table.insert(mine, ARGV[i])
  elseif not owner or not alive[owner] then table.insert(free, ARGV[i]) end
end
for _, name in ipairs(free) do
  if #mine < due then
    redis.call('HSET', KEYS[2], name, ARGV[1])
    table.insert(mine, name)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {due, #members, mine}
"""
"""KEYS: members by the time until which they are; partition → member. ARGV: a member, lease and time to live of the
keys (ms), then every partition. Returns how many partitions the member is due, how many members there are, its own."""

LEAVE = """
for i = 2, #ARGV do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
"""

END = """
redis.call('ZREM', KEYS[1], ARGV[1])
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if all[i + 1] == ARGV[1] then redis.call('HDEL', KEYS[2], all[i]) end
end
"""


def place_of(settings: Settings) -> RedisPlace:
    """The Redis of user states. Raises SettingsError."""
    assert settings.user_states_url is not None
    url = settings.user_states_url.get_secret_value()
    return RedisPlace(url, settings.tenant, setting="user_states_url", timeout_ms=settings.redis_timeout_ms)


def members_key(place: RedisPlace) -> str:
    """The sorted set of members."""
    return f"{place.prefix}:u-members"


def members(settings: Settings) -> list[str]:
    """Names of the members at work: when they began, host and process id, joined by dashes. Raises StoreError."""
    with closing(place_of(settings)) as place, place.errors("read who keeps user states") as client:
        seconds, micros = client.time()
        found = client.zrangebyscore(members_key(place), seconds * 1_000 + micros // 1_000, "+inf")
    return sorted(one.decode() for one in found)


def host_of(member: str) -> str:
    """The host in a member's name."""
    return member.split("-", 1)[1].rsplit("-", 2)[0]


class LeasedShare(Background):
    """A member. `start`, then read the partitions `mine`; `stop` when all that was read is written."""

    def __init__(self, settings: Settings, at_work: Callable[[], bool]) -> None:
        """at_work: while it says no, the lease is not renewed. Raises SettingsError; connects later."""
        self._place, self._at_work = place_of(settings), at_work
        self._keys = [members_key(self._place), f"{self._place.prefix}:u-owners"]
        self._name = f"{time.time_ns() // 1_000_000:013d}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._every: list[str] = []
        self._mine: frozenset[str] = frozenset()
        self._reads: frozenset[str] = frozenset()
        self._told: str | None = None
        super().__init__("share")

    @property
    def mine(self) -> frozenset[str]:
        """The partitions that are to be read by this process. While Redis does not answer they stay: nobody else can
        take them either."""
        return self._mine

    def know(self, names: Collection[str]) -> None:
        """All partitions that there are."""
        every = sorted(names)
        if every != self._every:
            self._every = every
            self._wake.set()

    def reads(self, names: Collection[str]) -> None:
        """These are read now: what this member holds beyond them and is not due is left at once."""
        found = frozenset(names)
        if found != self._reads:
            self._reads = found
            self._wake.set()

    def _call(self, doing: str, script: str, *arguments: Any) -> Any:
        with self._place.errors(doing) as client:
            return client.eval(script, len(self._keys), *self._keys, self._name, *arguments)

    def renew(self) -> None:
        """Once: say that this member is there, take what it is due, leave what it is not and does not read any more.
        Raises StoreError."""
        due, count, mine = self._call("renew a share of the partitions", RENEW, LEASE_MS, KEPT_MS, *self._every)
        held = sorted(one.decode() for one in mine)
        kept = frozenset(held[:due])
        if kept != self._mine:
            log.info("a share of the partitions", extra={"members": count, "due": due, "mine": sorted(kept)})
        self._mine = kept
        surplus = [name for name in held[due:] if name not in self._reads]
        if surplus:
            self._call("leave partitions", LEAVE, *surplus)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._every and self._at_work():
                    self.renew()
                self._tell(None)
            except StoreError as error:
                self._tell(error.message)
            self._wake.wait(RENEW_SECONDS)
            self._wake.clear()

    def _tell(self, reason: str | None) -> None:
        if reason is not None and self._told is None:
            log.warning("the share of the partitions could not be renewed", extra={"reason": reason})
        self._told = reason

    def stop(self) -> None:
        """End renewing, and let others take over at once."""
        super().stop()
        try:
            self._call("leave the partitions", END)
        except StoreError:  # the lease runs out by itself
            log.debug("the share was not given back")
        self._place.close()
