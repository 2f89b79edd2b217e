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

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from features.errors import ReplError
from service import http, openapi
from service.core import Service
from service.direct import Direct
from service.listener import bind
from service.routes import events, health, page, rank, vectors, versions
from service.settings import Settings
from service.worker import Worker, share_metrics, this_worker

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""Longest time a background thread keeps the interpreter from the event loop."""


def create_app(service: Service) -> FastAPI:
    """The application of one service; it neither starts nor stops it."""
    app = FastAPI(
        title="RepL Ranker",
        version="1",
        summary="Ranks candidates, takes events, shows and moves weight versions.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(ReplError, http.on_repl_error)
    app.add_exception_handler(HTTPException, http.on_http_error)
    app.add_exception_handler(RequestValidationError, http.on_bad_parameter)
    app.add_exception_handler(ClientDisconnect, http.on_gone)
    app.add_exception_handler(Exception, http.on_crash)
    ranking = rank.router(service)
    app.add_middleware(Direct, routes=ranking.routes)
    app.add_middleware(
        http.Gate, auth=service.auth, metrics=service.metrics, most=service.settings.max_body_bytes
    )
    app.include_router(ranking)
    for part in (events, vectors, versions, health, page):
        app.include_router(part.router(service))
    openapi.install(app)
    return app


class Server(uvicorn.Server):
    """uvicorn over a socket of ours; ends when loading fails."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: leave when the service cannot start."""
        return self._service.failed or await super().on_tick(counter)


def serve(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    """Run the ranker until SIGINT or SIGTERM. `ready` is called (in a thread) once it answers.

    Raises SettingsError for a taken port, and whatever loading raised.
    """
    from service.logs import set_up
    from service.memory import few_heaps, give_back

    set_up(settings.log_level)
    few_heaps()
    sys.setswitchinterval(SWITCH_SECONDS)
    worker = this_worker()
    if worker is not None:
        listener, ready = begin_worker(worker), worker.tell_ready
    else:
        listener = bind(settings.host, settings.port)
    service = Service(settings, worker=worker)
    service.start(ready, after=give_back)
    if worker is not None and not worker.early:
        service.wait_loaded()
    config = uvicorn.Config(
        create_app(service),
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
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


def run_in_thread(service: Service, listener: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    """Serve a started service from a thread (the test kit and tests); end it by `should_exit = True`."""
    config = uvicorn.Config(
        create_app(service), http="httptools", log_config=None, access_log=False, lifespan="off"
    )
    server = Server(config, service)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="http", daemon=True)
    thread.start()
    return server, thread
