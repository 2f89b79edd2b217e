"""Before the applications of several tenants: finds out whose a request is, and hands it on. It answers itself what
belongs to no tenant only: health, metrics of all, and calls that name none.

A key that belongs to a tenant names it; else the header X-Tenant does; else the setting `tenant`. Whether the caller
may is checked by the gate of the application that gets the request, the one for no tenant included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from features.errors import InvalidRequest
from service import http
from service.gauges import update_gauges
from service.metrics import CONTENT_TYPE
from service.tenants import Tenants

_OF_NONE = ("/health/live", "/health/ready", "/metrics")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


def create_front(tenants: Tenants, apps: Mapping[str, ASGIApp]) -> Front:
    """The application of a process with several tenants; apps: that of each."""
    return Front(tenants, apps, _app_of_none(tenants))


class Front:
    """See the module's docstring."""

    def __init__(self, tenants: Tenants, apps: Mapping[str, ASGIApp], of_none: ASGIApp) -> None:
        """of_none: answers what belongs to no tenant."""
        self._auth, self._usual = tenants.auth, tenants.settings.tenant
        self._apps, self._of_none = apps, of_none
        self._any = next(iter(apps.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        app = self._app(scope) if scope["type"] == "http" else self._of_none
        await app(scope, receive, send)

    def _app(self, scope: Scope) -> ASGIApp:
        path = scope["path"]
        if path in _OF_NONE:
            return self._of_none
        if path == "/openapi.json" or path.startswith("/docs"):
            return self._any
        head = http.read_head(scope)
        grant = scope["grant"] = self._auth.grant(head.authorization)
        name = grant.tenant if grant is not None and grant.tenant is not None else head.tenant or self._usual
        return self._apps.get(name, self._of_none)


def _app_of_none(tenants: Tenants) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    http.add_handlers(app)
    settings = tenants.settings
    app.add_middleware(
        http.Gate, auth=tenants.auth, metrics=tenants.metrics, most=settings.max_body_bytes, drain=tenants.drain,
        written=settings.request_log,
    )  # fmt: skip
    _health(app, tenants)
    _metrics(app, tenants)

    @app.api_route("/{path:path}", methods=_METHODS)
    async def whose(request: Request) -> Response:
        grant, named = request.scope.get("grant"), request.headers.get("x-tenant")
        if grant is not None and grant.tenant is not None:
            raise InvalidRequest("the tenant of this key is not served here", field="Authorization", value=grant.tenant)
        if named is None:
            hint = "send X-Tenant, or a key that belongs to a tenant (docs/tenants.md)"
            raise InvalidRequest("this call names no tenant", field="X-Tenant", hint=hint)
        raise InvalidRequest("there is no such tenant", field="X-Tenant", value=named)

    return app


def _health(app: FastAPI, tenants: Tenants) -> None:
    @app.get("/health/live")
    async def live(request: Request) -> Response:
        return http.json_answer({"status": "ok"}, http.request_id(request))

    @app.get("/health/ready")
    async def ready(request: Request) -> Response:
        reasons, rid = tenants.drain.reasons() + tenants.ready_reasons(), http.request_id(request)
        if reasons:
            return http.json_answer({"status": "not_ready", "reasons": reasons}, rid, 503)
        missing = tenants.missing()  # tenants that failed alone: the others are served
        return http.json_answer({"status": "ok", **({"reasons": missing} if missing else {})}, rid)


def _metrics(app: FastAPI, tenants: Tenants) -> None:
    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        grant = request.scope.get("grant")
        tenant = None if grant is None else grant.tenant

        def page() -> bytes:
            for name, service in tenants.services.items():
                if tenant in (None, name):
                    update_gauges(service)
            return tenants.page(tenant)

        return Response(await asyncio.to_thread(page), 200, media_type=CONTENT_TYPE)
