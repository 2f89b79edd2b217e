"""What all routes share: request ids, the error shape, status codes, the gate every call passes. No route is here.

Who may call is decided in `service/auth.py`, how often in `service/limits.py`.
"""

from __future__ import annotations

import logging
import math
import os
import time
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from features.errors import (
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotReady,
    RateLimited,
    Refused,
    ReplError,
    TooLarge,
    Unauthorised,
    UnknownVersion,
)
from service import logs
from service.auth import Auth, Grant, need_of
from service.drain import Drain
from service.limits import Limits
from service.metrics import Metrics

log = logging.getLogger("service.http")

JSON = "application/json"
_STATUS: tuple[tuple[type[ReplError], int], ...] = (
    (InvalidInput, 422),
    (TooLarge, 413),
    (Unauthorised, 401),
    (Forbidden, 403),
    (RateLimited, 429),
    (Refused, 409),
    (UnknownVersion, 404),
    (NotReady, 503),
    (ReplError, 503),
)
_HTTP_HINTS = {
    404: "docs/http.md lists the routes",
    405: "docs/http.md lists the methods",
    413: "send less at once, or raise the setting max_body_bytes",
}
_CLOSE = (b"connection", b"close")
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


def error_response(request: Request, status: int, body: dict[str, str], after: float = 1.0) -> Response:
    """The one error shape: {error: {code, message, field?, value?, hint?}, request_id}. after: seconds to Retry-After,
    of 429 and 503."""
    rid = request_id(request)
    content = orjson.dumps({"error": body, "request_id": rid})
    headers = {"X-Request-Id": rid}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(after))
    return Response(content, status, headers, JSON)


async def on_repl_error(request: Request, error: Exception) -> Response:
    """Errors of the tree."""
    assert isinstance(error, ReplError)
    after = error.retry_after if isinstance(error, RateLimited) else 1.0
    return error_response(request, status_of(error), error.as_dict(), after)


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


def add_handlers(app: FastAPI) -> None:
    """Tell every error of an application in the one shape."""
    app.add_exception_handler(ReplError, on_repl_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_parameter)
    app.add_exception_handler(ClientDisconnect, on_gone)
    app.add_exception_handler(Exception, on_crash)


def answer(content: bytes, rid: str, status: int = 200) -> Response:
    """JSON bytes as a response."""
    return Response(content, status, {"X-Request-Id": rid}, JSON)


def json_answer(value: Any, rid: str, status: int = 200) -> Response:
    """A value of plain types as a response."""
    return answer(orjson.dumps(value), rid, status)


class Gate:
    """ASGI middleware: request id, Host and Origin, key, tenant, rate, size of the body, one measurement a request."""

    def __init__(
        self, app: ASGIApp, auth: Auth, metrics: Metrics, most: int, drain: Drain,
        tenant: str | None = None, limits: Limits | None = None, written: str = "debug",
    ) -> None:  # fmt: skip
        """most: bytes of a body, above which a call is refused. tenant: whose requests these are; None: of no tenant.
        written: the level at which every request is logged."""
        self._app, self._auth, self._metrics, self._most = app, auth, metrics, most
        self._drain, self._tenant = drain, tenant
        self._limits = limits if limits is not None and limits.any else None
        self._level = logging.INFO if written == "info" else logging.DEBUG
        self._every = log.isEnabledFor(self._level)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rid = scope["request_id"] = new_request_id()
        logs.REQUEST_ID.set(rid)
        began, status = time.perf_counter(), 500

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._drain.on:
                    message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        try:
            length = self._admit(scope)
            if length is None:
                receive = _counting(receive, self._most)
            elif not length.isdigit() or int(length) > self._most:
                raise _too_large(self._most)
            await self._app(scope, receive, sender)
        except (Forbidden, Unauthorised, RateLimited, TooLarge) as error:
            response = await on_repl_error(Request(scope), error)
            await response(scope, receive, sender)
        finally:
            self._measure(scope, rid, status, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> bytes | None:
        """Check who calls; the length of the body where it is said. Raises Forbidden, Unauthorised, RateLimited."""
        head = read_head(scope)
        self._auth.check_host(head.host, head.origin)
        path = scope["path"]
        need = need_of(scope["method"], path)
        if need is None:
            return head.length
        grant = scope["grant"] if "grant" in scope else self._auth.grant(head.authorization)
        scope["grant"] = grant
        self._auth.check(grant, need, self._tenant)
        if self._tenant is not None and head.tenant not in (None, self._tenant):
            hint = f"this service answers for {self._tenant!r} here; docs/tenants.md says how a tenant is named"
            raise Forbidden("not the tenant of this call", field="X-Tenant", value=head.tenant, hint=hint)
        if self._limits is not None and path != "/metrics":
            self._limits.admit(None if grant is None else grant.key, path == "/v1/events")
        return head.length

    def _measure(self, scope: Scope, rid: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        name = getattr(route, "path", "unknown")
        self._metrics.count(name, status, seconds)
        if name in _QUIET:
            return
        if self._every or status >= 500 or (log.isEnabledFor(logging.INFO) and seconds > 1.0):
            extra = {"request_id": rid, "route": name, "status": status, "ms": round(seconds * 1e3, 2)}
            grant: Grant | None = scope.get("grant")
            extra |= {"method": scope["method"], "tenant": self._tenant, "key": None if grant is None else grant.key}
            level = logging.ERROR if status == 500 else logging.INFO if status > 500 or seconds > 1.0 else self._level
            log.log(level, "answered", extra=extra)


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


class Head(NamedTuple):
    """The headers that are read before a request is let in."""

    host: str | None
    origin: str | None
    length: bytes | None
    authorization: str | None
    tenant: str | None


_READ = (b"host", b"origin", b"content-length", b"authorization", b"x-tenant")


def read_head(scope: Scope) -> Head:
    """Host, Origin, Content-Length, Authorization and X-Tenant; of several of one name the last."""
    found = {name: value for name, value in scope["headers"] if name in _READ}
    host, origin, length, authorization, tenant = map(found.get, _READ)
    return Head(_text(host), _text(origin), length, _text(authorization), _text(tenant))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
