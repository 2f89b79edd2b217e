"""How many requests and events a second a tenant, and each of its keys, may send: token buckets. It refuses; it never
delays.

For the event loop's thread alone. Buckets lie in this process: several rankers each allow the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from features.errors import RateLimited
from service.metrics import Metrics
from service.settings import Settings

Kind = Literal["requests", "events"]
MOST_KEYS = 10_000
"""Keys whose buckets are remembered: as many as a keys file may hold."""


class Bucket:
    """`rate` tokens a second, at most `most` of them. It may go into debt: then the next ones wait longer."""

    __slots__ = ("_at", "_most", "_tokens", "rate")

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        """seconds: how many seconds' worth may be saved up, at least one token."""
        self.rate = rate
        self._most = max(1.0, rate * seconds)
        self._tokens, self._at = self._most, now

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self.rate

    def take(self, count: float) -> None:
        """Take tokens, whether they are there or not."""
        self._tokens -= count


class Limits:
    """The limits of one tenant's settings."""

    def __init__(
        self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock: seconds, any beginning."""
        self._metrics, self._clock, self._seconds = metrics, clock, settings.burst_seconds
        now = clock()
        whole: dict[Kind, float | None] = {
            "requests": settings.requests_per_second, "events": settings.events_per_second,
        }  # fmt: skip
        self._whole = {kind: Bucket(rate, self._seconds, now) for kind, rate in whole.items() if rate is not None}
        each: dict[Kind, float | None] = {
            "requests": settings.key_requests_per_second, "events": settings.key_events_per_second,
        }  # fmt: skip
        self._each = {kind: rate for kind, rate in each.items() if rate is not None}
        self._keys: dict[tuple[Kind, str], Bucket] = {}
        self.any = bool(self._whole or self._each)

    def admit(self, key: str | None, events: bool) -> None:
        """Count one request, and one event if it carries events. Raises RateLimited, then nothing was counted."""
        kinds: tuple[Kind, ...] = ("requests", "events") if events else ("requests",)
        now, found = self._clock(), []
        for kind in kinds:
            for by, bucket in self._buckets(kind, key, now):
                wait = bucket.wait(now)
                if wait > 0.0:
                    self._metrics.limited.labels(kind, by).inc()
                    raise RateLimited(
                        f"this {by} sends more than {bucket.rate:g} {kind} a second",
                        retry_after=wait, field=_setting(kind, by), value=bucket.rate,
                    )  # fmt: skip
                found.append(bucket)
        for bucket in found:
            bucket.take(1.0)

    def spent(self, key: str | None, events: int) -> None:
        """A request that was admitted carried so many events: it is answered, the next ones wait for what is over."""
        if events > 1 and self.any:
            for _, bucket in self._buckets("events", key, self._clock()):
                bucket.take(events - 1.0)

    def _buckets(self, kind: Kind, key: str | None, now: float) -> list[tuple[str, Bucket]]:
        found = [("tenant", self._whole[kind])] if kind in self._whole else []
        if key is not None and kind in self._each:
            found.append(("key", self._of_key(kind, key, now)))
        return found

    def _of_key(self, kind: Kind, key: str, now: float) -> Bucket:
        bucket = self._keys.get((kind, key))
        if bucket is None:
            while len(self._keys) >= MOST_KEYS * 2:
                del self._keys[next(iter(self._keys))]
            bucket = self._keys[kind, key] = Bucket(self._each[kind], self._seconds, now)
        return bucket


def _setting(kind: Kind, by: str) -> str:
    return f"{kind}_per_second" if by == "tenant" else f"key_{kind}_per_second"
