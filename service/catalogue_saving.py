"""Writes the catalogue to `catalogue.db` now and then, and wakes the encoder for what is new. It applies no event."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from features.catalogue import Catalogue
from features.records import Offsets
from service.catalogue_store import CatalogueStore

if TYPE_CHECKING:
    from service.encoders import Encoders

SAVE_MS = 5_000


class CatalogueSaver:
    """For the one thread that changes the catalogue."""

    def __init__(
        self,
        catalogue: Catalogue | None,
        store: CatalogueStore | None,
        encoder: Encoders | None,
        lock: threading.Lock,
        now: int,
    ) -> None:
        """catalogue, store: None where another process fills it, then nothing is done; now: ms."""
        self._catalogue, self._store, self._encoder, self._lock = catalogue, store, encoder, lock
        self._saved_at = now
        self._saved_version = self._encoded_version = 0 if catalogue is None else catalogue.version

    def encode(self) -> None:
        """Wake the encoder where something has changed."""
        if self._encoder is None or self._catalogue is None or self._catalogue.version == self._encoded_version:
            return
        self._encoded_version = self._catalogue.version
        self._encoder.wake()

    def save(self, offsets: Offsets, now: int, *, force: bool) -> None:
        """Write what has changed, read through these offsets as stored, where it is time. Raises StoreError."""
        if self._store is None or self._catalogue is None or self._catalogue.version == self._saved_version:
            return
        if not force and now - self._saved_at < SAVE_MS:
            return
        with self._lock:
            version = self._catalogue.version
            chunks = self._catalogue.changed_chunks()
            waiting = self._encoder.collect() if self._encoder is not None else self._catalogue.changed_rows()
        self._store.save(chunks, offsets, waiting.astype("int64"))
        self._catalogue.mark_clean()  # only this thread changes the catalogue
        self._saved_version, self._saved_at = version, now
        if self._encoder is not None:
            self._encoder.wake()
