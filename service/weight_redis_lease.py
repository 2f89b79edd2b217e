"""Whose turn it is to train, in Redis: a lease that its holder renews and that runs out soon after its end.

It spares a standby the guess whether the trainer is dead, and says who trains: `HOST:PID:RANDOM`. What keeps a trainer
that wakes up late from writing is not this, but the fencing token (`weight_redis_writer.py`).
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from features.errors import StoreError
from features.redis_client import RedisPlace
from service.background import Background
from service.processes import this_process
from service.weight_redis_keys import Keys

log = logging.getLogger(__name__)

LEASE_MS = 6_000
RENEW_SECONDS = 1.5
_RENEW = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


def holder(client: Any, prefix: str) -> str | None:
    """Who holds the lease of the keys under `prefix`: HOST:PID; None where nobody does."""
    held = client.get(Keys(prefix).lease)
    return None if held is None else bytes(held).decode(errors="replace").rpartition(":")[0] or "(not said)"


class RedisLease(Background):
    """The lease of one tenant's weights. `take`, then `stop` when training ends: who waits need not wait then."""

    def __init__(self, url: str, tenant: str, timeout_ms: int) -> None:
        """Raises SettingsError; connects later."""
        self._place = RedisPlace(url, tenant, setting="weights_url", timeout_ms=timeout_ms)
        self._key = Keys(self._place.prefix).lease
        self._mine = f"{this_process()}:{secrets.token_hex(8)}"
        self._held = False
        super().__init__("lease")

    def take(self, *, force: bool) -> bool:
        """True: it is ours, and is renewed from now on. force: from whoever holds it. Raises StoreError."""
        with self._place.errors("take the lease of the weights") as client:
            self._held = bool(client.set(self._key, self._mine, px=LEASE_MS, nx=not force))
        if self._held:
            self.start()
        return self._held

    def _run(self) -> None:
        told = False
        while not self._stop.wait(RENEW_SECONDS):
            try:
                with self._place.errors("renew the lease of the weights") as client:
                    held = bool(client.eval(_RENEW, 1, self._key, self._mine, LEASE_MS))
            except StoreError as error:
                if not told:
                    log.warning("the lease could not be renewed", extra={"reason": error.message})
                told = True
                continue
            told = False
            if not held:
                log.warning("another trainer has taken the lease of the weights")
                return

    def stop(self) -> None:
        """End renewing, and let the next one in at once."""
        super().stop()
        try:
            with self._place.errors("leave the lease of the weights") as client:
                client.eval(_LEAVE, 1, self._key, self._mine)
        except StoreError:  # it runs out by itself
            log.debug("the lease was not given back")
        self._place.close()
