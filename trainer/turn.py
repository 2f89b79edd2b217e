"""Whose turn it is to train: one trainer a data directory, one a tenant in Redis; a standby waits until it is free.

On one machine a file lock says so, which the system gives back when the process ends; between machines a lease in
Redis, which runs out LEASE_MS after the trainer's end. Without `standby` the newest trainer takes over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from features.errors import Fenced, StoreError
from service.settings import Settings
from trainer.fence import Fence

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


@contextmanager
def turn(settings: Settings, stop: threading.Event, *, standby: bool) -> Iterator[bool]:
    """Hold the turn while inside; False where `stop` was set before it came. Raises Fenced, StoreError."""
    fence = _fence(settings, stop, standby)
    if fence is None:
        yield False
        return
    with closing(fence), _lease(settings, stop, standby) as ours:
        yield ours


def _fence(settings: Settings, stop: threading.Event, standby: bool) -> Fence | None:
    waited = False
    while not stop.is_set():
        try:
            return Fence(settings.data_dir)
        except Fenced:
            if not standby:
                raise
        waited = waited or _tell_waiting()
        stop.wait(LOOK_SECONDS)
    return None


@contextmanager
def _lease(settings: Settings, stop: threading.Event, standby: bool) -> Iterator[bool]:
    if settings.weights_url is None:
        yield True
        return
    from features.redis_extra import require_redis

    require_redis("weights_url")
    from service.weight_redis_lease import RedisLease

    lease = RedisLease(settings.weights_url.get_secret_value(), settings.tenant, settings.redis_timeout_ms)
    waited = False
    while not stop.is_set():
        try:
            if lease.take(force=not standby):
                break
            waited = waited or _tell_waiting()
        except StoreError as error:
            if not standby:
                raise
            log.error("the standby cannot ask whose turn it is", extra={"reason": error.message})
        stop.wait(LOOK_SECONDS)
    try:
        yield not stop.is_set()
    finally:
        lease.stop()


def _tell_waiting() -> bool:
    log.info("another trainer is at work: standing by")
    return True
