"""Indexes the words of titles in slices, in a thread of its own: no start waits for a million of them."""

from __future__ import annotations

import threading

from features.catalogue import Catalogue
from service.background import Background

SLICE = 64
PAUSE_SECONDS = 0.0005
IDLE_SECONDS = 0.5


class TitleIndexer(Background):
    """Calls `Catalogue.index_titles` until nothing is left, then now and then for what is new."""

    def __init__(self, catalogue: Catalogue, lock: threading.Lock) -> None:
        self._catalogue, self._lock = catalogue, lock
        self._left = len(catalogue)
        super().__init__("title-index")

    @property
    def left(self) -> int:
        """Titles that were not indexed when it last looked."""
        return self._left

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._left = self._catalogue.index_titles(SLICE)
            self._stop.wait(PAUSE_SECONDS if self._left else IDLE_SECONDS)
