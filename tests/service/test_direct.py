"""The hot routes past the framework: the same answers, errors, headers and metrics as through it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.core import Service
from service.direct import Direct
from service.settings import Settings


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Service(Settings(data_dir=tmp_path_factory.mktemp("direct"), control_share=0))
    made.start()
    made.wait(60)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def apps(service: Service) -> tuple[FastAPI, FastAPI]:
    """One that goes past the framework, one that does not."""
    through = create_app(service)
    through.user_middleware = [one for one in through.user_middleware if one.cls is not Direct]
    return create_app(service), through


def call(app: FastAPI, method: str, path: str, body: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, content=body)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/retrieve"])
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
@pytest.mark.parametrize("body", ['{"items": ["a", "b"]}', "{}", '{"top_k": 3}', '{"items": []}', "[", ""])
def test_both_ways_answer_alike(apps: tuple[FastAPI, FastAPI], path: str, method: str, body: str) -> None:
    one, other = (call(app, method, path, body) for app in apps)
    assert one.status_code == other.status_code
    assert set(one.headers) == set(other.headers)
    assert one.headers["x-request-id"] == one.json()["request_id"]
    changing = {"request_id", "ages_ms", "version", "stale"}
    assert {k: v for k, v in one.json().items() if k not in changing} == {
        k: v for k, v in other.json().items() if k not in changing
    }


def test_calls_are_counted_by_route(apps: tuple[FastAPI, FastAPI], service: Service) -> None:
    assert call(apps[0], "POST", "/v1/rank", '{"items": ["a"]}').status_code == 200
    assert 'repl_http_answers_total{route="/v1/rank",status="200"}' in service.metrics.page().decode()


def test_what_nobody_foresaw_is_a_500_in_our_shape(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(service.running.ranker, "rank", broken)
    answer = call(create_app(service), "POST", "/v1/rank", '{"items": ["a"]}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert "unforeseen error" in caplog.text
