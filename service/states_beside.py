"""User states that processes beside the ranker keep (`user_states = "beside"`): read from Redis for each request, and
how far they are behind the log. It applies no event and writes nothing.

A request's state is one round trip. A token is waited for without one: a thread of its own looks how far the others
have read, often while somebody waits, and wakes the requests.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from features.errors import StoreDown, StoreError, WentBack
from features.feature_store import ReadBeside
from features.records import Offsets
from features.user_state import UserState
from service.background import Background
from service.log_positions import generation_in, positions_in, stored_name
from service.metrics import Metrics
from service.progress import Progress
from service.ranked import KnownState
from service.shared_users import SharedUserStates

log = logging.getLogger(__name__)

WAITED_SECONDS, NEWS_SECONDS, IDLE_SECONDS = 0.005, 0.025, 0.25
"""Between two looks: while a request waits, while the others have not read all there is, else."""
BEHIND_MS = 10_000
"""User states further behind than this make answers stale."""
SPACING_MS, ENDS = 50, 256


class BesideUserStates(SharedUserStates):
    """States as others have written them; none is kept here."""

    writes = False
    elsewhere = True

    def get(self, key: int) -> UserState | None:
        """As UserStates.get. Raises StoreError, at once where the store was not there a moment ago."""
        return self.read(key, ())[0] if key else None

    def read(self, key: int, names: Sequence[str]) -> tuple[UserState | None, Offsets]:
        """See ReadBeside.read. Raises as `get`."""
        if self.unreachable:
            raise StoreDown("the store of user states did not answer", hint="it is asked again all the time")
        try:
            return cast(ReadBeside, self.store).read(key, names)
        except StoreDown:
            self.unreachable = True
            raise


class StatesWatch(Background):
    """How far the processes beside have read, as their store says."""

    def __init__(
        self,
        users: BesideUserStates,
        log_key: Callable[[], str | None],
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        """log_key: names the log that is read here, as stored beside offsets."""
        self._users, self._log_key, self._metrics, self._clock = users, log_key, metrics, clock
        self.progress = Progress()
        self._generation = 0
        self._lock = threading.Lock()
        self._ends: deque[tuple[int, Offsets]] = deque()
        self._through = 0
        self._waiting = 0
        self._failing = False
        super().__init__("user-states-watch")

    @property
    def through(self) -> int:
        """The last time (ms) at which everything that the log held then is known to be in user states; 0 before."""
        return self._through

    @property
    def failing(self) -> bool:
        """Whether the store does not answer, or lacks what is older than BEHIND_MS."""
        with self._lock:
            oldest = self._ends[0][0] if self._ends else None
        return self._failing or (oldest is not None and oldest < self._clock() - BEHIND_MS)

    def seen(self, now: int, positions: Offsets) -> None:
        """The log ended before these offsets at `now` (ms)."""
        with self._lock:
            if self.progress.reached(positions):
                self._through = max(self._through, now)
            elif not self._ends or now - self._ends[-1][0] >= SPACING_MS:
                self._ends.append((now, positions))
                self._wake.set()
                if len(self._ends) > ENDS:  # long behind: half of them are as good
                    self._ends = deque(list(self._ends)[::2])
        self._settle()

    def look(self) -> None:
        """Once: how far they have read."""
        try:
            stored = self._users.store.offsets()
        except WentBack:
            stored = None
        except StoreError as error:
            if not self._failing:
                log.error("user states cannot be read", extra={"reason": error.message})
            self._metrics.failures.labels("state").inc()
            self._failing = self._users.unreachable = True
            return
        self._failing = self._users.unreachable = False
        key = self._log_key()
        if stored is None:  # they are read again, and so are the offsets
            self._begin_again(self._generation)
            return
        if key is None:
            return
        generation = generation_in(stored, key)
        if generation != self._generation:  # another log: its offsets have nothing to do with those before
            self._begin_again(generation)
        self.progress.advance(positions_in(stored, self._generation))
        self._settle()

    def _begin_again(self, generation: int) -> None:
        """Nothing is known to be in user states any more."""
        with self._lock:
            self._ends.clear()
            self._generation, self._through = generation, 0
            self.progress.restart({})

    def _settle(self) -> None:
        """What has been reached of what was seen on the log."""
        with self._lock:
            while self._ends and self.progress.reached(self._ends[0][1]):
                self._through = max(self._through, self._ends.popleft()[0])
            self._metrics.delays.stored(self.progress.positions, self._clock())

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            news = self._ends or self._metrics.delays.waits_for_users
            pause = NEWS_SECONDS if news and not self._failing else IDLE_SECONDS
            if self._waiting and not self._failing:
                pause = WAITED_SECONDS
            self._wake.wait(pause)
            self._wake.clear()

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """While a request waits: looks follow each other quickly."""
        self._waiting += 1
        self._wake.set()
        try:
            yield
        finally:
            self._waiting -= 1

    async def state(self, key: int, wanted: Offsets, seconds: float) -> tuple[KnownState, bool]:
        """An actor's state (key 0: nobody's), which holds what lies before `wanted`; False where that could not be had
        within `seconds`. One round trip, two where it has to be waited for."""
        known, holds = self._read(key, wanted)
        if holds:
            return known, True
        if known.failed or not seconds:
            return known, False
        with self._hurried():
            reached = await self.progress.wait(wanted, seconds)
        return self._read(key, {})[0], reached

    def _read(self, key: int, wanted: Offsets) -> tuple[KnownState, bool]:
        """The state, and whether it holds what lies before `wanted`: by what was known before, or was read with it
        (others may go on while the answer is on its way)."""
        missing = [] if self.progress.reached(wanted) else [stored_name(name, self._generation) for name in wanted]
        if not key and not missing:
            return KnownState(), True
        try:
            state, found = self._users.read(key, missing)
        except StoreError:
            return KnownState(failed=True), not missing
        positions = positions_in(found, self._generation)
        if found:
            self.progress.advance(positions)
        holds = not missing or all(positions.get(name, 0) >= at for name, at in wanted.items())
        return KnownState(state if key else None), holds
