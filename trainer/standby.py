"""A trainer in waiting (`repl-ranker learn --standby`): it returns once the one that learns has been silent.

Silent: no heartbeat in the weight store, or the same one all this time by this machine's clock (no two clocks are
compared). Who wins when two start at once the store's fencing token decides; the other one ends. It learns nothing.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing

from features.errors import StoreError
from service.settings import Settings
from service.weight_store import open_weight_store
from service.weight_version import Heartbeat

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
SPREAD = 0.2
"""Up to this share longer, by chance: two that wait for the same one do not start at once."""


def wait_for_silence(settings: Settings, seconds: float, stop: threading.Event) -> None:
    """Return once nobody has learned for `seconds`, or at `stop`. Raises StoreError at the first look."""
    with closing(open_weight_store(settings)) as store:
        log.info("standing by", extra={"seconds": seconds})
        until_silent(store.heartbeat, seconds * (1 + random.uniform(0, SPREAD)), stop)
    if not stop.is_set():
        log.warning("nobody learns: this trainer takes over", extra={"silent_seconds": seconds})


def until_silent(beat: Callable[[], Heartbeat | None], seconds: float, stop: threading.Event) -> None:
    """Return once the heartbeat is missing or has not changed for `seconds`, or at `stop`.

    A store that does not answer is no silence: without it nobody can learn, and waiting goes on from its next answer.
    """
    last, since, failing = beat(), time.monotonic(), False
    while last is not None and time.monotonic() - since < seconds and not stop.wait(LOOK_SECONDS):
        try:
            now = beat()
        except StoreError as error:
            if not failing:
                log.error("the weight store does not answer; standing by", extra={"reason": error.message})
            since, failing = time.monotonic(), True
            continue
        if now != last or failing:
            last, since, failing = now, time.monotonic(), False
