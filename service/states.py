"""`repl-ranker states`: keeps user states beside the rankers, a consumer for each tenant. It ranks nothing and opens
no port.

It needs the log and the Redis of user states, and of the base model the schema only. Several share the partitions
(`states_share.py`). Trainer and rankers may be down, held or rolled back meanwhile: neither is asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, closing

from features.errors import ReplError
from features.event_log import open_log, system_clock
from features.feature_store import open_feature_store
from features.schema import Schema
from service import logs
from service.artifact import SAMPLE, find_base, read_manifest
from service.event_applying import ids_seen
from service.memory import Relief
from service.metrics import Metrics
from service.settings import Settings, require_beside
from service.shared_users import SharedUserStates
from service.states_share import LeasedShare
from service.user_state_consumer import UserStateConsumer

log = logging.getLogger(__name__)

STUCK_SECONDS = 30.0
"""A consumer whose step takes longer gives its partitions up."""
RELIEF_SECONDS = 10.0
_LOOK_SECONDS = 0.2


def schema_of(settings: Settings) -> Schema:
    """The schema of these settings: `schema_file`, else that of the base. Raises SchemaError, ArtifactError."""
    if settings.schema_file is not None:
        return Schema.load(settings.schema_file)
    manifest, _ = read_manifest(find_base(settings.data_dir, settings.base_dir, SAMPLE))
    return Schema.from_dict(manifest.schema)


class Keeper:
    """The consumer of one tenant, and its share of the partitions."""

    def __init__(self, settings: Settings, until: ExitStack) -> None:
        """until: closes log and store. Raises LogError, StoreError, SettingsError, SchemaError, ArtifactError."""
        require_beside(settings)
        schema = schema_of(settings)
        event_log = until.enter_context(closing(open_log(settings)))
        store = until.enter_context(closing(open_feature_store(settings)))
        self.share = LeasedShare(settings, self._at_work)
        self.consumer = UserStateConsumer(
            event_log,
            schema,
            SharedUserStates(store, settings.users_in_memory, settings.history),
            None,
            None,
            None,
            (None, None),
            threading.Lock(),
            Metrics(),
            system_clock,
            ids_seen(event_log, settings),
            share=self.share,
        )
        self._stuck = False
        log.info("user states are kept", extra={"schema": schema.fingerprint[:12]})

    def _at_work(self) -> bool:
        return self.consumer.alive and time.monotonic() - self.consumer.stepped < STUCK_SECONDS

    def look(self) -> None:
        """Say when the consumer gets stuck. Raises ReplError where it has ended by itself."""
        if not (self.consumer.alive and self.share.alive):
            raise ReplError("the consumer of user states ended by itself", hint="its log has the traceback")
        stuck = not self._at_work()
        if stuck and not self._stuck:
            log.error("the consumer of user states does not get on: its partitions are left to others")
        self._stuck = stuck

    def start(self) -> None:
        """Start both threads."""
        self.consumer.start()
        self.share.start()

    def stop(self) -> None:
        """Write what was read, then let others take over at once."""
        self.consumer.stop()
        self.share.stop()


def run(every: Collection[Settings], stop: threading.Event) -> None:
    """Keep the user states of these tenants until `stop`. Raises what `Keeper` raises, and ReplError where a consumer
    has ended by itself."""
    with ExitStack() as until:
        keepers = []
        for settings in every:
            logs.TENANT.set(settings.tenant if len(every) > 1 else None)
            keepers.append(Keeper(settings, until))
        logs.TENANT.set(None)
        for keeper in keepers:
            keeper.start()
            until.callback(keeper.stop)
        relief, relieved = Relief(), time.monotonic()
        while not stop.wait(_LOOK_SECONDS):
            if time.monotonic() - relieved >= RELIEF_SECONDS:
                relief.look()
                relieved = time.monotonic()
            for keeper in keepers:
                keeper.look()
