"""Fetches the base that was staged, in a thread of its own, and says from where the new pair has to learn.

The trainer appends that as `base-begin` once the files are here: a replay never waits for a network. It moves nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from typing import Any

from features.errors import LogError, ReplError, SchemaError
from features.event_log import EventLog
from features.records import Offsets
from service.artifact import Artifact
from trainer.core import Core, Fetch
from trainer.log_identity import offsets_at

log = logging.getLogger(__name__)

RETRY_MS = 30_000


class Beginner:
    """Asked between cuts. One fetch at a time; one that failed is tried again half a minute later."""

    def __init__(self, event_log: EventLog, fetch: Fetch | None) -> None:
        """fetch None: nothing is fetched, and no pair begins but by what the log says."""
        self._log, self._fetch = event_log, fetch
        self._thread: threading.Thread | None = None
        self._done: tuple[str, Artifact | ReplError] | None = None
        self._seen = ""
        self._asked = ""  # the base whose `base-begin` was appended
        self._retry_at = 0
        self.failure: str | None = None
        self.ready: Artifact | None = None
        """The base whose `base-begin` was appended, loaded already: the cut that covers it need not wait for a disk."""

    def look(self, core: Core, now: int) -> dict[str, Any] | None:
        """The body of the `base-begin` to append now; None where there is none."""
        staged = core.rollout.staged
        if staged != self._seen:
            self._seen, self._asked, self._retry_at, self.ready = staged, "", 0, None
        if self._fetch is None or not staged or staged == self._asked:
            return None
        if self._thread is None:
            if now >= self._retry_at:
                self._start(staged, core.rollout.urls.get(staged, ""), (core.artifact.sha256, core.configured))
            return None
        if self._thread.is_alive():
            return None
        self._thread = None
        done, self._done = self._done, None
        if done is None or done[0] != staged:
            return None
        return self._begun(core, now, staged, done[1])

    def _start(self, sha256: str, url: str, in_use: Collection[str]) -> None:
        fetch = self._fetch
        assert fetch is not None

        def work() -> None:
            try:
                self._done = sha256, fetch(sha256, url, in_use)
            except ReplError as error:
                self._done = sha256, error

        self._thread = threading.Thread(target=work, name="base-fetch", daemon=True)
        self._thread.start()

    def _begun(self, core: Core, now: int, sha256: str, found: Artifact | ReplError) -> dict[str, Any] | None:
        if not isinstance(found, ReplError) and found.schema.fingerprint != core.catalogue.schema.fingerprint:
            found = SchemaError("the staged base was trained with another schema: it cannot stand beside this one")
        if isinstance(found, ReplError):
            if self.failure != found.message:
                log.error("the staged base cannot be had", extra={"base": sha256, "reason": found.message})
            self.failure, self._retry_at = found.message, now + RETRY_MS
            return None
        try:
            start = self._from(core.offsets, found.manifest.through)
        except LogError as error:
            self.failure, self._retry_at = error.message, now + RETRY_MS
            return None
        self.failure, self._asked, self._retry_at, self.ready = None, sha256, 0, found
        return {"sha256": sha256, "from": start}

    def _from(self, offsets: Offsets, through: int) -> Offsets:
        """Where the log holds what came after the time `through` (ms), partition by partition."""
        found = offsets_at(self._log, through)
        names = [name for name in offsets if name.startswith(("event/", "served/"))]
        return {name: min(offsets[name], found.get(name, offsets[name])) for name in names}
