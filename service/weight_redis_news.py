"""Listens for what the weight store in Redis announces, in a thread; it reads nothing: who is woken looks itself."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from features.errors import StoreError
from features.redis_client import RedisPlace

log = logging.getLogger(__name__)

LISTEN_SECONDS = 0.5


class News:
    """One subscription. Where Redis does not answer, polling has to do, and this tries again."""

    def __init__(self, place: RedisPlace, channel: str) -> None:
        self._place, self._channel = place, channel
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Call `wake` from now on for each message, until `close`."""
        self._thread = threading.Thread(target=self._listen, args=(wake,), name="weight-news", daemon=True)
        self._thread.start()

    def _listen(self, wake: Callable[[], None]) -> None:
        failing = False
        while not self._closed.is_set():
            try:
                with self._place.errors("listen to news") as client, contextlib.closing(client.pubsub()) as news:
                    news.subscribe(self._channel)
                    failing = False
                    while not self._closed.is_set():
                        if news.get_message(ignore_subscribe_messages=True, timeout=LISTEN_SECONDS) is not None:
                            wake()
            except (StoreError, ValueError) as error:
                if not failing and not self._closed.is_set():
                    log.warning("new versions are not announced: polled for", extra={"reason": str(error)})
                failing = True
                self._closed.wait(LISTEN_SECONDS)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2 * LISTEN_SECONDS)
