"""The test kit as a shop uses it."""

import subprocess
import sys
import time

import pytest

from service.testkit import CallFailed, ManualClock, ReplService


def test_it_ranks_and_what_a_user_does_changes_her_next_request(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(shop.item("A", title="red lamp", price=3.5), shop.item("B", title="blue mug"))
    shop.publish(click={"rt.own.click": 8.0})
    token = shop.events(shop.click("anna", "B"))["token"]
    answer = shop.rank(["A", "B"], user="anna", after=token)
    assert answer["ids"] == ["B", "A"]
    assert answer["version"] == 1
    assert answer["ages_ms"] == {"user": 0, "counters": 0, "weights": 0}
    shop.clock.advance(1_000)
    assert shop.rank(["A"], user="anna")["ages_ms"]["weights"] == 1_000


def test_errors_are_raised_with_status_and_answer(repl_service: ReplService) -> None:
    with pytest.raises(CallFailed) as failed:
        repl_service.rank([])
    assert failed.value.status == 422
    assert failed.value.answer["error"]["field"] == "items"


def test_a_restart_keeps_everything(repl_service: ReplService) -> None:
    shop = repl_service
    shop.events(shop.item("A", title="red lamp"), shop.item("B", title="blue mug"), shop.click("anna", "A"))
    shop.settle()
    before = shop.rank(["A", "B", "C"], user="anna")
    shop.restart()
    after = shop.rank(["A", "B", "C"], user="anna")
    assert {**after, "request_id": ""} == {**before, "request_id": ""}


def test_it_is_ready_within_a_second(repl_service_factory) -> None:
    repl_service_factory()  # what a process pays once: imports, compiled kernels
    began = time.process_time()
    repl_service_factory()
    assert time.process_time() - began < 1.0


def test_the_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="go back"):
        ManualClock().advance(-1)


def test_the_plugin_costs_nothing_until_used_and_never_loads_torch() -> None:
    heavy = ("torch", "numba", "fastapi", "onnxruntime")
    code = f"import service.testkit, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
