"""How many requests and events a second a tenant, and each of its keys, may send: token buckets. It refuses; it never
delays.

For the event loop's thread alone. The buckets (`buckets.py`) are those of all workers of a ranker; several rankers each
allow the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from features.errors import RateLimited
from features.keys import text_key
from service.buckets import Bucket, Buckets
from service.metrics import Metrics
from service.settings import Settings

Kind = Literal["requests", "events"]


class Limits:
    """The limits of one tenant's settings."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        shared: int | None = None,
    ) -> None:
        """clock: seconds, the same beginning for all who share; shared: the memory that they share."""
        self._metrics, self._clock, self._seconds = metrics, clock, settings.burst_seconds
        self._buckets = Buckets(shared)
        whole: dict[Kind, float | None] = {
            "requests": settings.requests_per_second, "events": settings.events_per_second,
        }  # fmt: skip
        self._whole = {kind: self._bucket(kind, "", rate) for kind, rate in whole.items() if rate is not None}
        each: dict[Kind, float | None] = {
            "requests": settings.key_requests_per_second, "events": settings.key_events_per_second,
        }  # fmt: skip
        self._each = {kind: rate for kind, rate in each.items() if rate is not None}
        self.any = bool(self._whole or self._each)

    def admit(self, key: str | None, events: bool) -> None:
        """Count one request, and one event if it carries events. Raises RateLimited, then nothing was counted."""
        kinds: tuple[Kind, ...] = ("requests", "events") if events else ("requests",)
        with self._buckets.alone():
            now, found = self._clock(), []
            for kind in kinds:
                for by, bucket in self._of(kind, key):
                    wait = self._buckets.wait(bucket, now)
                    if wait > 0.0:
                        self._metrics.limited.labels(kind, by).inc()
                        raise RateLimited(
                            f"this {by} sends more than {bucket.rate:g} {kind} a second",
                            retry_after=wait, field=_setting(kind, by), value=bucket.rate,
                        )  # fmt: skip
                    found.append(bucket)
            for bucket in found:
                self._buckets.take(bucket, 1.0, now)

    def spent(self, key: str | None, events: int) -> None:
        """A request that was admitted carried so many events: it is answered, the next ones wait for what is over."""
        if events > 1 and self.any:
            with self._buckets.alone():
                for _, bucket in self._of("events", key):
                    self._buckets.take(bucket, events - 1.0, self._clock())

    def _of(self, kind: Kind, key: str | None) -> list[tuple[str, Bucket]]:
        found = [("tenant", self._whole[kind])] if kind in self._whole else []
        if key is not None and kind in self._each:
            found.append(("key", self._bucket(kind, key, self._each[kind])))
        return found

    def _bucket(self, kind: Kind, key: str, rate: float) -> Bucket:
        """key: the id of an API key, "" for the tenant's own. At least one token fits into it."""
        return Bucket(text_key(kind, key), rate, max(1.0, rate * self._seconds))


def _setting(kind: Kind, by: str) -> str:
    return f"{kind}_per_second" if by == "tenant" else f"key_{kind}_per_second"
