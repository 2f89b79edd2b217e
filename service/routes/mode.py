"""GET and POST /v1/mode: whether answers are ranked or keep the order sent, by surface."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service import openapi, requests
from service.answers import ModeAnswer
from service.core import Service
from service.http import json_answer, request_id
from service.passthrough import modes, surfaces_of, switch


def router(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter(tags=["operations"])
    example = {"request_id": "3f9a0c5d1e2b4a6878c0d1e2", "modes": {"recommendation": "rank", "search": "passthrough"}}
    shown: dict[str, Any] = {"answer": [ModeAnswer], "example": example}
    seen = openapi.describe(**shown, errors=(503,))
    switching = openapi.describe(
        **shown,
        body=requests.ModeRequest,
        body_example={"mode": "passthrough", "surface": 1},
        errors=(401, 422, 503),
        key=True,
    )

    @routes.post("/v1/mode", summary="Rank, or keep the order sent", openapi_extra=switching)
    async def change(request: Request) -> Response:
        """Switch one surface, or all; needs neither trainer nor log."""
        ask = requests.decode(await request.body(), requests.ModeRequest)
        found = await asyncio.to_thread(switch, service.store, ask.mode, ask.surface)
        if not service.ready_reasons():
            service.running.replica.wake()
        rid = request_id(request)
        return json_answer({"request_id": rid, "modes": found}, rid)

    @routes.get("/v1/mode", summary="Show the mode of each surface", openapi_extra=seen)
    async def show(request: Request) -> Response:
        """What the weight store says; every ranker follows it within a second."""
        found = await asyncio.to_thread(service.store.flags)
        rid = request_id(request)
        return json_answer({"request_id": rid, "modes": modes(surfaces_of(found))}, rid)

    return routes
