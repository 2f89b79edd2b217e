"""What a long backlog leaves in memory is given back; nothing is forgotten by it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from features.keys import KeyIndex
from service.memory import Relief, drop_compiler, unchanged
from service.testkit import ReplService


def test_users_of_a_long_backlog_leave_memory_and_are_still_known(
    repl_service: ReplService, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = repl_service
    monkeypatch.setattr("service.user_state_consumer.MANY", 100)
    names = [f"i{k}" for k in range(10)]
    shop.events(*(shop.item(name, title=f"red lamp {name}", price=2.5) for name in names))
    shop.events(*(shop.click(f"u{k}", names[k % 10]) for k in range(100)))
    users = shop.service.running.engine.users
    until = time.monotonic() + 5
    while len(users):
        assert time.monotonic() < until
        time.sleep(0.01)
    explained = shop.rank(names, user="u3", explain=True)["explain"]
    own = {
        entry["id"]: term["value"]
        for entry in explained
        for term in entry["terms"]
        if term["name"] == "rt.own.click"
    }
    assert own["i3"] == max(own.values()) > own["i4"]
    taken = shop.events(shop.click("u3", "i4"))
    again = shop.rank(names, user="u3", after=taken["token"], explain=True)["explain"]
    values = {entry["id"]: {t["name"]: t["value"] for t in entry["terms"]} for entry in again}
    assert values["i4"]["rt.own.click"] > 0 < values["i3"]["rt.own.click"]


SMAPS = """\
7f00-7f10 r-xp 00000000 fe:00 1 /lib/libllvmlite.so
Size: 64 kB
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
7f10-7f20 r--p 00010000 fe:00 1 /lib/libllvmlite.so
Anonymous:             4 kB
Swap:                  0 kB
7f20-7f30 rw-p 00020000 fe:00 1 /lib/libllvmlite.so
Anonymous:             0 kB
Swap:                  0 kB
7f30-7f40 r-xp 00000000 fe:00 2 /lib/other.so
Anonymous:             0 kB
Swap:                  0 kB
7f40-7f50 r--p 00030000 fe:00 1 /lib/libllvmlite.so
Anonymous:             0 kB
Swap:                  8 kB
7f50-7f60 r--p 00040000 fe:00 1 /lib/libllvmlite.so
Anonymous:             0 kB
Swap:                  0 kB
"""


def test_only_unchanged_pages_of_the_compiler_are_dropped() -> None:
    assert list(unchanged(SMAPS.splitlines(), "libllvmlite")) == [(0x7F00, 0x7F10), (0x7F50, 0x7F60)]


def test_kernels_run_and_load_after_the_compiler_was_dropped() -> None:
    drop_compiler()
    index = KeyIndex(10)
    assert index.intern_many(np.array([7, 9, 7], np.uint64)).tolist() == [0, 1, 0]


def test_relief_has_reason_only_when_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [100 << 20]
    monkeypatch.setattr("service.memory.resident", lambda: sizes[0])
    relief = Relief()
    assert relief.look()
    sizes[0] += 1 << 20
    assert not relief.look()
    sizes[0] += 16 << 20
    assert relief.look()
