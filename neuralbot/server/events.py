"""Responses that take time: streams of events, and whole answers; both end their work when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from neuralbot.server import failures
from neuralbot.server.failures import Failure

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from neuralbot.server.work import Work

logger = logging.getLogger(__name__)

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def unless_left(receive: Receive, doing: Coroutine[Any, Any, T]) -> T:
    """The result of `doing`; it is cancelled when the client leaves. Raises ClientLeft then."""
    work = asyncio.ensure_future(doing)
    left = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientLeft
        return work.result()
    finally:
        for task in (work, left):
            task.cancel()
        await asyncio.gather(work, left, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. `events` gives them encoded; `work` is closed at their end, whatever ends them."""

    def __init__(self, work: Work, events: AsyncIterator[bytes], stall_time: float) -> None:
        # A proxy that collects the stream would take its point away.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self._work = work
        self._events = events
        self._stall_time = stall_time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_left(receive, self._send_all(scope["path"], send))
        finally:
            self._work.close()

    async def _send_all(self, path: str, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await self._send(event, send)
        except Failure as failure:
            await self._send(failure.event_on(path), send)
        except TimeoutError:
            raise ClientLeft from None  # it reads nothing any more
        except Exception:
            logger.exception("a stream failed")
            await self._send(failures.internal().event_on(path), send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, event: bytes, send: Send) -> None:
        async with asyncio.timeout(self._stall_time):
            await send({"type": "http.response.body", "body": event, "more_body": True})


def ping(work: Work) -> bytes:
    """A comment, which clients pass over: proxies would close a stream without a sign of life."""
    return f": {work.state}\n\n".encode()
