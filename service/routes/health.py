"""GET /health/live, /health/ready, /metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from service import openapi
from service.answers import HealthAnswer
from service.core import Service
from service.gauges import update_gauges
from service.http import json_answer, request_id
from service.metrics import CONTENT_TYPE


def router(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter(tags=["operations"])
    live_doc = openapi.describe(answer=[HealthAnswer], example={"status": "ok"})
    missing = {
        "503": {
            "description": "not yet",
            "content": {"application/json": {"schema": openapi.reference(HealthAnswer)}},
        }
    }
    ready_doc = openapi.describe(answer=[HealthAnswer], example={"status": "ok"}, also=missing)

    @routes.get("/health/live", summary="The process answers", openapi_extra=live_doc)
    async def live(request: Request) -> Response:
        """200 as soon as the port is open."""
        return json_answer({"status": "ok"}, request_id(request))

    @routes.get("/health/ready", summary="Requests can be answered", openapi_extra=ready_doc)
    async def ready(request: Request) -> Response:
        """200 after weights and warm-up; 503 with the reasons before, and from SIGTERM on."""
        reasons = service.drain.reasons() + service.ready_reasons()
        if reasons:
            return json_answer({"status": "not_ready", "reasons": reasons}, request_id(request), 503)
        return json_answer({"status": "ok"}, request_id(request))

    text = {
        "200": {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @routes.get("/metrics", summary="Metrics for Prometheus", openapi_extra=openapi.describe(also=text))
    async def metrics(request: Request) -> Response:
        """Counters, gauges and histograms of this process."""

        def page() -> bytes:
            update_gauges(service)
            return service.metrics.page()

        return Response(await asyncio.to_thread(page), 200, media_type=CONTENT_TYPE)

    return routes
