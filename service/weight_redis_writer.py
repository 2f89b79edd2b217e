"""Who may write the weight store in Redis: a fencing token, checked in the transaction of every write.

The token is EPOCH:RANDOM under one key. Whoever takes it last may write; all others get Fenced at their next write,
however late that comes. A token that Redis has forgotten (its last second was lost, it was flushed) is WentBack: the
trainer starts anew from what Redis holds.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import TypeVar

from features.errors import Fenced, WentBack
from features.redis_client import Pipeline, RedisPlace
from service.weight_redis_keys import Keys
from service.weight_version import FORMAT

T = TypeVar("T")


class Writer:
    """The right to write; taken with `take`, or with the first write."""

    def __init__(self, place: RedisPlace, keys: Keys) -> None:
        self._place, self._keys = place, keys
        self._token: tuple[int, str] | None = None
        self._lock = threading.Lock()

    def take(self) -> None:
        """Take the token: from now on every other process is fenced off. Raises StoreError."""
        with self._lock:
            if self._token is None:
                self._token = self._place.transaction("take over the weights", (self._keys.fence,), self._next)

    def _next(self, pipe: Pipeline) -> tuple[int, str]:
        epoch, _ = _token(pipe.get(self._keys.fence))
        mine = (epoch + 1, secrets.token_hex(8))
        pipe.multi()
        pipe.set(self._keys.fence, f"{mine[0]}:{mine[1]}")
        pipe.hsetnx(self._keys.meta, "format", str(FORMAT))
        return mine

    def write(self, doing: str, queue: Callable[[Pipeline], T], watched: tuple[str, ...] = ()) -> T:
        """`RedisPlace.transaction` behind the token. Raises Fenced, WentBack, StoreError."""
        self.take()

        def fenced(pipe: Pipeline) -> T:
            self._check(_token(pipe.get(self._keys.fence)))
            return queue(pipe)

        return self._place.transaction(doing, (self._keys.fence, *watched), fenced)

    def _check(self, found: tuple[int, str]) -> None:
        mine = self._token
        if found == mine:
            return
        if mine is None or found[0] < mine[0]:
            self._token = None
            raise WentBack(
                f"{self._place.where} has forgotten who writes: it was restarted without its last writes, or flushed",
                value=self._keys.fence,
                hint="the trainer starts anew from what Redis holds",
            )
        raise Fenced(
            f"another trainer writes the weights in {self._place.where}",
            field="weights_url",
            value=self._place.where,
            hint="stop one of the two; the one started last goes on",
        )


def _token(found: bytes | None) -> tuple[int, str]:
    """(epoch, random part) of the stored token; (0, "") where there is none."""
    epoch, _, rest = bytes(found or b"0:").decode("ascii", "replace").partition(":")
    return (int(epoch) if epoch.isdecimal() else 0), rest
