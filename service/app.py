"""The ranker as an ASGI application, and `serve`, which runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from service import http, openapi
from service.core import Service
from service.direct import Direct
from service.front import create_front
from service.listener import bind
from service.routes import bases, events, health, mode, page, rank, vectors, versions
from service.settings import Settings
from service.tenants import Tenants
from service.tls import tls_options
from service.worker import Worker, share_metrics, this_worker

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""Longest time a background thread keeps the interpreter from the event loop."""


def create_app(service: Service) -> FastAPI:
    """The application of one service; it neither starts nor stops it."""
    app = FastAPI(
        title="RepL Ranker",
        version="1",
        summary="Ranks candidates, takes events, shows and moves weight versions and bases.",
        docs_url=None,
        redoc_url=None,
    )
    http.add_handlers(app)
    ranking = rank.router(service)
    app.add_middleware(Direct, routes=ranking.routes)
    settings = service.settings
    app.add_middleware(
        http.Gate, auth=service.auth, metrics=service.metrics, most=settings.max_body_bytes, drain=service.drain,
        tenant=settings.tenant, limits=service.limits, written=settings.request_log,
    )  # fmt: skip
    app.include_router(ranking)
    for part in (events, vectors, versions, bases, mode, health, page):
        app.include_router(part.router(service))
    openapi.install(app)
    return app


def application(service: Service | Tenants) -> ASGIApp:
    """What is served: the application of the one tenant, or a front before those of several."""
    if isinstance(service, Service):
        return create_app(service)
    return create_front(service, {name: create_app(part) for name, part in service.services.items()})


class Server(uvicorn.Server):
    """uvicorn over a socket of ours; ends when loading fails, and after SIGTERM lets its callers leave first."""

    def __init__(self, config: uvicorn.Config, service: Service | Tenants) -> None:
        super().__init__(config)
        self._service = service
        self._told = False

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: leave when the service cannot start, or its callers have left."""
        drain = self._service.drain
        if drain.on and not self._told:  # not in the signal's handler: it may have interrupted a log line
            self._told = True
            log.info("stopping: not ready any more", extra={"seconds": self._service.settings.drain_seconds})
        return self._service.failed or drain.over or await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM of a service that is ready begins to drain it; a second one, or SIGINT, ends it now."""
        ready = not self._service.ready_reasons()
        if sig == signal.SIGTERM and ready and self._service.drain.begin():
            return
        super().handle_exit(sig, frame)


def serve(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    """Run the ranker until SIGINT or SIGTERM. `ready` is called (in a thread) once it answers.

    Raises SettingsError for a taken port or a certificate that does not fit, and whatever loading raised.
    """
    from service.logs import set_up
    from service.memory import few_heaps, give_back

    set_up(settings.log_level)
    few_heaps()
    sys.setswitchinterval(SWITCH_SECONDS)
    tls = tls_options(settings)
    worker = this_worker()
    if worker is not None:
        listener, ready = begin_worker(worker), worker.tell_ready
    else:
        listener = bind(settings.host, settings.port)
    service = Tenants(settings) if settings.tenants else Service(settings, worker=worker)
    service.start(ready, after=give_back)
    if isinstance(service, Service) and worker is not None and not worker.early:
        service.wait_loaded()
    config = uvicorn.Config(
        application(service),
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        **tls,
    )
    server = Server(config, service)
    with _ends_quietly():
        try:
            server.run(sockets=[listener])
        finally:
            service.stop()
            listener.close()
    service.raise_failure()


def begin_worker(worker: Worker) -> socket.socket:
    """Metrics that are shared with the other workers, and the socket that is: call it before a Service is made."""
    share_metrics(worker)
    return socket.socket(fileno=worker.listener)


@contextmanager
def _ends_quietly() -> Iterator[None]:
    """uvicorn raises the signals it took once more when it has ended: they must not kill us before we have, too."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_in_thread(service: Service | Tenants, listener: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    """Serve a started service from a thread (the test kit and tests); end it by `should_exit = True`."""
    config = uvicorn.Config(
        application(service), http="httptools", log_config=None, access_log=False, lifespan="off",
        **tls_options(service.settings),
    )  # fmt: skip
    server = Server(config, service)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="http", daemon=True)
    thread.start()
    return server, thread
