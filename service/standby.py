"""A trainer in waiting: runs a command once the trainer that learns has been silent for so many seconds.

`python -m service.standby [--seconds 6] -- repl-ranker learn`. Silent: no heartbeat in the weight store, or the same
one all this time by this machine's clock (no two clocks are compared). It becomes the command: signals reach it.
Who wins when two start at once the weight store's fencing token decides; the other one ends, and waits when restarted.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing

from features.errors import ReplError
from service.console import note
from service.settings import Settings, load_settings
from service.weight_store import open_weight_store
from service.weight_version import Heartbeat

LOOK_SECONDS = 0.5
SPREAD_SECONDS = 1.0
"""At most so much longer, by chance: two that wait for the same one do not start at once."""


def until_silent(beat: Callable[[], Heartbeat | None], seconds: float) -> None:
    """Return once the heartbeat is missing or has not changed for `seconds`; wait while the store does not answer."""
    last, since, told = beat(), time.monotonic(), False
    while last is not None and time.monotonic() - since < seconds:
        time.sleep(LOOK_SECONDS)
        try:
            now = beat()
        except ReplError as error:  # without a store nobody can learn
            if not told:
                note(f"waiting: {error}")
            now, since, told = last, time.monotonic(), True
            continue
        if now != last:
            last, since, told = now, time.monotonic(), False


def heartbeat(settings: Settings) -> Callable[[], Heartbeat | None]:
    """Reads the last heartbeat anew at each call. Raises StoreError, SettingsError."""

    def read() -> Heartbeat | None:
        with closing(open_weight_store(settings)) as store:
            return store.heartbeat()

    return read


def main() -> None:
    """Wait, then become the command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=6.0, help="silence after which to take over")
    options.add_argument("command", nargs="+", help="what to run then, after --")
    given = options.parse_args()
    try:
        until_silent(heartbeat(load_settings()[0]), given.seconds + random.uniform(0, SPREAD_SECONDS))
    except ReplError as error:
        note(f"standby: {error}")
        sys.exit(1)
    note("standby: nobody learns, so this process does")
    os.execvp(given.command[0], given.command)


if __name__ == "__main__":
    main()
