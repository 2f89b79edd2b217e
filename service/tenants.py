"""Several tenants in one ranker process: a whole service each, with settings, log, catalogue, weights and user states
of its own. In common they have the port, the keys, the way to stop and the process. HTTP: `service/front.py`.

A tenant whose base model cannot be loaded answers 503 for itself; the others go on. Where none can, the process ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from features.errors import ReplError
from features.realtime import RealtimeConfig
from service.auth import open_auth
from service.core import Service, now_ms
from service.drain import Drain
from service.metrics import Metrics
from service.settings import Settings
from service.tenant_settings import settings_by_tenant

log = logging.getLogger(__name__)

LOADING_SECONDS = 3_600.0
NO_TENANT = "-"
"""The label of what belongs to no tenant: calls of no tenant, or of one that there is not."""


class Tenants:
    """What `serve` runs where the settings name tenants. `start`, then `stop`."""

    def __init__(
        self, settings: Settings, *, clock: Callable[[], int] = now_ms, realtime: RealtimeConfig | None = None
    ) -> None:
        """Open log and weight store of each; raises LogError, StoreError, SettingsError."""
        self.settings = settings
        self.auth, self.drain, self.metrics = open_auth(settings), Drain(settings.drain_seconds), Metrics()
        shared = (self.auth, self.drain)
        self.services = {
            name: Service(own, clock=clock, realtime=realtime, shared=shared)
            for name, own in settings_by_tenant(settings).items()
        }
        self._ending = False
        self._looked = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, ready: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> None:
        """Load them one after the other in a thread; `ready` is called when all are loaded, then `after`."""
        self.auth.start()
        calls = [call for call in (ready, after) if call is not None]
        self._thread = threading.Thread(target=self._load, args=(calls,), name="loading-tenants", daemon=True)
        self._thread.start()

    def _load(self, calls: list[Callable[[], None]]) -> None:
        for name, service in self.services.items():
            if self._ending:
                return
            service.start()
            try:
                service.wait(LOADING_SECONDS)
            except ReplError:  # its own thread has logged it
                log.error("a tenant is not served", extra={"tenant": name})
        self._looked.set()
        for call in () if self.failed else calls:
            call()

    def wait(self, seconds: float) -> None:
        """Wait until all are loaded or have failed. Raises what the first raised where none is served."""
        if not self._looked.wait(seconds):
            raise ReplError(f"not ready after {seconds:g} s", hint="look into the log")
        self.raise_failure()

    @property
    def failed(self) -> bool:
        """Whether no tenant can be served."""
        return all(service.failed for service in self.services.values())

    def raise_failure(self) -> None:
        """Raise what loading raised, where no tenant can be served."""
        if self.failed:
            next(iter(self.services.values())).raise_failure()

    def missing(self) -> list[str]:
        """What each tenant that is not served lacks, for people."""
        found = {name: service.ready_reasons() for name, service in self.services.items()}
        return [f"tenant {name}: {reason}" for name, reasons in found.items() for reason in reasons]

    def ready_reasons(self) -> list[str]:
        """What is missing until requests can be answered: nothing once all are loaded or have failed, and one has
        not."""
        if self._looked.is_set() and not all(service.ready_reasons() for service in self.services.values()):
            return []
        return self.missing() or ["the service is starting"]

    def stop(self) -> None:
        """End them all, each as it would end alone."""
        self._ending = True
        self.auth.stop()
        for service in self.services.values():
            service.stop()

    def page(self, tenant: str | None) -> bytes:
        """The metrics of one tenant, or of all, each with a label `tenant`, as Prometheus reads them."""
        parts = {name: service.metrics for name, service in self.services.items() if tenant in (None, name)}
        if tenant is None:
            parts[NO_TENANT] = self.metrics
        registry = CollectorRegistry()
        registry.register(_Labelled({name: part.registry for name, part in parts.items()}))
        return generate_latest(registry)


class _Labelled:
    """Collects what several registries hold, family by family, under the label `tenant`."""

    def __init__(self, registries: dict[str, CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the samples of all."""
        families: dict[str, Metric] = {}
        for tenant, registry in self._registries.items():
            for found in registry.collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.samples.append(sample._replace(labels={"tenant": tenant, **sample.labels}))
        yield from families.values()
