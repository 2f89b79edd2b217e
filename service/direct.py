"""The hottest routes, called without the framework's dozen layers between: a tenth of a millisecond a request.

They stay routes of the application, which describes them and answers every other method of their addresses. A route
fits that takes the request alone and answers with a response; its errors are told as the application tells them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from features.errors import ReplError
from service.http import on_gone, on_repl_error

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """ASGI middleware within the gate; sets the scope's `route`, which the gate counts by, as the router does."""

    def __init__(self, app: ASGIApp, routes: Iterable[Any]) -> None:
        """routes: those to be called directly."""
        self._app = app
        hot = [route for route in routes if isinstance(route, APIRoute)]
        self._routes = {(method, route.path): route for route in hot for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a hot route; pass anything else on."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await _answer(route.endpoint, Request(scope, receive))
        await response(scope, receive, send)


async def _answer(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(request)
    except ReplError as error:
        return await on_repl_error(request, error)
    except ClientDisconnect as error:
        return await on_gone(request, error)
