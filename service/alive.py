"""The health check of what opens no port: a trainer, and with `--states` a `repl-ranker states` of this machine.

`python -m service.alive [--seconds 20] [--states]`, with the settings of the process; ends with 0, or with 1 and the
reason. A trainer lives while its heartbeat in the weight store is young, of several tenants one that is trained is
enough: the others are told; a consumer of user states lives while its lease in Redis holds. It tells nothing of how far
they are: `/v1/status` does.
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


def reasons(settings: Settings, seconds: float, now: int) -> list[str | None]:
    """As `reason`, for each tenant of the settings."""
    found = {name: reason(own, seconds, now) for name, own in settings_by_tenant(settings).items()}
    return [f"{name}: {why}" if why and settings.tenants else why for name, why in found.items()]


def states_reason(settings: Settings) -> str | None:
    """Why no consumer of user states is at work on this machine, None if one is, for every tenant."""
    from service.states_share import host_of, members

    for name, one in settings_by_tenant(settings).items():
        try:
            require_beside(one)
            if not any(host_of(member) == socket.gethostname() for member in members(one)):
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
        now = time.time_ns() // 1_000_000
        whys = [states_reason(settings)] if given.states else reasons(settings, given.seconds, now)
    except ReplError as error:
        whys = [str(error)]
    for why in whys:
        if why is not None:
            print(why, file=sys.stderr)
    if None not in whys:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
