"""The page of a service with API keys, in a real Chromium: it asks for one, keeps it in its tab, says what is wrong."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from service import keys
from service.testkit import ManualClock, ReplService
from tests.conftest import exchange
from tests.e2e.test_page import browser, click, order
from tests.service.test_api_keys import make, until

pytestmark = pytest.mark.browser
__all__ = ["browser"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def locked(repl_service_factory: Any, path: Path) -> ReplService:
    """Without keys yet."""
    shop: ReplService = repl_service_factory(ManualClock(time.time_ns() // 1_000_000), keys_file=path)
    shop.events(*(shop.item(f"i{k}", title=f"red lamp {k}") for k in range(8)))
    shop.settle()
    return shop


@pytest.fixture
def key(locked: ReplService, path: Path) -> str:
    """From now on the shop asks for keys."""
    made = make(path, "read", "write")
    until(lambda: locked.call("GET", "/v1/status")[0] == 401, "the key counts")
    return made


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use this key").click()


def status_with(shop: ReplService, key: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=20)
    return exchange(connection, "GET", "/v1/status", None, {"Authorization": f"Bearer {key}"})[0]


def asked(context: BrowserContext, shop: ReplService) -> Page:
    page = context.new_page()
    page.goto(shop.url)
    expect(page.locator("#problem")).to_have_text("This service asks for an API key.")
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.locator(".row").count() == 0
    return page


def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(browser: Browser, locked: ReplService, key: str) -> None:
    context = browser.new_context()
    page = asked(context, locked)
    expect(page.get_by_role("button", name="Forget the key")).to_be_hidden()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.headers.get("authorization", "")))
    page.wait_for_timeout(2_500)
    assert sent == [], "nothing is tried again before there is a key"
    enter(page, "rr_00000000_wrong")
    expect(page.locator("#problem")).to_contain_text("does not know this key")
    enter(page, "two words")
    expect(page.locator("#problem")).to_contain_text("no spaces")
    enter(page, key)
    expect(page.locator(".row").first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.get_by_label("API key")).to_be_hidden()
    assert sent[-1] == f"Bearer {key}"
    click(page, order(page)[3], "click")
    expect(page.locator("#journal li").first).to_contain_text("Looked at")
    page.reload()
    expect(page.locator(".row").first).to_be_visible()
    assert key not in page.url
    assert page.evaluate("Object.keys(localStorage)") == []
    assert context.cookies() == []
    assert key in page.evaluate("Object.values(sessionStorage)")
    asked(context, locked).close()  # another tab
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#problem")).to_have_text("This service asks for an API key.")
    assert key not in page.evaluate("Object.values(sessionStorage)")
    context.close()


def test_a_key_that_may_too_little_or_is_revoked_is_said(
    browser: Browser, locked: ReplService, path: Path, key: str
) -> None:
    context = browser.new_context()
    page = asked(context, locked)
    reads = make(path, "read")
    until(lambda: status_with(locked, reads) == 200, "the key counts")
    enter(page, reads)
    expect(page.locator("#problem")).to_contain_text("no scope 'write'", timeout=15_000)
    enter(page, key)
    expect(page.locator("#problem")).to_be_hidden()
    with keys.changing(path) as found:
        found.clear()
    expect(page.locator("#problem")).to_contain_text("does not know this key", timeout=15_000)
    expect(page.get_by_label("API key")).to_be_visible()
    context.close()
