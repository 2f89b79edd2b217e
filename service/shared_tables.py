"""What the worker that writes tells the others: weights, ages and how its neighbours are, beside counters they read.

The counters lie in shared pages (`RealtimeState`); here is what goes with them, written in the same change. It follows
no store and reads no log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from features.realtime import RealtimeState
from features.shared_pages import SharedHead, SharedPages
from service.background import Background
from service.bases import Bases
from service.engine import Engine
from service.replica import Replica
from service.shared_place import Announcement, announce
from service.snapshot import Offer

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05
_REACH = 4 << 20
_LENGTH, _TOLD, _BEAT = 0, 1, 2


class Told(msgspec.Struct, frozen=True):
    """What there is to serve (each worker chooses by the bases it has loaded), the bases that the writer has loaded,
    and what its threads say of themselves."""

    offer: Offer = Offer()
    loaded: tuple[str, ...] = ()
    beat: tuple[int, int, int] | None = None
    failing: bool = False
    copied: bool = False
    waiting: int = 0


class Tables:
    """Counters in shared pages with what is told of them; the same class writes and reads."""

    def __init__(self, state: RealtimeState) -> None:
        """state: over pages of its own (the writer's) or of another process."""
        assert isinstance(state.pages, SharedPages)
        self.state, self.place = state, state.pages.place
        self.head = SharedHead(state.pages, 4)
        self._body = state.pages.zeros(_REACH, np.uint8)

    def tell(self, told: bytes) -> None:
        """The writer's, within `head.writing()`."""
        self._body[: len(told)] = np.frombuffer(told, np.uint8)
        self.head.numbers[_LENGTH] = len(told)
        self.head.numbers[_TOLD] += 1

    @property
    def count(self) -> int:
        """How often something was told."""
        return int(self.head.numbers[_TOLD])

    def told(self) -> Told | None:
        """What was told last; None where the writer was killed while it told."""
        data = b""
        for _ in self.head.reading():
            data = self._body[: int(self.head.numbers[_LENGTH])].tobytes()
        try:
            return msgspec.msgpack.decode(data, type=Told) if data else Told()
        except msgspec.DecodeError:
            return None

    @property
    def beat(self) -> int:
        """When the writer last looked, ms."""
        return int(self.head.numbers[_BEAT])

    @beat.setter
    def beat(self, now: int) -> None:
        self.head.numbers[_BEAT] = now


class Publisher(Background):
    """The writer's side: `changing` around every change of the counters, and a look 20 times a second."""

    def __init__(
        self,
        data_dir: Path,
        realtime: RealtimeState,
        bases: Bases,
        replica: Replica,
        waiting: Callable[[], int],
        clock: Callable[[], int],
    ) -> None:
        """waiting: how many items are not encoded yet."""
        self._data_dir, self._bases, self._replica = data_dir, bases, replica
        self._waiting, self._clock = waiting, clock
        self._tables = Tables(realtime)
        self._last, self._last_waiting = b"", 0
        self._announced: Announcement | None = None
        super().__init__("publisher")

    @property
    def _engine(self) -> Engine:
        """That of the base that answers: the first one may be let go."""
        return self._bases.live.engine

    def _current(self) -> Tables:
        if self._tables.state is not self._engine.realtime:
            self._tables, self._last = Tables(self._engine.realtime), b""
        return self._tables

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around a change of counters and snapshot, under the engine's lock."""
        tables = self._current()
        with tables.head.writing():
            yield
            tables.state.items.publish()
            tables.state.categories.publish()
            self._last = self._told()
            tables.tell(self._last)

    def _told(self) -> bytes:
        replica = self._replica
        told = Told(
            offer=replica.offer,
            loaded=tuple(self._bases.loaded),
            beat=replica.beat,
            failing=replica.failing,
            copied=replica.copied,
            waiting=self._last_waiting,
        )
        return msgspec.msgpack.encode(told)

    def look(self) -> None:
        """Once: tell what has changed beside the counters, and where the tables lie where that has."""
        self._last_waiting = self._waiting()
        if self._told() != self._last or self._tables.state is not self._engine.realtime:
            with self._engine.lock, self.changing():
                pass
        self._tables.beat = self._clock()
        with self._engine.lock:  # no row is half written
            pages = self._engine.catalogue.pages
            assert isinstance(pages, SharedPages)
            now = Announcement(pages.place, self._tables.place, str(self._engine.artifact.dir.resolve()))
        if now != self._announced and self._tables.state is self._engine.realtime:
            announce(self._data_dir, now)
            self._announced = now

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self.look()
            except OSError as error:
                log.error("the shared tables cannot be announced", extra={"reason": str(error)})
