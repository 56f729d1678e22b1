"""Bodies are JSON objects, read strictly: NaN, doubled keys, half characters and endless nesting are refused."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from neuralbot.data import strict_json
from neuralbot.errors import DataError
from neuralbot.server import failures
from neuralbot.server.failures import Failure

_DEEPEST = 64


class Body(BaseModel):
    """A body whose unknown fields are let be, as OpenAI's clients expect of a server that is not OpenAI's."""

    model_config = ConfigDict(extra="ignore", strict=False)


class StrictRoute(APIRoute):
    """A route whose body is read by `read`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise Failure(415, "the body has to be JSON: Content-Type: application/json")
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        return read(await self.body())


def read(body: bytes) -> dict[str, Any]:
    """The object that the bytes are. Raises Failure."""
    try:
        text = body.decode()
        start = strict_json.skip_blanks(text, 0)
        value, end = strict_json.parse("body", text, start)
    except UnicodeDecodeError as error:
        raise failures.invalid(f"the body is not UTF-8 at byte {error.start}") from error
    except DataError as error:
        raise failures.invalid(str(error)) from error
    if strict_json.skip_blanks(text, end) < len(text):
        raise failures.invalid("there is text behind the end of the body")
    if not isinstance(value, dict):
        raise failures.invalid(f"the body is {strict_json.kind_of(value)}: expected an object")
    if _depth(value) > _DEEPEST:
        raise failures.invalid(f"the body is nested too deeply: expected {_DEEPEST} levels at most")
    return value


def _depth(value: Any) -> int:
    """Levels of objects and lists, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        level = [child for child in inner if isinstance(child, dict | list)]
    return depth
