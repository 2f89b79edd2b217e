"""The health check of a trainer, which opens no port: is its heartbeat in the weight store young enough?

`python -m service.alive [--seconds 20]`, with the settings of the trainer; ends with 0, or with 1 and the reason. Of
several tenants one that is trained is enough: the others are told. It tells nothing of what is learned: `/v1/status`
does.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing

from features.errors import ReplError
from service.settings import Settings, load_settings
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


def main() -> None:
    """The check of this moment."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20.0, help="oldest heartbeat of a living trainer")
    seconds = options.parse_args().seconds
    try:
        whys = reasons(load_settings()[0], seconds, time.time_ns() // 1_000_000)
    except ReplError as error:
        whys = [str(error)]
    for why in whys:
        if why is not None:
            print(why, file=sys.stderr)
    if None not in whys:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
