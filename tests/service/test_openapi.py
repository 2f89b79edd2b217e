"""The OpenAPI document: complete, with examples that are answered as it says; and a short run of generated calls."""

from __future__ import annotations

import json

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode

from service import answers
from service.testkit import ManualClock, ReplService

ROUTES = {
    "/v1/rank": "post", "/v1/retrieve": "post", "/v1/embeddings": "post", "/v1/items": "get", "/v1/events": "post",
    "/v1/versions": "get", "/v1/versions/{v}": "get", "/v1/versions/{v}/pin": "post",
    "/v1/versions/{v}/unpin": "post", "/v1/versions/{v}/rollback": "post", "/v1/bases": "get",
    "/v1/bases/stage": "post", "/v1/bases/promote": "post", "/v1/bases/revert": "post", "/v1/mode": "get",
    "/health/live": "get", "/health/ready": "get", "/metrics": "get", "/v1/status": "get",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory):
    service = ReplService(tmp_path_factory.mktemp("shop"), ManualClock(), wait_ms=20)
    service.events(*(service.item(f"i{k}", title=f"red lamp {k}", price=k + 0.5) for k in range(20)))
    service.publish()
    service.settle()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def document(shop: ReplService) -> dict:
    return shop.call("GET", "/openapi.json")[1]


def test_every_route_is_described_with_bodies_and_errors(document: dict) -> None:
    assert {path: next(iter(methods)) for path, methods in document["paths"].items()} == ROUTES
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["responses"]["200"]["content"], path
            if operation.get("requestBody"):
                content = operation["requestBody"]["content"]["application/json"]
                assert content["schema"]
                assert "example" in content, path


def test_the_examples_are_answered_as_the_document_says(shop: ReplService, document: dict) -> None:
    for path, kind in {"/v1/rank": answers.RankAnswer, "/v1/retrieve": answers.RankAnswer}.items():
        example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        status, answer = shop.call("POST", path, example)
        assert status == 200
        msgspec.convert(answer, kind, strict=False)
        shown = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        assert set(shown) == set(answer)
    rows = shop.call("POST", "/v1/rank", {"items": ["i1"], "format": "rows", "explain": True})[1]
    msgspec.convert(rows, answers.RankRows)
    msgspec.convert(shop.call("GET", "/v1/status")[1], answers.StatusAnswer)
    msgspec.convert(shop.call("GET", "/v1/versions")[1], answers.VersionList)
    msgspec.convert(shop.call("GET", "/v1/versions/1")[1], answers.VersionAnswer)
    msgspec.convert(shop.call("GET", "/v1/items?ids=i1")[1], answers.ItemsAnswer)
    msgspec.convert(shop.call("POST", "/v1/embeddings", {"items": ["i1"]})[1], answers.EmbeddingsAnswer)


def test_the_answer_has_no_more_members_than_its_schema(shop: ReplService) -> None:
    columns, rows = (shop.rank(["i1"], explain=True, format=form) for form in ("columns", "rows"))
    assert set(columns) == {field.encode_name for field in msgspec.structs.fields(answers.RankAnswer)}
    assert set(rows) == {field.encode_name for field in msgspec.structs.fields(answers.RankRows)}
    assert set(shop.call("GET", "/v1/status")[1]) == {
        f.name for f in msgspec.structs.fields(answers.StatusAnswer)
    }


WITHOUT_INPUT = ("/health/live", "/health/ready", "/metrics", "/v1/status", "/v1/mode", "/v1/bases")
CASES = [(path, method, GenerationMode.POSITIVE) for path, method in ROUTES.items()]
CASES += [
    (path, method, GenerationMode.NEGATIVE) for path, method in ROUTES.items() if path not in WITHOUT_INPUT
]
CASES += [("/v1/mode", "post", mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_generated_calls_are_answered_as_described(shop: ReplService, path: str, method: str, mode) -> None:
    operation = schemathesis.openapi.from_url(f"{shop.url}/openapi.json")[path][method.upper()]

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @seed(17)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {shop.admin_key}"}
        if path.startswith("/v1/bases") and isinstance(case.body, dict):
            wait = case.body.get("wait_ms")
            case.body |= {"wait_ms": 5} if isinstance(wait, int) and 5 < wait <= 60_000 else {}  # there is no trainer
        response = case.call()
        assert response.status_code < 500, response.text
        described = operation.definition.raw["responses"]
        assert str(response.status_code) in described, (response.status_code, response.text)
        if response.status_code >= 400 and path != "/v1/events":
            assert set(json.loads(response.text)) == {"error", "request_id"}

    check()
