"""A ranker whose trainer is silent or whose state.db cannot be read answers on, and says why it is stale."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import pytest

from service.replica import TRAINER_SILENT_MS
from service.testkit import ReplService
from service.user_state_consumer import UserStateConsumer
from service.weight_store import Heartbeat

NAMES = [f"i{k}" for k in range(20)]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def reason(shop: ReplService) -> str | None:
    found: str | None = shop.call("GET", "/v1/status")[1]["stale_reason"]
    return found


def beat(shop: ReplService) -> None:
    """What a trainer writes once a second."""
    now = shop.clock.now
    shop.service.store.beat(Heartbeat(now, now - 5_000, now))
    replica = shop.service.running.replica
    until(lambda: replica.through()[1] in (None, now) and not replica.trainer_silent)


def test_ten_seconds_without_a_heartbeat_are_stale_until_the_next(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(*(shop.item(name, title=f"red lamp {name}") for name in NAMES))
    shop.settle()
    shop.publish(click={"rt.own.click": 8.0})
    shop.clock.advance(60_000)
    assert shop.rank(NAMES)["stale"] is False  # no trainer has ever run here
    beat(shop)
    before = shop.rank(NAMES, user="anna")
    assert before["stale"] is False
    shop.clock.advance(TRAINER_SILENT_MS)
    assert TRAINER_SILENT_MS == 10_000
    assert shop.rank(NAMES, user="anna")["stale"] is False
    shop.clock.advance(1)
    after = shop.rank(NAMES, user="anna")
    assert (after["stale"], reason(shop)) == (True, "trainer")
    assert (after["scores"], after["version"]) == (before["scores"], before["version"])
    assert after["ages_ms"]["weights"] == TRAINER_SILENT_MS + 1
    assert 'repl_stale_answers_total{reason="trainer"} 1.0' in shop.call("GET", "/metrics")[1]
    token = shop.events(shop.click("anna", "i13"))["token"]
    assert shop.rank(NAMES, user="anna", after=token)["ids"][0] == "i13"  # her own click counts all the same
    beat(shop)
    assert (shop.rank(NAMES)["stale"], reason(shop)) == (False, None)


def spoil(shop: ReplService) -> None:
    """What is in state.db's table is gone for readers and writers alike, as after a damage of the file."""
    with sqlite3.connect(shop.settings.data_dir / "state.db", timeout=10) as db:
        db.execute("ALTER TABLE user RENAME TO gone")
    db.close()


def mend(shop: ReplService) -> None:
    with sqlite3.connect(shop.settings.data_dir / "state.db", timeout=10) as db:
        db.execute("ALTER TABLE gone RENAME TO user")
    db.close()


def test_users_are_ranked_without_history_while_state_db_cannot_be_read(repl_service_factory) -> None:
    shop = repl_service_factory()
    shop.events(*(shop.item(name, title=f"red lamp {name}") for name in NAMES))
    shop.events(shop.click("anna", "i7"), shop.click("bert", "i3"))
    shop.publish(click={"rt.own.click": 8.0})
    shop.restart()  # nobody is in memory
    shop.settle()
    known = shop.rank(NAMES, user="anna")  # and now she is
    nobody = shop.rank(NAMES, user="carl")
    assert (known["ids"][0], known["stale"], nobody["ids"][0]) == ("i7", False, NAMES[0])
    spoil(shop)
    bert = shop.rank(NAMES, user="bert")
    assert (bert["stale"], reason(shop)) == (True, "state")
    assert bert["ids"][0] == NAMES[0], "his click is not at hand"
    assert len(shop.rank([*NAMES, *(f"x{k}" for k in range(1_200))], user="dora")["ids"]) == 1_220
    assert shop.retrieve(user="emil")["ids"]
    again = shop.rank(NAMES, user="anna")
    assert again["scores"] == known["scores"], "who is in memory is ranked as before"
    assert 'repl_neighbour_failures_total{part="state"}' in shop.call("GET", "/metrics")[1]
    mend(shop)
    shop.clock.advance(5_000)
    assert (shop.rank(NAMES, user="bert")["ids"][0], reason(shop)) == ("i3", None)


def test_a_state_db_that_cannot_be_written_is_said_and_nothing_is_lost(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(*(shop.item(name, title=f"red lamp {name}") for name in NAMES))
    shop.settle()
    shop.publish(click={"rt.own.click": 8.0})
    shop.rank(NAMES, user="anna")  # she is in memory
    spoil(shop)
    token = shop.events(shop.click("anna", "i7"))["token"]
    shop.clock.advance(1_000)  # states are written twice a second
    until(lambda: shop.service.running.consumer.failing is not None)
    answer = shop.rank(NAMES, user="anna", after=token)
    assert (answer["ids"][0], answer["stale"], reason(shop)) == ("i7", True, "state")
    mend(shop)
    until(lambda: reason(shop) is None)
    shop.restart()
    assert shop.rank(NAMES, user="anna")["scores"] == answer["scores"]


def test_the_first_answer_knows_how_old_user_state_is(
    repl_service: ReplService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late the thread that reads the log gets its turn after a restart."""
    shop = repl_service
    shop.events(shop.item("A", title="red lamp"), shop.click("anna", "A"))
    shop.settle()
    before = shop.rank(["A"], user="anna")
    monkeypatch.setattr(UserStateConsumer, "_run", lambda self: None)
    shop.restart()
    after = shop.rank(["A"], user="anna")
    assert (after["ages_ms"], after["scores"]) == (before["ages_ms"], before["scores"])
    assert after["ages_ms"]["user"] == 0
