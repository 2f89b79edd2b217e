"""GET /v1/bases; POST /v1/bases/stage, /promote, /revert: a rollout over HTTP, as `repl-ranker base …` does it.

What may be staged from here is bounded: a base that this data directory holds already, by its sha256, or one that lies
under a prefix of the setting `base_sources`; by default there is none. A refusal by the trainer is a 409.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from features.errors import ArtifactError, InvalidRequest, Refused, SchemaError
from service import base_rollout, openapi, requests
from service.answers import BaseControlAnswer, BasesAnswer
from service.core import Service
from service.http import json_answer, request_id
from service.routes.versions import STEP, control

EXAMPLE = {"request_id": "3f9a0c5d1e2b4a6878c0d1e2", "pending": False, "offset": 7, "sha256": "6f1c…"}
SHOWN = {
    "request_id": "3f9a0c5d1e2b4a6878c0d1e2",
    "version": 4711,
    "ranker": {"answers": "6f1c…", "loaded": ["6f1c…", "a07b…"], "percent": {}, "loading": None, "failed": None},
    "live": "6f1c…",
    "beside": "a07b…",
    "state": "caught up",
    "percent": 0.0,
    "hinders": None,
}


class Stages:
    """Bodies of `base-stage`; fetches one base at a time."""

    def __init__(self, service: Service) -> None:
        self._settings = service.settings
        self._one = threading.Lock()

    def body(self, source: str) -> dict[str, Any]:
        """Raises InvalidRequest for a source that is not allowed or holds no base, Refused while another is fetched."""
        try:
            found = base_rollout.installed_body(self._settings, source)
            if found is not None:
                return found
            place = base_rollout.allowed_source(source, self._settings.base_sources)
            if not self._one.acquire(blocking=False):
                raise Refused("another base is being fetched", field="source", value=source, hint="wait for it")
            try:
                return base_rollout.stage_body(self._settings, place)
            finally:
                self._one.release()
        except (ArtifactError, SchemaError) as error:
            raise InvalidRequest(error.message, field="source", value=source, hint=error.hint) from error


async def _carried_out(
    service: Service, request: Request, kind: str, body: dict[str, Any], wait_ms: int | None
) -> Response:
    """Append the record and wait for what becomes of it: 200, or 202 while the trainer has not said."""
    body = base_rollout.asked(body)
    place = await asyncio.to_thread(control, service, kind, body)
    until = time.monotonic() + (service.settings.wait_ms if wait_ms is None else wait_ms) / 1_000
    found = await asyncio.to_thread(base_rollout.became, service.store, body, place)
    while found is None and time.monotonic() < until:
        await asyncio.sleep(STEP)
        found = await asyncio.to_thread(base_rollout.became, service.store, body, place)
    if found is not None and not found["done"]:
        raise Refused(found["reason"], field=kind, value=body.get("sha256"), hint="GET /v1/bases has the figures")
    shown = {"request_id": request_id(request), "pending": found is None, "offset": place}
    return json_answer({**shown, "sha256": body.get("sha256")}, request_id(request), 202 if found is None else 200)


def _document(body: type, example: dict[str, Any], *, required: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": openapi.reference(BaseControlAnswer)}}
    return openapi.describe(
        body=body,
        body_example=example,
        body_required=required,
        answer=[BaseControlAnswer],
        example=EXAMPLE,
        errors=(401, 409, 422, 503),
        also={"202": {"description": "the trainer has not done it yet", "content": content}},
        key=True,
    )


def router(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter(tags=["bases"])
    stages = Stages(service)
    seen = openapi.describe(answer=[BasesAnswer], example=SHOWN, errors=(503,))

    @routes.get("/v1/bases", summary="Show the rollout of another base", openapi_extra=seen)
    async def show(request: Request) -> Response:
        """Which base answers, which one stands beside it, how far that one is; and what this ranker has loaded."""
        rid = request_id(request)
        ranker = service.running.bases_status()
        found = await asyncio.to_thread(base_rollout.status, service.store)
        return json_answer({"request_id": rid, "ranker": ranker, **found}, rid)

    staging = _document(requests.StageRequest, {"source": "https://models.example/bases/6f1c"}, required=True)

    @routes.post("/v1/bases/stage", summary="Load another base beside the one that answers", openapi_extra=staging)
    async def stage(request: Request) -> Response:
        """Fetch it here, then have rankers load it and the trainer learn its last layer in the background."""
        ask = requests.decode(await request.body(), requests.StageRequest)
        body = await asyncio.to_thread(stages.body, ask.source)
        return await _carried_out(service, request, "base-stage", body, ask.wait_ms)

    promoting = _document(requests.PromoteRequest, {"percent": 10.0}, required=False)

    @routes.post("/v1/bases/promote", summary="Answer by the staged base", openapi_extra=promoting)
    async def promote(request: Request) -> Response:
        """All users, or a share of them; refused (409) where it has not caught up, or its log loss is too high."""
        ask = requests.decode(await request.body(), requests.PromoteRequest, empty=b"{}")
        body = await asyncio.to_thread(base_rollout.promote_body, service.store, ask.base, ask.percent)
        return await _carried_out(service, request, "base-promote", body, ask.wait_ms)

    reverting = _document(requests.RevertRequest, {}, required=False)

    @routes.post("/v1/bases/revert", summary="Go back to the base before", openapi_extra=reverting)
    async def revert(request: Request) -> Response:
        """Its pair was kept up to date all the while."""
        ask = requests.decode(await request.body(), requests.RevertRequest, empty=b"{}")
        return await _carried_out(service, request, "base-revert", {}, ask.wait_ms)

    return routes
