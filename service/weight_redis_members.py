"""The trainers that share the tenants, in Redis: who is alive, and which tenants each would train. It assigns none.

A key a member, which runs out after MEMBER_MS, and a set of their names. Who trains is guarded by each tenant's lease
and fencing token, not by this.
"""

from __future__ import annotations

import secrets

import msgspec

from features.errors import StoreError
from features.redis_client import RedisPlace
from service.processes import this_process
from service.weight_redis_keys import Keys

MEMBER_MS = 4_000
MOST_MEMBERS = 256


Offer = dict[str, bool]
"""The tenants that a member would train; True where its last attempt failed: others first."""


class RedisMembers:
    """This process among the trainers that meet under one tenant's prefix."""

    def __init__(self, url: str, tenant: str, timeout_ms: int) -> None:
        """tenant: that of the process. Raises SettingsError; connects later."""
        self._place = RedisPlace(url, tenant, setting="weights_url", timeout_ms=timeout_ms)
        self._keys = Keys(self._place.prefix)
        self.me = f"{this_process()}:{secrets.token_hex(4)}"

    def beat(self, mine: Offer) -> dict[str, Offer]:
        """Be alive for MEMBER_MS more; all that are, this one among them. Raises StoreError."""
        with self._place.errors("join the trainers that share the tenants") as client:
            with client.pipeline(transaction=False) as pipe:
                pipe.set(self._keys.member(self.me), msgspec.json.encode(mine), px=MEMBER_MS)
                pipe.sadd(self._keys.members, self.me)
                pipe.pexpire(self._keys.members, MEMBER_MS)
                pipe.smembers(self._keys.members)
                names = sorted(bytes(name).decode() for name in pipe.execute()[-1])
            said = dict(zip(names, client.mget([self._keys.member(name) for name in names]), strict=True))
            if gone := [name for name, body in said.items() if body is None]:
                client.srem(self._keys.members, *gone)
        alive = {name: _offer(body) for name, body in said.items() if body is not None}
        if len(alive) > MOST_MEMBERS:
            self.leave()
            hint = "start fewer of them"
            raise StoreError(f"more than {MOST_MEMBERS} trainers share the tenants", value=len(alive), hint=hint)
        return alive | {self.me: mine}

    def leave(self) -> None:
        """Be no member any more, at once. What fails is not told: it runs out by itself."""
        try:
            with self._place.errors("leave the trainers that share the tenants") as client:
                client.srem(self._keys.members, self.me)
                client.delete(self._keys.member(self.me))
        except StoreError:
            pass

    def close(self) -> None:
        """Close the connection."""
        self._place.close()


def _offer(said: bytes) -> Offer:
    """What a member said; one that cannot be read (of another release) would train nothing that we know of."""
    try:
        return msgspec.json.decode(said, type=Offer)
    except msgspec.MsgspecError:
        return {}
