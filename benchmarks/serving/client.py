"""Many streams of /v1/completions at once from one event loop, each with the moments at which its text came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Question:
    """at: seconds after the beginning. prompt: a text, or ids where the server takes them."""

    at: float
    prompt: str | list[int]
    new_tokens: int


@dataclass(frozen=True)
class Answered:
    """Moments in seconds after the beginning: sent, and when the first and the last text came.

    tokens: 0 where the answer is not as long as it was asked for; then `error` says why.
    """

    sent: float
    first: float
    last: float
    tokens: int
    error: str = ""


def ask(url: str, questions: Sequence[Question], more: Mapping[str, Any] | None = None) -> list[Answered]:
    """Answers in the order of the questions. more: further fields of each request."""
    return asyncio.run(_all(url, questions, more or {}))


async def _all(url: str, questions: Sequence[Question], more: Mapping[str, Any]) -> list[Answered]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT_S) as client:
        # Connections are made before, as those of an application are: what is measured is the way of a request.
        await asyncio.gather(*(client.get("/v1/models") for _ in questions[:8]))
        start = time.perf_counter()
        return await asyncio.gather(*(_one(client, question, start, more) for question in questions))


async def _one(client: httpx.AsyncClient, question: Question, start: float, more: Mapping[str, Any]) -> Answered:
    await asyncio.sleep(question.at - (time.perf_counter() - start))
    body = {"prompt": question.prompt, "max_tokens": question.new_tokens, "temperature": 0, "stream": True, **more}
    sent = time.perf_counter() - start
    times: list[float] = []
    finish = None
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                return Answered(sent, sent, sent, 0, f"status {answer.status_code}")
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    times.append(time.perf_counter() - start)
                    choices = json.loads(line[6:]).get("choices") or [{}]
                    finish = choices[0].get("finish_reason") or finish
    except httpx.HTTPError as error:
        return Answered(sent, sent, sent, 0, type(error).__name__)
    if finish != "length":
        return Answered(sent, sent, sent, 0, f"ended by {finish}, not by its length")
    return Answered(sent, times[0], times[-1], question.new_tokens)
