"""What all routes share: request ids, the error shape, status codes, the gate every call passes. No route is here."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from features.errors import (
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotReady,
    ReplError,
    TooLarge,
    Unauthorised,
    UnknownVersion,
)
from service.auth import Auth
from service.metrics import Metrics

log = logging.getLogger("service.http")

JSON = "application/json"
_STATUS: tuple[tuple[type[ReplError], int], ...] = (
    (InvalidInput, 422),
    (TooLarge, 413),
    (Unauthorised, 401),
    (Forbidden, 403),
    (UnknownVersion, 404),
    (NotReady, 503),
    (ReplError, 503),
)
_HTTP_HINTS = {
    404: "docs/http.md lists the routes",
    405: "docs/http.md lists the methods",
    413: "send less at once, or raise the setting max_body_bytes",
}
_QUIET = {"/metrics", "/health/live", "/health/ready", "/v1/status"}


def status_of(error: ReplError) -> int:
    """The HTTP status of an error of the tree in features/errors.py."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def new_request_id() -> str:
    """24 hexadecimal digits."""
    return os.urandom(12).hex()


def request_id(request: Request) -> str:
    """The id of this request: given by the gate."""
    found = request.scope.get("request_id")
    return found if isinstance(found, str) else new_request_id()


def error_response(request: Request, status: int, body: dict[str, str]) -> Response:
    """The one error shape: {error: {code, message, field?, value?, hint?}, request_id}."""
    rid = request_id(request)
    content = orjson.dumps({"error": body, "request_id": rid})
    headers = {"X-Request-Id": rid}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = "1"
    return Response(content, status, headers, JSON)


async def on_repl_error(request: Request, error: Exception) -> Response:
    """Errors of the tree."""
    assert isinstance(error, ReplError)
    return error_response(request, status_of(error), error.as_dict())


async def on_http_error(request: Request, error: Exception) -> Response:
    """Errors of the framework (no such route, method not allowed, body too large) in our shape."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    body = {"code": codes.get(status, "http"), "message": str(error.detail)}
    if status in _HTTP_HINTS:
        body["hint"] = _HTTP_HINTS[status]
    response = error_response(request, status, body)
    response.headers.update(error.headers or {})
    return response


async def on_bad_parameter(request: Request, error: Exception) -> Response:
    """A parameter of the address that the framework refuses, in our shape."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    hint = "docs/http.md lists the members and their types"
    found = InvalidRequest(str(first["msg"]), field=name, value=first.get("input"), hint=hint)
    return error_response(request, status_of(found), found.as_dict())


async def on_gone(request: Request, error: Exception) -> Response:
    """The caller hung up before the end of the body: nobody reads this answer."""
    message = "the connection ended within the body"
    return error_response(request, 400, {"code": "incomplete", "message": message})


async def on_crash(request: Request, error: Exception) -> Response:
    """What nobody foresaw: 500, with the traceback in the log under the request id."""
    log.error("unforeseen error", exc_info=error, extra={"request_id": request_id(request)})
    hint = "the service's log has the traceback under this request_id"
    return error_response(request, 500, {"code": "internal", "message": "unforeseen error", "hint": hint})


def answer(content: bytes, rid: str, status: int = 200) -> Response:
    """JSON bytes as a response."""
    return Response(content, status, {"X-Request-Id": rid}, JSON)


def json_answer(value: Any, rid: str, status: int = 200) -> Response:
    """A value of plain types as a response."""
    return answer(orjson.dumps(value), rid, status)


class Gate:
    """ASGI middleware: request id, Host and Origin, size of the body, one measurement a request."""

    def __init__(self, app: ASGIApp, auth: Auth, metrics: Metrics, most: int) -> None:
        """most: bytes of a body, above which a call is refused."""
        self._app, self._auth, self._metrics, self._most = app, auth, metrics, most
        self._debug = log.isEnabledFor(logging.DEBUG)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless its Host or Origin is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rid = scope["request_id"] = new_request_id()
        began, status = time.perf_counter(), 500

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            host, origin, length = _headers(scope)
            self._auth.check_host(host, origin)
            if length is None:
                receive = _counting(receive, self._most)
            elif not length.isdigit() or int(length) > self._most:
                raise _too_large(self._most)
            await self._app(scope, receive, sender)
        except (Forbidden, TooLarge) as error:
            response = error_response(Request(scope), status_of(error), error.as_dict())
            await response(scope, receive, sender)
        finally:
            self._measure(scope, rid, status, time.perf_counter() - began)

    def _measure(self, scope: Scope, rid: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        name = getattr(route, "path", "unknown")
        self._metrics.count(name, status, seconds)
        if name in _QUIET:
            return
        if self._debug or status >= 500 or (log.isEnabledFor(logging.INFO) and seconds > 1.0):
            extra = {"request_id": rid, "route": name, "status": status, "ms": round(seconds * 1e3, 2)}
            log.log(logging.ERROR if status == 500 else logging.INFO, "answered", extra=extra)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"a body has at most {most} bytes", value=most, hint=_HTTP_HINTS[413])


def _counting(receive: Receive, most: int) -> Receive:
    """For bodies that do not say how long they are."""
    had = 0

    async def receiver() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        if had > most:
            raise _too_large(most)
        return message

    return receiver


def _headers(scope: Scope) -> tuple[str | None, str | None, bytes | None]:
    """Host, Origin and Content-Length."""
    host = origin = length = None
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"content-length":
            length = value
    return host, origin, length
