"""How far ranker and trainer have read the log when `run` starts them on one that is not empty. It starts
nothing.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from contextlib import closing
from typing import Any

from features.errors import StoreError
from features.event_log import open_log
from features.records import partitions_in
from service.auth import load_key
from service.settings import Settings
from service.weight_store import open_weight_store


class Reading:
    """Counts down from what lay in the log when this was made."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        """host and port: where the ranker is called."""
        self._settings, self._host, self._port = settings, host, port
        self._trained = self._ranked = 0
        self.total = 0
        if settings.tenants:
            return  # each has a log of its own: they are read meanwhile
        with closing(open_log(settings)) as log:
            ends = log.end_offsets()
        self._ends = {name: ends[name] for name in partitions_in("event", ends)}
        self.total = sum(self._ends.values())

    def done(self) -> int:
        """Events of these that both have read: the smaller of the two, as far as they last said."""
        if not self.total:
            return 0
        self._trained = max(self._trained, self._trainer())
        self._ranked = max(self._ranked, self._ranker())
        return min(self._trained, self._ranked)

    def _trainer(self) -> int:
        try:
            with closing(open_weight_store(self._settings)) as store:
                latest = store.latest()
        except StoreError:
            return 0
        return 0 if latest is None else sum(min(end, latest.offsets.get(name, 0)) for name, end in self._ends.items())

    def _ranker(self) -> int:
        status = self._get("/v1/status")
        if status is None:
            return 0
        return self.total - int(status.get("behind") or 0) - int(status.get("items_waiting") or 0)

    def answers(self) -> bool:
        """Is the ranker ready?"""
        return self._get("/health/ready") is not None

    def _get(self, path: str) -> dict[str, Any] | None:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=self._headers(path))
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
            return found if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._settings.tls_cert is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=5)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the process that `run` started itself
        return http.client.HTTPSConnection(self._host, self._port, timeout=5, context=context)

    def _headers(self, path: str) -> dict[str, str]:
        """The administrator's key, where the address may need one; the ranker has made it by then."""
        if path.startswith("/health/"):
            return {}
        return {"Authorization": f"Bearer {load_key(self._settings.data_dir, self._settings.admin_key)}"}

    def until_read(self, progress: Callable[[int, int], None]) -> Callable[[], bool]:
        """For `Processes.wait_until`: True once both have read everything; shows it on the way."""

        def ready() -> bool:
            done = self.done()
            progress(done, self.total)
            return done >= self.total

        return ready
