"""What goes wrong with a request, and how each protocol says it: OpenAI's envelope, and TGI's on TGI's routes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import NeuralbotError

TGI_PATHS = frozenset(("/", "/generate", "/generate_stream", "/info", "/tokenize"))
_TGI_KINDS = {400: "validation", 413: "validation", 422: "validation", 429: "overloaded", 503: "overloaded"}
_FIELD = re.compile(r"\w+")  # the names that pydantic gives to kinds have brackets or dashes
_TGI_STATUS = {400: 422, 503: 429}


class Failure(Exception):
    """A request that ends without its answer. kind, code, param: `type`, `code` and `param` of OpenAI's errors."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return headers | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    def said_on(self, path: str) -> tuple[int, dict[str, Any]]:
        """The status and the body for the protocol that the path belongs to."""
        if path not in TGI_PATHS:
            error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
            return self.status, {"error": error}
        kind = "generation" if self.status >= 500 else "validation"
        what = f"{self.param}: {self.message}" if self.param else self.message
        return _TGI_STATUS.get(self.status, self.status), {
            "error": what,
            "error_type": _TGI_KINDS.get(self.status, kind),
        }

    def event_on(self, path: str) -> bytes:
        """The same as an event of a stream that has begun."""
        return f"data: {json.dumps(self.said_on(path)[1])}\n\n".encode()


def invalid(message: str, param: str | None = None) -> Failure:
    return Failure(400, message, param=param)


def full(retry_after: int) -> Failure:
    message = "the server is full: all places to wait are taken; try again later"
    return Failure(503, message, kind="server_error", code="overloaded", retry_after=retry_after)


def too_many(limit: int, retry_after: int) -> Failure:
    message = f"this key has {limit} requests on their way, as many as it may have: wait for one of them"
    return Failure(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after)


def late(seconds: float) -> Failure:
    return Failure(504, f"the answer was not ready within {seconds:g} seconds", kind="server_error", code="timeout")


def stopping() -> Failure:
    message = "the server is about to stop: ask again in a while"
    return Failure(503, message, kind="server_error", code="stopping", retry_after=5)


def internal() -> Failure:
    return Failure(500, "the server failed at this request; its log tells more", kind="server_error")


def of_error(error: NeuralbotError) -> Failure:
    """A request that neuralbot refuses: what it says is meant for the person who asked."""
    too_long = error.code in (
        ErrorCodes.WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH,
        ErrorCodes.WARNING_INPUT_COMPLETION_EXCEED_MAX_SEQ_LENGTH,
    )
    return Failure(400, str(error), code="context_length_exceeded" if too_long else None)


def of_fields(problems: Sequence[Any]) -> Failure:
    """pydantic's list of what is wrong with a body: one of them is told, with its place."""
    # Where a field may be of several kinds, there is a problem with each: the one that got furthest is meant.
    told = max(problems, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))
    place = [str(part) for part in told["loc"] if part != "body" and _FIELD.fullmatch(str(part))]
    return invalid(told["msg"], ".".join(place) or None)
