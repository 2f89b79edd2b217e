"""OpenAPI pieces of the routes from the msgspec structs they decode and answer. It routes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI

from service import answers, requests

_TEMPLATE = "#/components/schemas/{name}"
_STRUCTS: tuple[type[msgspec.Struct], ...] = (
    requests.RankRequest,
    requests.RetrieveRequest,
    requests.EmbeddingsRequest,
    requests.RollbackRequest,
    requests.PinRequest,
    requests.StageRequest,
    requests.PromoteRequest,
    requests.RevertRequest,
    requests.ModeRequest,
    answers.ErrorAnswer,
    answers.RankAnswer,
    answers.RankRows,
    answers.EventsAnswer,
    answers.EmbeddingsAnswer,
    answers.ItemsAnswer,
    answers.VersionList,
    answers.VersionAnswer,
    answers.ControlAnswer,
    answers.BasesAnswer,
    answers.BaseControlAnswer,
    answers.ModeAnswer,
    answers.HealthAnswer,
    answers.StatusAnswer,
)
_ERRORS = {
    401: "the key is missing or wrong",
    403: "Host or Origin is not trusted by a loopback service; the key has not the scope, or is of another tenant",
    404: "no such version",
    409: "refused as things stand: the message says why",
    413: "too many bytes, candidates or events",
    422: "the request is wrong: field, value and what to do",
    429: "more requests or events a second than a setting allows: Retry-After says when",
    503: "not ready, or log or store does not answer",
}


def reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    """A $ref to a struct's schema."""
    return {"$ref": _TEMPLATE.format(name=kind.__name__)}


def _content(kinds: Sequence[type[msgspec.Struct]], example: Any) -> dict[str, Any]:
    schema: dict[str, Any] = (
        reference(kinds[0]) if len(kinds) == 1 else {"anyOf": [reference(k) for k in kinds]}
    )
    return {"application/json": {"schema": schema, "example": example}}


def describe(
    *,
    body: type[msgspec.Struct] | dict[str, Any] | None = None,
    body_example: Any = None,
    body_required: bool = True,
    answer: Sequence[type[msgspec.Struct]] = (),
    example: Any = None,
    errors: Sequence[int] = (),
    also: dict[str, Any] | None = None,
    key: bool = False,
) -> dict[str, Any]:
    """The `openapi_extra` of a route: request body, answer and errors with examples. `also`: more answers."""
    found: dict[str, Any] = {"responses": {}}
    if body is not None:
        content = body if isinstance(body, dict) else _content([body], body_example)
        found["requestBody"] = {"required": body_required, "content": content}
    if answer:
        found["responses"]["200"] = {"description": "the answer", "content": _content(answer, example)}
    found["responses"] |= also or {}
    for status in sorted({*errors, 401, 403, 429}):
        found["responses"][str(status)] = {
            "description": _ERRORS[status],
            "content": {"application/json": {"schema": reference(answers.ErrorAnswer)}},
        }
    if key:
        found["security"] = [{"key": []}]
    return found


def install(app: FastAPI) -> None:
    """Put the structs' schemas and the key's scheme into the app's document."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_TEMPLATE)
            parts = document.setdefault("components", {})
            parts["schemas"] = {**components, **parts.get("schemas", {})}
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("200", None) if _is_bare(operation) else None
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _is_bare(operation: dict[str, Any]) -> bool:
    """Whether the framework added an answer 200 that the route does not give."""
    found = operation["responses"].get("200", {})
    return found.get("description") == "Successful Response" and len(operation["responses"]) > 1
