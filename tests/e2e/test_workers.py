"""Several workers on one port, as processes: one service to those outside, whatever happens to one of them."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.worker_shop import ITEMS, WorkerShop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerShop]:
    place = tmp_path_factory.mktemp("workers") / "data"
    place.mkdir()
    made = WorkerShop(place, 2)
    try:
        made.open(2)
        yield made
    finally:
        made.end()
    workers = [line for line in made.output.read_text().splitlines() if "Traceback" in line]
    assert not workers, made.output.read_text()


@pytest.mark.timeout(240)
def test_every_worker_knows_items_clicks_counters_and_versions(shop: WorkerShop) -> None:
    pids = shop.workers
    assert len(pids) == 2
    token = shop.send({"event": "interaction", "type": "click", "user": "anna", "item": "i7"})
    for _ in range(12):
        assert shop.values("anna", "i7", after=token)["rt.own.click"] > 0, "a token holds on both"
    shop.always(lambda: shop.values("bert", "i7")["rt.item.click.1h"] > 0, 20, "both count it")
    shop.send({"event": "item", "item": "i7", "op": "patch", "fields": {"price": 77, "title": "blue table"}})

    def changed() -> bool:
        found = shop.call("GET", "/v1/items?ids=i7")[1]["items"][0]["fields"]
        return bool(found["price"] == 77 and found["title"] == "blue table")

    shop.always(changed, 10, "both know the new price")
    lowest = {"items": ITEMS, "user": "x", "filter": [{"field": "price", "op": "gt", "value": 50}]}
    shop.always(lambda: shop.call("POST", "/v1/rank", lowest)[1]["ids"] == ["i7"], 10, "and filter by it")
    shop.send({"event": "item", "item": "brand new", "fields": {"title": "green chair", "price": 99}})
    asked = {"user": "x", "query": "green chair", "top_k": 1}
    shop.always(lambda: shop.call("POST", "/v1/retrieve", asked)[1]["ids"] == ["brand new"], 10, "both find it")


def counted(shop: WorkerShop, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", shop.text("/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_any_worker_gives_the_sum_of_all(shop: WorkerShop) -> None:
    name = 'repl_http_answers_total{route="/v1/rank",status="200"}'
    before = counted(shop, name)
    for _ in range(40):
        shop.rank("carl")
    pages = {counted(shop, name) - before for _ in range(8)}
    assert pages == {40.0}
    page = shop.text("/metrics")
    assert 'pid="' not in page
    assert len(re.findall(r"^repl_version ", page, re.MULTILINE)) == 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("which", [1, 0])
def test_a_killed_worker_is_started_again_while_the_other_answers(shop: WorkerShop, which: int) -> None:
    """0 writes the tables. New connections find a worker that answers; nothing that was counted is lost."""
    name = 'repl_http_answers_total{route="/v1/rank",status="200"}'
    before, pids, starts = counted(shop, name), shop.workers, shop.answering()
    os.kill(pids[which], signal.SIGKILL)
    asked, lost = 0, 0
    began = time.monotonic()
    while shop.answering() == starts:
        status, answer = shop.call("POST", "/v1/rank", {"items": ITEMS, "user": "dora"})
        assert status in (0, 200), answer
        lost += status == 0  # the kernel had given the connection to the one that was killed
        asked += status == 200
        assert time.monotonic() - began < 60
    assert lost <= 1
    assert asked > 20
    shop.until(lambda: shop.output.read_text().count("a worker ended by itself") >= 2 - which, 20, "it is logged")
    token = shop.send({"event": "interaction", "type": "click", "user": f"eve{which}", "item": "i9"})
    for _ in range(12):
        assert shop.values(f"eve{which}", "i9", after=token)["rt.own.click"] > 0
    fields = {"title": f"lamp number{which}", "price": 200 + which}
    shop.send({"event": "item", "item": f"late{which}", "fields": fields})
    asked_for = {"user": "x", "query": f"lamp number{which}", "top_k": 1}
    shop.always(
        lambda: shop.call("POST", "/v1/retrieve", asked_for)[1]["ids"] == [f"late{which}"], 30, "both follow again"
    )
    version = shop.rank("x")["version"]
    shop.send({"event": "interaction", "type": "click", "user": "finn", "item": "i3"})
    shop.always(lambda: shop.rank("x")["version"] > version and not shop.rank("x")["stale"], 30, "versions go on")
    assert counted(shop, name) >= before + asked, "what it had counted is still counted"


def test_a_term_signal_ends_all_of_them_and_leaves_what_was_read(shop: WorkerShop) -> None:
    pids = shop.workers
    shop.ranker.terminate()
    assert shop.ranker.wait(40) == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert shop.call("GET", "/health/live")[0] == 0


def sockets(pid: int) -> int:
    """How many a process has open."""
    found = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += one.readlink().name.startswith("socket:")
    return found


def hammer(connection: http.client.HTTPConnection, until: float, counts: Counter[int]) -> None:
    """Ask as fast as answers come."""
    while time.monotonic() < until:
        connection.request("POST", "/v1/rank", b'{"items": ["i1"]}')
        answer = connection.getresponse()
        answer.read()
        counts[answer.status] += 1


@pytest.mark.timeout(240)
def test_a_rate_is_that_of_all_workers_together(tmp_path: Path) -> None:
    """Connections that are kept, on both workers, each of which would let the whole rate through by itself."""
    rate, burst, seconds = 40, 1.0, 5.0
    (tmp_path / "data").mkdir()
    shop = WorkerShop(tmp_path / "data", 2, REPL_REQUESTS_PER_SECOND=str(rate), REPL_BURST_SECONDS=str(burst))
    kept: list[http.client.HTTPConnection] = []
    try:
        shop.until(lambda: shop.answering() == 2, 90, "both workers answer")
        before = {pid: sockets(pid) for pid in shop.workers}
        for _ in range(40):
            kept.append(http.client.HTTPConnection("127.0.0.1", shop.port, timeout=20))
            kept[-1].request("GET", "/health/live")
            kept[-1].getresponse().read()
            if len(kept) >= 6 and all(sockets(pid) > before[pid] for pid in shop.workers):
                break
        assert all(sockets(pid) > before[pid] for pid in shop.workers), "both have connections"
        began, counts = time.monotonic(), [Counter[int]() for _ in kept]
        with ThreadPoolExecutor(len(kept)) as pool:
            list(pool.map(hammer, kept, [began + seconds] * len(kept), counts))
        took = time.monotonic() - began
    finally:
        for connection in kept:
            connection.close()
        shop.end()
    total = sum(counts, Counter())
    assert total.keys() == {200, 429}, total
    assert total[200] <= (rate * (took + burst)) * 1.02 + 2, (total, took)
    assert total[200] >= rate * (seconds + burst) * 0.9, (total, took)
