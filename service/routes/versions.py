"""GET /v1/versions, /v1/versions/{v}; POST …/pin, …/unpin, …/rollback: control records for the trainer."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from features.errors import InvalidRequest
from features.records import NewRecord
from service import openapi, requests
from service.answers import ControlAnswer, VersionAnswer, VersionInfo, VersionList
from service.core import Service
from service.http import json_answer, request_id
from service.routes import examples
from service.snapshot import stack
from service.weight_store import HEADS, Version

STEP = 0.03
PAGE = 100
Kind = Literal["pin", "unpin", "rollback"]


def _is_whole(text: str, most: int) -> bool:
    """Whether a text is an integer of 1 … most in decimal digits."""
    return text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= most


def _version_number(text: str) -> int:
    """A version number of a path; InvalidRequest unless it is a positive integer."""
    if not _is_whole(text, (1 << 62) - 1):
        raise InvalidRequest("not a version number", field="v", value=text, hint="a positive integer")
    return int(text)


def _whole(request: Request, name: str, default: int | None, most: int) -> int | None:
    """A query parameter 1 … most."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _is_whole(text, most):
        raise InvalidRequest(f"{name} is an integer from 1 to {most}", field=name, value=text)
    return int(text)


def _info(version: Version) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(msgspec.convert(version.info(), VersionInfo))
    return shown


def _moved(service: Service, version: Version, against: int | None) -> dict[str, float]:
    """By head, how far a version's weights are from those of another, or from the prior of the base served ({} for a
    version of another base). Raises UnknownVersion, InvalidRequest."""
    if against is not None:
        return version.moved_from(service.store.get(against))
    running = service.running
    if version.base != running.engine.artifact.sha256:
        return {}
    distances = np.linalg.norm(stack(version.vectors()) - running.engine.prior, axis=1)
    return dict(zip(HEADS, distances.tolist(), strict=True))


def control(service: Service, kind: str, body: dict[str, Any]) -> int:
    """Append a control record; returns its offset."""
    text = msgspec.json.encode({"v": 1, "by": "http", **body})
    record = NewRecord(kind, service.settings.tenant, service.clock(), "control", text)
    return int(service.log.append("control", [record])[0] or 0)


def _done(service: Service, kind: Kind, v: int, before: int) -> bool:
    """Whether the trainer has acted on a control record."""
    if kind != "rollback":
        return service.store.get(v).pinned == (kind == "pin")
    return any(version.kind == "rollback" for version in service.store.versions_after(before))


async def _act(service: Service, request: Request, kind: Kind, number: str) -> Response:
    v = _version_number(number)
    body = await request.body()
    ask: requests.RollbackRequest | requests.PinRequest
    if kind == "rollback":
        ask = requests.decode(body, requests.RollbackRequest, empty=b"{}")
    else:
        ask = requests.decode(body, requests.PinRequest, empty=b"{}")
    await asyncio.to_thread(service.store.get, v)
    latest = await asyncio.to_thread(service.store.latest)
    before = latest.v if latest is not None else 0
    fields: dict[str, Any] = {"version": v}
    if isinstance(ask, requests.RollbackRequest):
        skip = None if ask.skip is None else {"from": ask.skip.from_, "to": ask.skip.to}
        fields = {"to": v, "skip": skip, "applies_to": "weights"}
    offset = await asyncio.to_thread(control, service, kind, fields)
    longest = ask.wait_ms if ask.wait_ms is not None else service.settings.wait_ms
    until = time.monotonic() + longest / 1000
    done = await asyncio.to_thread(_done, service, kind, v, before)
    while not done and time.monotonic() < until:
        await asyncio.sleep(STEP)
        done = await asyncio.to_thread(_done, service, kind, v, before)
    shown = {"request_id": request_id(request), "pending": not done, "offset": offset}
    shown["serving"] = service.running.replica.snapshot.version
    return json_answer(shown, request_id(request), 200 if done else 202)


def router(service: Service) -> APIRouter:
    """The version routes of one service."""
    routes = APIRouter(tags=["versions"])
    number = {"name": "v", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}

    @routes.get(
        "/v1/versions",
        summary="List weight versions, newest first",
        openapi_extra={
            **openapi.describe(answer=[VersionList], errors=(422, 503)),
            "parameters": [
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
                },
                {"name": "before", "in": "query", "schema": {"type": "integer", "minimum": 1}},
            ],
        },
    )
    async def list_versions(request: Request) -> Response:
        """Versions that are kept; `next` goes into `before` for older ones."""
        limit = _whole(request, "limit", PAGE, 1_000) or PAGE
        before = _whole(request, "before", None, 1 << 62)
        found = await asyncio.to_thread(service.store.versions, limit, before)
        shown = {
            "request_id": request_id(request),
            "serving": service.running.replica.snapshot.version,
            "pinned": await asyncio.to_thread(service.store.pinned),
            "versions": [_info(version) for version in found],
            "next": found[-1].v if len(found) == limit else None,
        }
        return json_answer(shown, request_id(request))

    one = openapi.describe(answer=[VersionAnswer], errors=(404, 422, 503))

    other = {"name": "against", "in": "query", "schema": {"type": "integer", "minimum": 1}}
    shown_with = {**one, "parameters": [number, other]}

    @routes.get("/v1/versions/{v}", summary="Show one version", openapi_extra=shown_with)
    async def show_version(request: Request) -> Response:
        """A version, the norms of its weights and how far they moved from the prior, or from version `against`."""
        version = await asyncio.to_thread(service.store.get, _version_number(request.path_params["v"]))
        against = _whole(request, "against", None, 1 << 62)
        moved = await asyncio.to_thread(_moved, service, version, against)
        shown = {"version": _info(version), "norms": version.norms(), "moved": moved}
        return json_answer({"request_id": request_id(request), **shown}, request_id(request))

    pending = {"description": "the trainer has not done it yet"}
    content = {"application/json": {"schema": openapi.reference(ControlAnswer)}}
    parts: dict[str, Any] = {
        "answer": [ControlAnswer],
        "example": examples.CONTROL,
        "errors": (401, 404, 422, 503),
        "also": {"202": {**pending, "content": content}},
        "key": True,
        "body_required": False,
    }
    pin_doc = {**openapi.describe(body=requests.PinRequest, body_example={}, **parts), "parameters": [number]}
    back_doc = openapi.describe(body=requests.RollbackRequest, body_example={}, **parts)

    @routes.post("/v1/versions/{v}/pin", summary="Serve the weights of this version", openapi_extra=pin_doc)
    async def pin(request: Request) -> Response:
        """Stop weights at this version, and keep it; counters and user state go on."""
        return await _act(service, request, "pin", request.path_params["v"])

    @routes.post("/v1/versions/{v}/unpin", summary="End a pin", openapi_extra=pin_doc)
    async def unpin(request: Request) -> Response:
        """Serve the newest weights again."""
        return await _act(service, request, "unpin", request.path_params["v"])

    @routes.post(
        "/v1/versions/{v}/rollback",
        summary="Go back to the weights of this version",
        openapi_extra={**back_doc, "parameters": [number]},
    )
    async def rollback(request: Request) -> Response:
        """Restore its weights and skip what was learned since (or the range `skip`), for good."""
        return await _act(service, request, "rollback", request.path_params["v"])

    return routes
