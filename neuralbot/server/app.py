"""Puts the server together: the gate, the routes of each protocol, and how errors are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from neuralbot import __version__
from neuralbot.errors import NeuralbotError
from neuralbot.server import failures, sagemaker, tgi
from neuralbot.server.admission import Admission
from neuralbot.server.failures import Failure
from neuralbot.server.gate import Gate
from neuralbot.server.metrics import Metrics
from neuralbot.server.openai import chat, completions, models

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from neuralbot.server.keys import Keys
    from neuralbot.server.served import Served
    from neuralbot.server.settings import Settings
    from neuralbot.server.work import Work

logger = logging.getLogger(__name__)

_WORDS = {404: "there is no such address here", 405: "this address does not take this method"}


@dataclass
class State:
    """What the routes share. works: on their way. stopping: no new work is taken."""

    served: Served
    settings: Settings
    admission: Admission
    metrics: Metrics
    works: set[Work] = field(default_factory=set)
    stopping: bool = False


class Server:
    """`app` is the ASGI application, `state` what it is about, `schema()` its OpenAPI schema."""

    def __init__(self, served: Served, settings: Settings, keys: Keys) -> None:
        admission = Admission(settings.slots, settings.queue, settings.per_key)
        self.state = State(served, settings, admission, Metrics(admission))
        routes = _routes(self.state)
        gate: ASGIApp = Gate(routes, settings, keys, self.state.metrics)
        if settings.allowed_origins:
            gate = CORSMiddleware(
                gate,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        self.app = gate
        self.schema = routes.openapi

    async def drained(self) -> None:
        """Takes no new work, and waits for what is on its way as long as the settings allow."""
        self.state.stopping = True
        end = asyncio.get_running_loop().time() + self.state.settings.grace
        while self.state.works and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        for work in self.state.works:
            work.stop()


def _routes(state: State) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(state.metrics.watch_loop())
        yield
        watch.cancel()
        state.served.close()

    # The pages of documentation would load scripts from elsewhere: the schema alone is offered.
    app = FastAPI(title="neuralbot", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.server = state
    _add_health(app, state)
    _add_errors(app)
    for router in (chat.router, completions.router, models.router, tgi.router, sagemaker.router):
        app.include_router(router)
    return app


def _add_health(app: FastAPI, state: State) -> None:
    @app.get("/health")
    async def health() -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """New work is taken."""
        if state.stopping:
            raise failures.stopping()
        if not state.served.alive:
            raise Failure(503, "the engine has ended", kind="server_error")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(state.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Failure)
    async def failed(request: Request, failure: Failure) -> Response:
        return _told(request, failure)

    @app.exception_handler(NeuralbotError)
    async def refused(request: Request, error: NeuralbotError) -> Response:
        return _told(request, failures.of_error(error))

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return _told(request, failures.of_fields(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        failure = Failure(error.status_code, _WORDS.get(error.status_code, str(error.detail)))
        return _told(request, failure, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return _told(request, failures.internal())


def _told(request: Request, failure: Failure, headers: object = None) -> Response:
    status, said = failure.said_on(request.scope["path"])
    more = dict(headers) if isinstance(headers, dict) else {}
    return JSONResponse(said, status, failure.headers() | more)
