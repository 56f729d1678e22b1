"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from neuralbot.conversation import Tool, Turn
from neuralbot.engines.protocol import Sampling
from neuralbot.server import desk, events, failures
from neuralbot.server.bodies import StrictRoute
from neuralbot.server.openai import calls, sampling
from neuralbot.server.openai.fields import ChatRequest, Message, NamedTool
from neuralbot.server.openai.replies import chat_logprobs, usage
from neuralbot.server.seeds import several
from neuralbot.server.work import Choice, Step, Token, Work

if TYPE_CHECKING:
    from neuralbot.server.served import Served

router = APIRouter(route_class=StrictRoute)

LONGEST_SCHEMA = 16384  # characters


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """The answer to a conversation."""
    state = desk.state_of(request)
    desk.check_model(state, body.model)
    asked = _Asked(state.served, body)
    work = await desk.enter(request, asked.choices)
    reply = _Reply(asked, work)
    if body.stream:
        await desk.begin(work)
        return events.EventStream(work, reply.events(), state.settings.stall_time)
    return JSONResponse(await reply.whole(request))


class _Asked:
    """What a request asks for. Raises Failure and NeuralbotError."""

    def __init__(self, served: Served, body: ChatRequest) -> None:
        self.served = served
        self.body = body
        self.tools = _tools(body)
        self.form = calls.form_of(served.tokenizer) if self.tools else None
        self.forced = bool(self.tools) and (body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool))
        self.sampling = self._sampling()

    @property
    def begun(self) -> str:
        """How the answer begins where a call is forced."""
        return self.form.opening if self.forced and self.form is not None else ""

    async def choices(self) -> list[Choice]:
        turns = self.served.system_turns([_turn(message) for message in self.body.messages])
        prompt = await self.served.chat_ids(turns, self.tools, self.begun)
        limit = self.served.budget(prompt, self.sampling)
        return [
            Choice(prompt, one, self.served.maker(limit, one.stop, lead=self.served.lead, special=bool(self.tools)))
            for one in several(self.sampling, self.body.n or 1)
        ]

    def _sampling(self) -> Sampling:
        body = self.body
        if body.top_logprobs and not body.logprobs:
            raise failures.invalid("top_logprobs needs logprobs: true", "top_logprobs")
        chosen = sampling.of(body, self.served.chatbot.sampling, body.max_completion_tokens or body.max_tokens)
        chosen = replace(chosen, logprobs=bool(body.logprobs), top_logprobs=body.top_logprobs or 0)
        schema = _schema(body)
        if self.forced and self.form is not None and (self.served.has_grammars or not self.form.opening):
            schema = self.form.schema(self.tools)
        if schema is not None and len(schema) > LONGEST_SCHEMA:
            raise failures.invalid(f"the schema has {len(schema)} characters: expected {LONGEST_SCHEMA} at most")
        return replace(chosen, json_schema=schema)


def _tools(body: ChatRequest) -> list[Tool]:
    """The tools that the model is told of."""
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    if body.tool_choice == "none":
        return []
    if not tools and (named or body.tool_choice == "required"):
        raise failures.invalid("tool_choice asks for a call, but there are no tools", "tool_choice")
    if named:
        tools = [tool for tool in tools if tool["function"]["name"] == named]
        if not tools:
            raise failures.invalid(f"tools has no function named {named!r}", "tool_choice")
    return tools


def _schema(body: ChatRequest) -> str | None:
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return '{"type": "object"}'
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise failures.invalid("a response_format of type json_schema needs json_schema.schema", "response_format")
    return json.dumps(form.json_schema.schema_)


def _turn(message: Message) -> Turn:
    content = message.content
    text = content if isinstance(content, str) else "\n".join(part.text for part in content or ())
    role = "system" if message.role == "developer" else message.role
    called = tuple(
        {
            "type": "function",
            "id": call.id or f"call_{place}",
            "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
        }
        for place, call in enumerate(message.tool_calls or ())
    )
    if called and role != "assistant":
        raise failures.invalid("only an assistant's message has tool_calls", "messages")
    return Turn(role, text, tool_calls=called, name=message.name, tool_call_id=message.tool_call_id)


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise failures.invalid(f"arguments={text[:200]!r} of a call: expected a JSON object as a text", "messages")
    return value


class _Reply:
    """The answers to a request in OpenAI's form, whole or as events."""

    def __init__(self, asked: _Asked, work: Work) -> None:
        self._asked = asked
        self._work = work
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._readers = [self._reader() for _ in work.choices]

    async def whole(self, request: Request) -> dict[str, Any]:
        work = self._work
        texts = [""] * len(work.choices)
        tokens: list[list[Token]] = [[] for _ in work.choices]

        def note(step: Step) -> None:
            texts[step.index] += step.text
            tokens[step.index] += step.tokens

        await desk.finish(request, work, note)
        choices = [self._choice(index, text, tokens[index]) for index, text in enumerate(texts)]
        return self._frame("chat.completion", choices) | {"usage": usage(work)}

    async def events(self) -> AsyncIterator[bytes]:
        work, options = self._work, self._asked.body.stream_options
        with_usage = options is not None and options.include_usage
        more = {"usage": None} if with_usage else {}
        for index in range(len(work.choices)):
            yield self._event([_chunk(index, {"role": "assistant", "content": ""})], more)
        async for step in work.steps():
            if step is None:
                yield events.ping(work)
            elif chunks := self._chunks(step):
                yield self._event(chunks, more)
        if with_usage:
            yield self._event([], {"usage": usage(work)})
        yield events.DONE

    def _chunks(self, step: Step) -> list[dict[str, Any]]:
        reader = self._readers[step.index]
        text = step.text
        called: list[dict[str, Any]] = []
        if reader is not None:
            text = reader.push(text)
            if step.finish is not None:
                rest, called = reader.finish()
                text += rest
        chunks = []
        if text or (step.tokens and self._asked.body.logprobs):
            chunks.append(_chunk(step.index, {"content": text}, self._logprobs(step.tokens)))
        if called:
            numbered = [{"index": place} | call for place, call in enumerate(called)]
            chunks.append(_chunk(step.index, {"tool_calls": numbered}))
        if step.finish is not None:
            last = _chunk(step.index, {})
            last["finish_reason"] = "tool_calls" if called else step.finish
            chunks.append(last)
        return chunks

    def _choice(self, index: int, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        finish: str | None = self._work.choices[index].finish
        if (reader := self._readers[index]) is not None:
            shown = reader.push(text)
            rest, called = reader.finish()
            message["content"] = shown + rest
            if called:
                message |= {"content": (shown + rest).strip() or None, "tool_calls": called}
                finish = "tool_calls"
        return {"index": index, "message": message, "finish_reason": finish, "logprobs": self._logprobs(tokens)}

    def _reader(self) -> calls.CallReader | None:
        form = self._asked.form
        if form is None:
            return None
        reader = calls.CallReader(form)
        reader.push(self._asked.begun)
        return reader

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        return chat_logprobs(self._asked.served, tokens) if self._asked.body.logprobs else None

    def _event(self, chunks: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        frames = [self._frame("chat.completion.chunk", [chunk]) | more for chunk in chunks] or [
            self._frame("chat.completion.chunk", []) | more
        ]
        return b"".join(b"data: " + json.dumps(frame, ensure_ascii=False).encode() + b"\n\n" for frame in frames)

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = self._asked.body.model or self._asked.served.name
        return {"id": self._id, "object": kind, "created": self._created, "model": name, "choices": choices}


def _chunk(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
