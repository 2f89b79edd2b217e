"""GET /, /docs and their files, and GET /v1/status. The files themselves lie in service/page/."""

from __future__ import annotations

import asyncio
import mimetypes
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service import openapi
from service.answers import StatusAnswer
from service.core import Service
from service.http import json_answer, request_id
from service.numbers import numbers

FILES = Path(__file__).parent.parent / "page"
_SAFE = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
_HEADERS = {
    "Content-Security-Policy": f"{_SAFE}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {".html", ".js", ".css", ".svg", ".png", ".ico"}


def _file(name: str) -> Response:
    path = FILES / name
    if path.suffix not in _TYPES or path not in set(FILES.iterdir()):
        raise HTTPException(404, "there is no such file")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), 200, _HEADERS, "text/javascript" if path.suffix == ".js" else kind)


def router(service: Service) -> APIRouter:
    """The routes of one service; the page only where the settings have it."""
    routes = APIRouter(tags=["page"])
    described = openapi.describe(answer=[StatusAnswer], errors=(503,))

    @routes.get("/v1/status", summary="Numbers of this service", openapi_extra=described)
    async def status(request: Request) -> Response:
        """Version, ages, events a second, learning curve."""
        found = await asyncio.to_thread(numbers, service)
        return json_answer({"request_id": request_id(request), **found}, request_id(request))

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _file("docs.html")

    @routes.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        return _file(name)

    if service.settings.page:

        @routes.get("/", include_in_schema=False)
        async def index() -> Response:
            return _file("index.html")

        @routes.get("/page/{name}", include_in_schema=False)
        async def file(name: str) -> Response:
            return _file(name)

    return routes
