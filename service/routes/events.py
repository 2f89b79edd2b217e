"""POST /v1/events: one event, an array, or JSON lines, into the log."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from service import openapi
from service.answers import EventsAnswer
from service.core import Service
from service.http import answer, request_id
from service.routes import examples

_THREADS = 4
"""Calls that wait for the log at once: the log writes what waits together in one transaction."""


def router(service: Service) -> APIRouter:
    """The route of one service."""
    routes = APIRouter(tags=["events"])
    writers = ThreadPoolExecutor(_THREADS, "events")
    event: dict[str, Any] = {"type": "object", "description": "an event as docs/formats.md §1 has it"}
    content = {
        "application/json": {
            "schema": {"anyOf": [event, {"type": "array", "items": event}]},
            "example": examples.EVENTS,
        },
        "application/x-ndjson": {"schema": {"type": "string", "description": "one event a line"}},
    }
    nothing = {"description": "nothing was taken (or, with atomic, one was bad); the same body"}
    described: dict[str, Any] = openapi.describe(
        body=content,
        answer=[EventsAnswer],
        example=examples.EVENTS_TAKEN,
        errors=(401, 413, 503),
        also={
            "422": {
                **nothing,
                "content": {"application/json": {"schema": openapi.reference(EventsAnswer)}},
            }
        },
    )

    @routes.post("/v1/events", summary="Tell what happened", openapi_extra=described)
    async def events(request: Request, atomic: bool = False) -> Response:
        """Take events: 200 if any was taken or known, 422 if none was, or with atomic=true and one bad."""
        body = await request.body()
        loop = asyncio.get_running_loop()
        with service.metrics.events_waiting.track_inprogress():
            taken, good = await loop.run_in_executor(writers, service.intake.take, body, atomic)
        grant = request.scope.get("grant")
        count = taken.accepted + taken.duplicates + len(taken.rejected)
        service.limits.spent(None if grant is None else grant.key, count)
        return answer(msgspec.json.encode(taken), request_id(request), 200 if good else 422)

    return routes
