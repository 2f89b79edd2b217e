"""All tenants' trainers of one machine under one parent, which shares them with the parents on other machines.

The parent says twice a second that it is alive (`service/weight_redis_members.py`), and forks a trainer for each tenant
that `spread.py` gives it. The trainers are standbys: a tenant's lease and fencing token decide who trains, as they do
without a group, so that two parents that disagree for a moment cost a wait and nothing else. It trains nothing itself.

Without `weights_url` there is no place to meet: each parent offers every tenant, and the file locks decide.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from importlib import import_module
from types import FrameType

from features.errors import ReplError, SettingsError, StoreError
from features.redis_extra import require_redis
from service.child import (
    STEADY_SECONDS,
    Child,
    end_all,
    one_thread_each,
    ready_to_fork,
    require_linux,
    status_of,
)
from service.logs import TENANT, set_up
from service.processes import why_ended
from service.settings import Settings
from service.tenant_settings import settings_by_tenant

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
SETTLE_SECONDS = 1.0
"""How long the members must have said the same before it is acted upon: after a loss of Redis all come back in turn."""

LONGEST_PAUSE = 60.0
DOUBT_SECONDS = 600.0
"""How long a tenant whose trainer did not last here goes to others first."""

GRACE_SECONDS = 30.0
_TICK = 0.1


class Trainer(Child):
    """The trainer of one tenant on this machine. wanted: whether it is to run."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(LONGEST_PAUSE)
        self.wanted = False
        self._settings = settings
        self._told = self._doubted_until = 0.0

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self._settings.tenant

    def doubtful(self, now: float) -> bool:
        """Whether its last attempt did not last."""
        return now < self._doubted_until

    def look(self, now: float) -> None:
        """Note what ended, start what is due, end what is not wanted any more."""
        status = self.ended()
        if status is not None:
            self._note(status, now)
        if self.wanted and not self.pid and now >= self.due:
            self.fork(self._train)
        elif self.pid and (self._told or not self.wanted):  # one that was told ends, whatever is wished by then
            self._give_up(now)

    def _note(self, status: int, now: float) -> None:
        if self._told:
            self._told, self.due = 0.0, now
            return
        if now - self.started < STEADY_SECONDS:
            self._doubted_until = now + DOUBT_SECONDS
        log.error(
            "a tenant's trainer ended by itself; it is tried again, elsewhere first",
            extra={"tenant": self.tenant, "why": why_ended(status), "in_seconds": self.pause},
        )

    def _give_up(self, now: float) -> None:
        if not self._told:
            self._told = now
            self.signal(signal.SIGTERM)
        elif now - self._told > GRACE_SECONDS:
            log.error("a tenant's trainer did not end and is killed", extra={"tenant": self.tenant})
            self.signal(signal.SIGKILL)

    def _train(self) -> int:
        from trainer.live import run_until_told

        TENANT.set(self.tenant)
        try:
            run_until_told(self._settings, standby=True)
        except ReplError as error:
            log.error("this tenant is not trained here", extra={"reason": str(error)})
            return status_of(error)
        return 0


class Group:
    """The parent: `run` until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, parts: Mapping[str, Settings]) -> None:
        """parts: the settings of every tenant. Raises SettingsError."""
        self._trainers = {name: Trainer(own) for name, own in parts.items()}
        self._stopping = False
        self._members = None
        if settings.weights_url is not None:
            from service.weight_redis_members import RedisMembers

            url = settings.weights_url.get_secret_value()
            self._members = RedisMembers(url, settings.tenant, settings.redis_timeout_ms)
        self._due = self._since = 0.0
        self._seen: dict[str, dict[str, bool]] = {}
        self._down: str | None = None

    def run(self) -> None:
        """Look until told to stop; then leave the group, so that others begin to wait for the leases, and end all."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                now = time.monotonic()
                self._share(now)
                for trainer in self._trainers.values():
                    trainer.look(now)
                time.sleep(_TICK)
        finally:
            if self._members is not None:
                self._members.leave()
            for trainer in end_all([*self._trainers.values()], GRACE_SECONDS):
                log.error("a tenant's trainer did not end and was killed", extra={"tenant": trainer.tenant})

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _share(self, now: float) -> None:
        if self._members is None:
            self._want(set(self._trainers), 1)
            return
        if now < self._due:
            return
        self._due = now + BEAT_SECONDS
        try:
            alive = self._members.beat({name: one.doubtful(now) for name, one in self._trainers.items()})
        except StoreError as error:
            self._tell_down(error)
            return
        self._down = None
        if alive != self._seen:
            self._seen, self._since = alive, now
        if now - self._since >= SETTLE_SECONDS:
            from trainer.spread import spread

            me = self._members.me
            self._want({tenant for tenant, member in spread(alive).items() if member == me}, len(alive))

    def _tell_down(self, error: StoreError) -> None:
        """Once for each reason. What is trained here goes on being trained here: the leases lie in the same place."""
        if self._down != error.message:
            log.error("the trainers cannot share the tenants: each keeps what it has", extra={"reason": error.message})
        self._down = error.message

    def _want(self, tenants: set[str], members: int) -> None:
        if tenants == {name for name, trainer in self._trainers.items() if trainer.wanted}:
            return
        log.info("the tenants of this trainer", extra={"tenants": sorted(tenants), "members": members})
        for name, trainer in self._trainers.items():
            trainer.wanted = name in tenants


def run_group(settings: Settings) -> None:
    """Train every tenant of the settings, shared with all that run this, until told to stop. Raises SettingsError."""
    require_linux("all_tenants", True, "start a `learn --tenant NAME` for each tenant")
    parts = settings_by_tenant(settings)
    for name, own in parts.items():
        if settings.weights_url is None and own.weights_url is not None:
            raise SettingsError(
                "this tenant's weights lie in a Redis, and the trainers have none to meet in",
                field=f"tenants.{name}.weights_url",
                hint="set weights_url outside of [tenants] too",
            )
    set_up(settings.log_level)
    _prepare(settings)
    Group(settings, parts).run()


def _prepare(settings: Settings) -> None:
    """Import and load what trainers need, once for all of them: a trainer that is forked then learns at once."""
    one_thread_each()
    from service.memory import few_heaps

    few_heaps()
    from trainer.warm_learner import load_kernels

    if settings.weights_url is not None:
        require_redis("weights_url")
        import_module("service.weight_store_redis")
    if settings.log_url is not None:
        import_module("features.event_log_kafka")
    try:
        load_kernels()
    except (ReplError, OSError) as error:  # each trainer loads them for itself then
        log.warning("the kernels could not be loaded ahead", extra={"reason": str(error)})
    ready_to_fork()
