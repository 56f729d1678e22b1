"""How a route has its answers made: a place in the queue, prompts read, work begun, and its end whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from fastapi import Request

from neuralbot.server import failures
from neuralbot.server.events import ClientLeft, unless_left
from neuralbot.server.failures import Failure
from neuralbot.server.work import Choice, Step, Work, whole

if TYPE_CHECKING:
    from neuralbot.server.app import State


_ANY = ("tgi", "dummy")  # what huggingface_hub's InferenceClient calls the one model of a server


async def enter(request: Request, read: Callable[[], Awaitable[Sequence[Choice]]]) -> Work:
    """Takes a place, and reads the prompts only then. Raises Failure and NeuralbotError."""
    state = state_of(request)
    if state.stopping:
        raise failures.stopping()
    visit = request.scope["visit"]
    place = state.admission.enter(visit.key)
    try:
        choices = await read()
        work = Work(state, place, choices)
    except BaseException:
        place.leave()
        raise
    visit.work = work
    state.metrics.prompt.inc(work.prompt_tokens)
    return work


async def finish(request: Request, work: Work, note: Callable[[Step], None]) -> None:
    """Waits for all answers; `note` is given each step. Raises Failure."""
    try:
        await unless_left(request.receive, whole(work, note))
    except ClientLeft:
        state_of(request).metrics.left.inc()
        raise Failure(499, "the client left") from None
    finally:
        work.close()


async def begin(work: Work) -> Work:
    """Lets the work begin, so that a refusal has its own status instead of being an event of a stream."""
    try:
        await work.begun()
    except BaseException:
        work.close()
        raise
    return work


def state_of(request: Request) -> State:
    state: State = request.app.state.server
    return state


def check_model(state: State, name: str | None) -> None:
    """Raises Failure for a model that is not served here."""
    if name is not None and name not in (*state.served.names, *_ANY):
        served = ", ".join(state.served.names)
        raise Failure(404, f"there is no model {name!r} here: expected {served}", code="model_not_found", param="model")
