"""User states kept beside the ranker: shares of the partitions, how far behind they are, a Redis that stands still."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from features.errors import SettingsError
from features.event_log import make_kafka_topics, open_log
from features.event_parser import parse_event
from features.feature_store import open_feature_store
from features.keys import actor_key, item_key
from features.records import event_record
from features.user_state import UserState
from service import states_share
from service.core import Service
from service.doctor_redis import check_user_states
from service.metrics import Metrics
from service.settings import Settings
from service.states import run
from service.states_beside import BEHIND_MS, ENDS, SPACING_MS, BesideUserStates, StatesWatch
from service.states_share import LeasedShare, members
from service.status import STATE_FAILED_MS
from service.tenant_settings import settings_by_tenant
from service.testkit import BASE, ManualClock, ReplService
from tests.conftest import fresh_tenant
from tests.redis_server import RedisServer
from tests.service.test_states import stocked, until

NAMES = [f"event/{k}" for k in range(5)]


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path, "tenant": fresh_tenant(), "user_states_url": redis_url})


# shares


@contextmanager
def member(settings: Settings, at_work: Callable[[], bool] = lambda: True) -> Iterator[LeasedShare]:
    """A member that is renewed by the test, not by its thread."""
    made = LeasedShare(settings, at_work)
    made.know(NAMES)
    try:
        yield made
    finally:
        made.stop()


def settle(*every: LeasedShare) -> list[int]:
    """Everybody renews, leaves at once what is not its own any more, and renews again; how many each has."""
    for _ in range(3):
        for one in every:
            one.renew()
            one.reads(one.mine)
    owned = [name for one in every for name in one.mine]
    assert len(owned) == len(set(owned)), "nobody shares a partition"
    return [len(one.mine) for one in every]


def test_everybody_gets_an_equal_share_whoever_comes_and_goes(settings: Settings) -> None:
    with member(settings) as one:
        assert settle(one) == [5]
        with member(settings) as two:
            before = one.mine
            one.reads(before)
            two.renew()
            assert two.mine == frozenset(), "nothing is taken from who has not left it"
            one.renew()
            assert one.mine < before
            two.renew()
            assert two.mine == frozenset(), "still not left"
            one.reads(one.mine)
            assert settle(one, two) == [3, 2]
            with member(settings) as three:
                assert settle(one, two, three) == [2, 2, 1]
                assert len(members(settings)) == 3
            assert sum(settle(one, two)) == 5, "who ends leaves at once"
        assert settle(one) == [5]
        one.know(NAMES[:2])
        assert settle(one) == [2]
    assert members(settings) == []


def test_more_members_than_partitions(settings: Settings) -> None:
    with member(settings) as one, member(settings) as two:
        for each in (one, two):
            each.know(NAMES[:1])
        assert sorted(settle(one, two)) == [0, 1]


def test_what_was_given_and_never_read_is_left_too(settings: Settings) -> None:
    """Two that start together: the first one is given all of it before the second one is there."""
    with member(settings) as one, member(settings) as two:
        one.renew()
        for _ in range(2):
            for each in (one, two):
                each.renew()
        assert sorted([len(one.mine), len(two.mine)]) == [2, 3]
        assert not one.mine & two.mine


def test_who_does_not_renew_is_followed_and_takes_nothing_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_share, "LEASE_MS", 1_000)
    with member(settings) as one, member(settings) as two:
        one.renew()
        time.sleep(1.1)
        two.renew()
        assert (one.mine, two.mine) == (frozenset(NAMES), frozenset(NAMES)), "it does not know yet"
        one.renew()
        assert len(one.mine) == 0, "it has lost them all"
        one.reads([])
        two.reads(two.mine)
        two.renew()
        assert 0 < len(two.mine) < len(NAMES), "and the other one leaves its share in turn"


def test_one_that_does_not_work_lets_its_lease_run_out(settings: Settings) -> None:
    works = threading.Event()
    with member(settings, works.is_set) as one:
        one.start()
        time.sleep(0.3)
        assert members(settings) == []
        works.set()
        until(lambda: len(members(settings)) == 1)


# how far behind


class Written:
    """A store that the test writes as another process would, and a watch on it."""

    def __init__(self, settings: Settings) -> None:
        self.clock = ManualClock()
        self.store = open_feature_store(settings)
        self.users = BesideUserStates(open_feature_store(settings), 100)
        self.metrics = Metrics()
        self.watch = StatesWatch(self.users, lambda: "log:1", self.metrics, self.clock)

    def write(self, through: int, *states: UserState) -> None:
        self.store.commit(states, [], {"log:1": 0, "event/0": through})

    def close(self) -> None:
        self.store.close()
        self.users.store.close()


@pytest.fixture
def written(settings: Settings) -> Iterator[Written]:
    with closing(Written(settings)) as made:
        yield made


def test_the_age_is_that_of_the_oldest_event_that_is_not_written(written: Written) -> None:
    watch, clock, began = written.watch, written.clock, written.clock.now
    written.write(10)
    watch.look()
    watch.seen(clock.now, {"event/0": 10})
    assert (watch.through, watch.failing) == (began, False)
    for k in range(1, 4):
        watch.seen(clock.advance(SPACING_MS), {"event/0": 10 + k})
    watch.look()
    assert watch.through == began
    written.write(12)
    watch.look()
    assert watch.through == began + 2 * SPACING_MS
    clock.advance(BEHIND_MS + 1)
    watch.look()
    assert watch.failing, "the third is older than BEHIND_MS"
    written.write(13)
    watch.look()
    watch.seen(clock.now, {"event/0": 13})
    assert (watch.through, watch.failing) == (clock.now, False)


def test_what_is_remembered_of_a_long_wait_is_bounded(written: Written) -> None:
    watch, clock = written.watch, written.clock
    for k in range(4 * ENDS):
        watch.seen(clock.advance(SPACING_MS), {"event/0": k + 1})
    assert len(watch._ends) <= ENDS
    assert (watch.through, watch.failing) == (0, True), "none of it was ever read"
    written.write(2 * ENDS)
    watch.look()
    assert abs(watch.through - (clock.now - 2 * ENDS * SPACING_MS)) < 20 * SPACING_MS


def test_a_state_holds_what_lies_before_the_token_or_says_not(written: Written) -> None:
    state = UserState(7)
    state.append(5, 1, 10, 0)
    written.write(1, state)
    watch = written.watch
    watch.look()

    def ask(wanted: int, seconds: float) -> tuple[int, bool, bool]:
        known, reached = asyncio.run(watch.state(7, {"event/0": wanted}, seconds))
        return (-1 if known.state is None else len(known.state)), known.failed, reached

    assert ask(1, 0) == (1, False, True)
    state.append(6, 1, 11, 1)
    written.write(2, state)
    assert ask(2, 0) == (2, False, True), "told by the same round trip"
    assert ask(3, 0.05) == (2, False, False)
    watch.start()
    try:
        state.append(7, 1, 12, 2)
        threading.Timer(0.1, written.write, (3, state)).start()
        began = time.monotonic()
        assert ask(3, 5) == (3, False, True)
        assert time.monotonic() - began < 2
    finally:
        watch.stop()


def test_a_state_read_before_its_token_was_reached_is_read_again(written: Written) -> None:
    """Others write, and the watch sees it, while the answer of the first read is on its way."""
    state, watch, ask = UserState(7), written.watch, written.users.read
    state.append(5, 1, 10, 0)
    written.write(1, state)
    watch.look()

    def late(key: int, names: Any) -> Any:
        found = ask(key, names)
        if len(state) == 1:
            state.append(6, 1, 11, 1)
            written.write(2, state)
            watch.look()
        return found

    written.users.read = late  # type: ignore[method-assign]
    known, reached = asyncio.run(watch.state(7, {"event/0": 2}, 1))
    assert known.state is not None
    assert (len(known.state), reached) == (2, True)


def test_offsets_of_another_log_are_another_matter(written: Written) -> None:
    """A topic was made again: what was reached in the former one says nothing of this one."""
    watch = written.watch
    written.store.commit([], [], {"log:1": 0, "event/0": 1_000})
    watch.look()
    watch.seen(written.clock.now, {"event/0": 1_000})
    assert watch.through
    written.store.commit([], [], {"log:2": 1, "1:event/0": 3})
    watch._log_key = lambda: "log:2"
    watch.look()
    assert watch.progress.reached({"event/0": 3})
    assert not watch.progress.reached({"event/0": 4})
    assert not watch.through


def test_a_token_that_was_reached_is_not_any_more_once_redis_has_lost_it(
    written: Written, settings: Settings, redis_url: str
) -> None:
    written.write(5)
    written.watch.look()
    assert written.watch.progress.reached({"event/0": 5})
    with closing(redis.Redis.from_url(redis_url)) as client:
        for key in client.scan_iter(f"repl:{{{settings.tenant}}}:*"):
            client.delete(key)
    written.watch.look()
    written.watch.look()
    assert not written.watch.progress.reached({"event/0": 5})


# the ranker


@pytest.mark.parametrize("lacks", ["log_url", "user_states_url"])
def test_beside_needs_places_that_several_reach(tmp_path: Path, lacks: str) -> None:
    places = {"log_url": "kafka://127.0.0.1:1/x", "user_states_url": "redis://127.0.0.1:1"}
    given = {name: url for name, url in places.items() if name != lacks}
    with pytest.raises(SettingsError, match="beside the ranker only") as refused:
        Service(Settings.model_validate({"data_dir": tmp_path, "user_states": "beside", **given}))
    assert refused.value.field == lacks


@contextmanager
def kept(*every: Settings) -> Iterator[None]:
    """`repl-ranker states` in a thread."""
    stop, errors = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            run(every, stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert errors == []


def test_a_redis_that_stands_still_is_waited_for_once(
    tmp_path: Path, kafka_url: str, repl_service_factory: Any
) -> None:
    server = RedisServer(tmp_path / "redis")
    shared = {
        "log_url": f"{kafka_url}/{fresh_tenant()}", "user_states_url": server.url, "redis_timeout_ms": 1_000,
        "base_dir": BASE,
    }  # fmt: skip
    beside = Settings.model_validate({"data_dir": tmp_path / "states", **shared})
    make_kafka_topics(beside, 3, 1)
    try:
        with kept(beside):
            shop: ReplService = repl_service_factory(**shared, user_states="beside")
            items = stocked(shop)
            token = shop.events(shop.click("anna", items[0]))["token"]
            assert not shop.rank(items[:5], user="anna", after=token)["stale"]
            trips = []
            watch = shop.service.running.watch
            assert watch is not None
            read = watch._users.store.read  # type: ignore[attr-defined]
            watch._users.store.read = lambda *words: trips.append(words) or read(*words)  # type: ignore[attr-defined]
            shop.rank(items[:5], user="anna", after=token)
            shop.retrieve(user="anna", top_k=3)
            shop.rank(items[:5])
            assert len(trips) == 2, "one read for each request of somebody"
            server.signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                answers = [shop.rank(items[:5], user=f"user {k}") for k in range(20)]
                assert time.monotonic() - began < 5, "20 times the time-out would be 20 s"
                assert all(answer["stale"] for answer in answers)
                assert shop.rank(items[:5], user="anna", after=token)["stale"]
            finally:
                server.signal(signal.SIGCONT)

            def well() -> bool:
                shop.clock.advance(STATE_FAILED_MS)
                time.sleep(0.3)
                return not shop.rank(items[:5], user="anna", after=token)["stale"]

            until(well, 10)
    finally:
        server.stop()


def test_one_process_keeps_the_states_of_all_tenants_each_in_its_own_places(
    tmp_path: Path, kafka_url: str, redis_url: str
) -> None:
    name = fresh_tenant()
    whole = Settings.model_validate({
        "data_dir": tmp_path, "log_url": f"{kafka_url}/{name}", "user_states_url": redis_url, "base_dir": BASE,
        "tenants": {f"{name}-lamps": {}, f"{name}-chairs": {}},
    })  # fmt: skip
    each = settings_by_tenant(whole)
    for tenant, one in each.items():
        make_kafka_topics(one, 2, 1)
        with closing(open_log(one)) as log:
            body = {"event": "interaction", "type": "click", "user": "anna", "item": tenant, "id": "1", "timestamp": 5}
            log.append("event", [event_record(parse_event(body, tenant=tenant, now_ms=9))] * 2)
    with kept(*each.values()):
        for tenant, one in each.items():
            with closing(open_feature_store(one)) as store:
                until(lambda store=store: store.get(actor_key("anna", None)) is not None, 20)  # type: ignore[misc]
                found = store.get(actor_key("anna", None))
                assert found is not None
                assert found.items.tolist() == [item_key(tenant)], "its own, once"
                assert len(members(one)) == 1


def test_the_doctor_says_whether_anybody_keeps_them(settings: Settings) -> None:
    def said(one: Settings) -> list[str]:
        return [finding.verdict for finding in check_user_states(one) if "repl-ranker states" in finding.what]

    beside = settings.model_copy(update={"user_states": "beside", "log_url": "kafka://h:1/x"})
    assert said(settings) == []
    assert said(beside) == ["FAIL"]
    with member(beside) as one:
        one.renew()
        assert said(beside) == ["PASS"]
