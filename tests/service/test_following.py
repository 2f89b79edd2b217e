"""A worker that reads another's tables, beside the one that writes them: the same counters with the same weights, and
user states that stay in memory until the writer has stored them."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from features.feature_store import EmbeddedFeatureStore
from features.ops import IMPRESSION, OpsBuilder
from features.realtime import RealtimeConfig, RealtimeState
from features.shared_pages import SharedPages
from features.user_state import UserState
from service.following import FollowedUserStates, counters_at
from service.shared_place import Announcement, announce, announced
from service.shared_tables import Tables, Told
from service.snapshot import Offer
from service.weight_store import Beside

CONFIG = RealtimeConfig(max_items=500, max_categories=50, max_lists=50, neighbours=8)


def test_a_state_stays_in_memory_until_the_writer_has_stored_what_was_applied_here(tmp_path: Path) -> None:
    store, lock = EmbeddedFeatureStore(tmp_path / "state.db"), threading.Lock()
    here = FollowedUserStates(store, 1, 256)

    def click(key: int, offset: int) -> None:
        state = here.get_or_new(key)
        if state.append(offset + 100, 1, offset, offset):
            here.put(state)

    click(7, 0)
    here.flush_beside(lock, {"event/0": 1, "event/1": 5})
    click(7, 1)
    click(8, 2)
    here.flush_beside(lock, {"event/0": 3, "event/1": 6})
    assert (here.dirty, len(here)) == (2, 2), "the store has nothing of it yet"

    stored = UserState(7)
    stored.append(100, 1, 0, 0)
    store.commit([stored], [], {"event/0": 1})
    here.flush_beside(lock, {"event/0": 3, "event/1": 6})
    assert here.dirty == 2, "one partition is not far enough"
    store.commit([], [], {"event/1": 5})
    here.flush_beside(lock, {"event/0": 3, "event/1": 6})
    assert here.dirty == 2, "both had something after that"
    assert len(here.get_or_new(7)) == 2

    stored.append(101, 1, 1, 1)
    other = UserState(8)
    other.append(102, 1, 2, 2)
    store.commit([stored, other], [], {"event/0": 3, "event/1": 6})
    here.flush_beside(lock, {"event/0": 3, "event/1": 6})
    here.flush_beside(lock, {"event/0": 3, "event/1": 6})
    assert (here.dirty, len(here)) == (0, 1), "what is stored may go"
    assert [len(here.get_or_new(key)) for key in (7, 8)] == [2, 1]
    click(8, 2)
    assert len(here.get_or_new(8)) == 1, "a record counts once"
    store.close()


def test_what_is_announced_is_replaced_as_a_whole(tmp_path: Path) -> None:
    assert announced(tmp_path) is None
    for name in ("a", "b"):
        announce(tmp_path, Announcement(name, name, name))
        assert announced(tmp_path) == Announcement(name, name, name)
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["tables.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory without a file is Linux's")
def test_counters_and_what_is_told_of_them_are_read_together() -> None:
    """A reader beside a writer: what it reads of both in one go belongs together, however they meet."""
    state = RealtimeState(CONFIG, SharedPages)
    mine = Tables(state)
    theirs = Tables(counters_at(mine.place, CONFIG))
    assert theirs.told() == Told()
    stop, failed, read = threading.Event(), [], 0

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            made = OpsBuilder()
            made.add(version, IMPRESSION, 9)
            with mine.head.writing():
                state.apply(made.build())
                state.items.publish()
                mine.tell(_told(version))
            stop.wait(0.0003)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while read < 400 and not failed:
            for _ in theirs.head.reading():
                told, latest = theirs.told(), theirs.state.latest
            assert told is not None
            if told.offer.version and told.offer.version != latest:
                failed.append((told.offer.version, latest))
            read += told.offer.version > 0
    finally:
        stop.set()
        writer.join(20)
    assert not failed
    theirs.state.items.follow()
    assert theirs.state.slots(np.array([9], np.uint64)).tolist() == [0]


def _told(version: int) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(Told(Offer(version=version, pairs=(Beside("a", "", bytes(version % 50)),))))
