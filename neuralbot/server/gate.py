"""What every request passes before any route sees it: its name, the Host, the key, the size and the pace of its body.

Deny by default: PUBLIC lists the only routes without a key. Decides on the path that is routed, never on an URL that
was put together from headers.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuralbot.server import failures, logs
from neuralbot.server.events import ClientLeft
from neuralbot.server.failures import Failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from neuralbot.server.keys import Keys
    from neuralbot.server.metrics import Metrics
    from neuralbot.server.settings import Settings
    from neuralbot.server.work import Work

PUBLIC = frozenset(("/health", "/ready", "/ping"))
_BODIES = 128 * 2**20  # bytes of all bodies that are held at the same time
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_PORT = re.compile(r":\d{1,5}$")
_REST_TIME_S = 1.0  # for the rest of a body that nobody wants, so that the refusal arrives


@dataclass
class Visit:
    """One request: what the log tells of it. key: the name of the key, never the key."""

    id: str
    since: float
    key: str = ""
    status: int = 0
    work: Work | None = None
    begun: bool = False


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._hosts = settings.hosts
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = scope["visit"] = Visit(_request_id(scope), time.monotonic())
        answer = _answering(visit, send)
        body = _Body(receive, self._settings)
        try:
            self._admit(scope, visit)
            await self._read(scope, body)
            await self._app(scope, body.receive, answer)
        except Failure as failure:
            if visit.begun:
                raise
            await _refuse(scope, failure, answer, whole=await body.dropped())
        except ClientLeft:
            self._metrics.left.inc()
        finally:
            self._held -= body.size
            self._note(scope, visit)

    def _admit(self, scope: Scope, visit: Visit) -> None:
        """Raises Failure."""
        headers = _Headers(scope)
        if self._hosts is not None and _PORT.sub("", headers.single(b"host").lower()) not in self._hosts:
            raise failures.invalid("this Host is not served here: name it with --allow-host")
        if self._keys and scope["path"] not in PUBLIC:
            name = self._keys.name_of(_bearer(headers.single(b"authorization")))
            if name is None:
                raise Failure(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")
            visit.key = name
        if headers.all(b"content-encoding"):
            raise Failure(415, "Content-Encoding is not taken: send the body as it is")

    async def _read(self, scope: Scope, body: _Body) -> None:
        if self._held > _BODIES:
            raise failures.full(1)
        if scope["method"] in ("GET", "HEAD"):
            return
        try:
            async with asyncio.timeout(self._settings.body_time):
                await body.read()
        except TimeoutError:
            raise Failure(408, f"the body was not there within {self._settings.body_time:g} seconds") from None
        self._held += body.size

    def _note(self, scope: Scope, visit: Visit) -> None:
        route = getattr(scope.get("route"), "path", "none")
        seconds = time.monotonic() - visit.since
        status = visit.status or 499  # the client left before there was one
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.duration.labels(route).observe(seconds)
        fields: dict[str, Any] = {
            "id": visit.id,
            "method": scope["method"][:16],
            "path": scope["path"][:128],
            "status": status,
            "seconds": round(seconds, 4),
        }
        if visit.key:
            fields["key"] = visit.key
        if (work := visit.work) is not None:
            fields |= {"prompt_tokens": work.prompt_tokens, "completion_tokens": work.completion_tokens}
        logs.access.info("request", extra={"fields": fields})


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._pairs: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self._pairs if key == name]

    def single(self, name: bytes) -> str:
        """The value; "" where there is none, or more than one."""
        values = self.all(name)
        return values[0] if len(values) == 1 else ""


class _Body:
    """The body of a request: read with a limit, and given again to who asks next."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive = receive
        self._limit = settings.max_body
        self._parts: list[bytes] = []
        self.size = 0
        self._whole = False
        self._given = False

    async def read(self) -> None:
        """Raises Failure where it is too large, ClientLeft."""
        while not self._whole:
            message = await self._next()
            self.size += len(message.get("body", b""))
            if self.size > self._limit:
                self.size, self._parts = 0, []
                raise Failure(413, f"the body is larger than {self._limit} bytes")
            self._parts.append(message.get("body", b""))

    async def dropped(self) -> bool:
        """Reads on for a moment without keeping anything; whether the body has come to its end."""
        if not self._whole:
            try:
                async with asyncio.timeout(_REST_TIME_S):
                    while not self._whole:
                        await self._next()
            except (TimeoutError, ClientLeft):
                return False
        return True

    async def receive(self) -> Message:
        if self._given or not self._whole:
            return await self._receive()
        self._given = True
        return {"type": "http.request", "body": b"".join(self._parts), "more_body": False}

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self._whole = not message.get("more_body", False)
        return message


def _answering(visit: Visit, send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.begun = True
            visit.status = message["status"]
            own = ((b"x-request-id", visit.id.encode()), (b"x-content-type-options", b"nosniff"))
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return answer


async def _refuse(scope: Scope, failure: Failure, send: Send, *, whole: bool) -> None:
    status, said = failure.said_on(scope["path"])
    body = json.dumps(said).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))} | failure.headers()
    if not whole:
        headers["connection"] = "close"
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """The client's own, if it is fit for a log."""
    given = _Headers(scope).single(b"x-request-id")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _bearer(value: str) -> str:
    scheme, _, key = value.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
