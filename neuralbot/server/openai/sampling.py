"""OpenAI's sampling fields -> Sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from neuralbot.engines.protocol import Sampling
from neuralbot.server.openai.fields import Common

_SAME = ("temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def of(body: Common, own: Sampling, max_tokens: int | None) -> Sampling:
    """`own` with what the request says in its place; a temperature above 0 asks for drawing. Raises GenerationError."""
    values: dict[str, Any] = {name: value for name in _SAME if (value := getattr(body, name)) is not None}
    if body.temperature is not None:
        values["do_sample"] = body.temperature > 0
    if body.top_k is not None:
        values["top_k"] = max(0, body.top_k)  # vLLM's -1 is no limit, too
    if max_tokens is not None:
        values["max_new_tokens"] = max_tokens
    if body.seed is not None:
        values["seed"] = body.seed % 2**63
    if body.stop is not None:
        values["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.logit_bias:
        values["logit_bias"] = tuple((int(token), bias) for token, bias in body.logit_bias.items())
    return replace(own, **values)
