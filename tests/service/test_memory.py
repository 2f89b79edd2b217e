"""What a long backlog leaves in memory is given back; nothing is forgotten by it."""

from __future__ import annotations

import time

import pytest

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
