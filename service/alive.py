"""The health check of what opens no port: a trainer, and with `--states` a `repl-ranker states` of this machine.

`python -m service.alive [--seconds 20] [--states]`, with the settings of the process; ends with 0, or with 1 and the
reason. A trainer lives while its heartbeat in the weight store is young; a consumer of user states while its lease in
Redis holds. It tells nothing of how far they are: `/v1/status` does.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from contextlib import closing

from features.errors import ReplError
from service.settings import Settings, load_settings, require_beside
from service.tenant_settings import settings_by_tenant
from service.weight_store import open_weight_store


def age_ms(settings: Settings, now: int) -> int | None:
    """Milliseconds since the trainer's last heartbeat; None where there was none. Raises StoreError, SettingsError."""
    with closing(open_weight_store(settings)) as store:
        beat = store.heartbeat()
    return None if beat is None else max(0, now - beat.at)


def reason(settings: Settings, seconds: float, now: int) -> str | None:
    """Why the trainer is not alive, None if it is."""
    try:
        age = age_ms(settings, now)
    except ReplError as error:
        return str(error)
    if age is None:
        return "no trainer has begun to learn yet"
    return None if age <= 1_000 * seconds else f"the trainer's last heartbeat is {age / 1_000:.0f} s old"


def states_reason(settings: Settings) -> str | None:
    """Why no consumer of user states is at work on this machine, None if one is, for every tenant."""
    from service.states_share import members

    for name, one in settings_by_tenant(settings).items():
        try:
            require_beside(one)
            if not any(f"-{socket.gethostname()}-" in member for member in members(one)):
                return f"no `repl-ranker states` of {socket.gethostname()} is at work for the tenant {name}"
        except ReplError as error:
            return str(error)
    return None


def main() -> None:
    """The check of this moment."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20.0, help="oldest heartbeat of a living trainer")
    options.add_argument("--states", action="store_true", help="ask for `repl-ranker states`, not for a trainer")
    given = options.parse_args()
    try:
        settings = load_settings()[0]
        why = states_reason(settings) if given.states else reason(settings, given.seconds, time.time_ns() // 1_000_000)
    except ReplError as error:
        why = str(error)
    if why is not None:
        print(why, file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
