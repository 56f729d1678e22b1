"""uvicorn with what it leaves out: a time for the head of a request, room for new connections, an orderly stop."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from neuralbot.server.failures import Failure

if TYPE_CHECKING:
    from neuralbot.server.app import Server
    from neuralbot.server.settings import Settings

logger = logging.getLogger(__name__)

_HEAD_BYTES = 32768
_BACKLOG = 4096
_OTHER_FILES = 256  # descriptors that are not connections
_IDLE_S = 60


def prepared(server: Server, *, tls: dict[str, Any] | None = None) -> uvicorn.Server:
    """`run()` of it serves until the process is told to stop. tls: uvicorn's ssl options."""
    settings = server.state.settings
    most = min(settings.max_connections, _raise_file_limit() - _OTHER_FILES)
    config = uvicorn.Config(
        server.app,
        host=settings.host,
        port=settings.port,
        http=_protocol(settings, max(most, 1)),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=2,  # what is on its way has had its time by then
        **(tls or {}),
    )
    return _Uvicorn(config, server)


class _Uvicorn(uvicorn.Server):
    """Told to stop, it first lets the answers on their way come to their end; told twice, it stops at once."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for one in self.servers:
            for listener in one.sockets:
                address, port = listener.getsockname()[:2]
                logger.info("listening", extra={"fields": {"host": address, "port": port}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._server.state.stopping or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._server.state.stopping = True
        self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        logger.info("stopping: answers on their way have %g seconds", self._server.state.settings.grace)
        await self._server.drained()
        self.should_exit = True


def _protocol(settings: Settings, most: int) -> type[H11Protocol]:
    class Connection(H11Protocol):
        """Closes a connection whose request does not come, and the one that idles longest where there are too many."""

        idle: dict[Connection, None] = {}  # noqa: RUF012  # those without a request, the oldest first
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()
            if len(self.connections) > most and self.idle:
                oldest = next(iter(self.idle))
                del self.idle[oldest]
                oldest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._has_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            fresh = self.cycle is None or self.cycle.response_complete
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._has_head()
            elif fresh and self._timer is None:
                self._wait_for_head()

        def on_response_complete(self) -> None:
            self.idle[self] = None
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            """As uvicorn does it, in the form of our other errors."""
            import h11

            body = json.dumps(Failure(400, "this is no HTTP request").said_on("")[1]).encode()
            headers = [("content-type", "application/json"), ("connection", "close")]
            headers.append(("content-length", str(len(body))))
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _wait_for_head(self) -> None:
            self.idle[self] = None
            self._timer = self.loop.call_later(settings.header_time, self.transport.abort)

        def _has_head(self) -> None:
            self.idle.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection


def _raise_file_limit() -> int:
    """As many open files as the system allows; the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if threading.current_thread() is threading.main_thread() and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
