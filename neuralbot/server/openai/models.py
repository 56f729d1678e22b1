"""GET /v1/models, and POST as neural_chat's server had it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from neuralbot.server import desk
from neuralbot.server.served import Served

router = APIRouter()


@router.get("/v1/models")
@router.post("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The names of the model."""
    served = desk.state_of(request).served
    return {"object": "list", "data": [_model(served, name) for name in served.names]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    state = desk.state_of(request)
    desk.check_model(state, name)
    return _model(state.served, name)


def _model(served: Served, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "neuralbot",
        "root": served.name,
        "parent": None,
        "max_model_len": served.engine.context_length,
    }
