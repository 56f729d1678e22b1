"""POST /v1/completions: texts or token ids are continued as they are; with echo, prompts are scored.

Nobody's settings but the request's count here, so that a harness measures the model itself.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from neuralbot.engines.protocol import Sampling
from neuralbot.server import desk, events, failures
from neuralbot.server.bodies import StrictRoute
from neuralbot.server.openai import sampling
from neuralbot.server.openai.fields import CompletionRequest
from neuralbot.server.openai.replies import completion_logprobs, usage
from neuralbot.server.seeds import several
from neuralbot.server.work import Choice, Step, Token, Work

if TYPE_CHECKING:
    from neuralbot.server.served import Served

router = APIRouter(route_class=StrictRoute)

OWN = Sampling(max_new_tokens=16, do_sample=True)  # OpenAI's defaults


@router.post("/v1/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    """The continuation of texts."""
    state = desk.state_of(request)
    desk.check_model(state, body.model)
    asked = _Asked(state.served, body)
    work = await desk.enter(request, asked.choices)
    reply = _Reply(asked, work)
    if body.stream:
        await desk.begin(work)
        return events.EventStream(work, reply.events(), state.settings.stall_time)
    return JSONResponse(await reply.whole(request))


@dataclass
class _Prompt:
    """ids: the model's own, whatever the client sent. scores: those of the ids, where they are wanted."""

    ids: list[int]
    text: str
    scores: list[Token] = field(default_factory=list)


class _Asked:
    """What a request asks for. Raises Failure and NeuralbotError."""

    def __init__(self, served: Served, body: CompletionRequest) -> None:
        self.served = served
        self.body = body
        self.wanted = body.n or 1
        self.made = body.best_of or self.wanted
        self.prompts: list[_Prompt] = []
        self.max_tokens = 16 if body.max_tokens is None else body.max_tokens
        self._check()
        chosen = sampling.of(body, OWN, max(1, self.max_tokens))
        scored = body.logprobs is not None or self.made > self.wanted
        self.sampling = replace(chosen, logprobs=scored, top_logprobs=body.logprobs or 0)

    def _check(self) -> None:
        body = self.body
        if self.made < self.wanted:
            raise failures.invalid(f"best_of={self.made} is less than n={self.wanted}", "best_of")
        if body.stream and self.made > self.wanted:
            raise failures.invalid("the best of several answers cannot be streamed", "best_of")
        if body.stream and body.echo:
            raise failures.invalid("echo is not offered with stream", "echo")
        if self.max_tokens == 0 and not body.echo:
            raise failures.invalid("max_tokens: 0 gives nothing without echo: true", "max_tokens")

    async def choices(self) -> list[Choice]:
        for given in _prompts(self.body):
            self.prompts.append(prompt := await self._prompt(given))
            if not prompt.ids:
                raise failures.invalid("the prompt has no tokens: expected at least one", "prompt")
        if self.max_tokens == 0:
            return []
        made = []
        for prompt in self.prompts:
            limit = self.served.budget(prompt.ids, self.sampling)
            made += [
                Choice(prompt.ids, one, self.served.maker(limit, one.stop)) for one in several(self.sampling, self.made)
            ]
        return made

    async def _prompt(self, given: str | list[int]) -> _Prompt:
        if isinstance(given, str):
            return _Prompt(await self.served.text_ids(given), given)
        return _Prompt(given, self.served.text_of(given))

    async def score(self) -> None:
        """Fills in the scores of the prompts, one after the other."""
        for prompt in self.prompts:
            found = await asyncio.to_thread(self.served.score, prompt.ids, self.body.logprobs or 0)
            prompt.scores = [Token(prompt.ids[0], None, "")]
            prompt.scores += [Token(one.token, one.logprob, "", one.top) for one in found]


def _prompts(body: CompletionRequest) -> Sequence[str | list[int]]:
    prompt: Any = body.prompt
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


class _Reply:
    """The answers to a request in OpenAI's form, whole or as events."""

    def __init__(self, asked: _Asked, work: Work) -> None:
        self._asked = asked
        self._work = work
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._texts = [""] * len(work.choices)
        self._tokens: list[list[Token]] = [[] for _ in work.choices]

    async def whole(self, request: Request) -> dict[str, Any]:
        body = self._asked.body
        if body.echo and body.logprobs is not None:
            self._work.first(self._asked.score)
        await desk.finish(request, self._work, self._note)
        choices: list[dict[str, Any]] = []
        for place, prompt in enumerate(self._asked.prompts):
            for index in self._best(place):
                choices.append(self._choice(len(choices), prompt, index))
        tokens = usage(self._work)
        prompt_tokens = sum(len(prompt.ids) for prompt in self._asked.prompts)
        tokens |= {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens["completion_tokens"]}
        return self._frame(choices) | {"usage": tokens}

    async def events(self) -> AsyncIterator[bytes]:
        work, body = self._work, self._asked.body
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        more = {"usage": None} if with_usage else {}
        async for step in work.steps():
            if step is None:
                yield events.ping(work)
                continue
            offset = len(self._texts[step.index])
            self._texts[step.index] += step.text
            if step.text or step.finish or (step.tokens and body.logprobs is not None):
                logprobs = self._logprobs(step.tokens, offset)
                choice = {"index": step.index, "text": step.text, "logprobs": logprobs, "finish_reason": step.finish}
                yield _event(self._frame([choice]) | more)
        if with_usage:
            yield _event(self._frame([]) | {"usage": usage(work)})
        yield events.DONE

    def _note(self, step: Step) -> None:
        self._texts[step.index] += step.text
        self._tokens[step.index] += step.tokens

    def _best(self, place: int) -> list[int | None]:
        """The answers to the prompt at `place` that are given: the likeliest, by the mean of their tokens."""
        asked = self._asked
        if not self._work.choices:
            return [None] * asked.wanted
        own = range(place * asked.made, (place + 1) * asked.made)
        if asked.made == asked.wanted:
            return list(own)
        return sorted(own, key=self._likelihood, reverse=True)[: asked.wanted]  # type: ignore[return-value]

    def _likelihood(self, index: int) -> float:
        found = [token.logprob or 0.0 for token in self._tokens[index]]
        return sum(found) / len(found) if found else float("-inf")

    def _choice(self, number: int, prompt: _Prompt, index: int | None) -> dict[str, Any]:
        text = "" if index is None else self._texts[index]
        tokens = [] if index is None else self._tokens[index]
        finish = "length" if index is None else self._work.choices[index].finish
        before, offset = prompt.scores, 0
        if self._asked.body.echo:
            text = prompt.text + text
        if not before:
            offset = len(prompt.text) if self._asked.body.echo else 0
        return {
            "index": number,
            "text": text,
            "logprobs": self._logprobs([*before, *tokens], offset),
            "finish_reason": finish,
        }

    def _logprobs(self, tokens: Sequence[Token], offset: int) -> dict[str, Any] | None:
        if self._asked.body.logprobs is None:
            return None
        return completion_logprobs(self._asked.served, tokens, offset)

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = self._asked.body.model or self._asked.served.name
        frame = {"id": self._id, "object": "text_completion", "created": self._created}
        return frame | {"model": name, "choices": choices}


def _event(frame: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(frame, ensure_ascii=False).encode() + b"\n\n"
