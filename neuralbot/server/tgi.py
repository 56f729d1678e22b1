"""The protocol of text-generation-inference: a text is continued as it is, with TGI's own defaults.

`POST /` answers with a list, or with a stream, as TGI's compatibility route does. A stop sequence is left out of the
text. The last event of a stream brings the details; there is no [DONE].
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StrictBool, StringConstraints

from neuralbot import __version__
from neuralbot.engines.protocol import MAX_NEW_TOKENS, Sampling
from neuralbot.server import desk, events, failures
from neuralbot.server.bodies import Body, StrictRoute
from neuralbot.server.seeds import several
from neuralbot.server.work import Choice, Step, Token, Work

if TYPE_CHECKING:
    from neuralbot.server.served import Served

router = APIRouter(route_class=StrictRoute)

MOST_BEST = 8
OWN = Sampling(max_new_tokens=100)

Text = Annotated[str, StringConstraints(max_length=2**21)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Grammar(Body):
    type: Literal["json", "regex", "json_schema"]
    value: Annotated[str, StringConstraints(max_length=16384)] | dict[str, Any]


class Parameters(Body):
    best_of: Annotated[int, Field(ge=1, le=MOST_BEST)] | None = None
    decoder_input_details: StrictBool = False
    details: StrictBool = False
    do_sample: StrictBool = False
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    grammar: Grammar | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    return_full_text: StrictBool | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: (
        Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=16)] | None
    ) = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**20)] | None = None
    top_n_tokens: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    truncate: Annotated[int, Field(ge=1, le=2**20)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    watermark: StrictBool = False
    adapter_id: Annotated[str, StringConstraints(max_length=256)] | None = None


class GenerateRequest(Body):
    inputs: Text
    parameters: Parameters = Parameters()


class CompatRequest(GenerateRequest):
    stream: StrictBool = False


class TokenizeRequest(Body):
    inputs: Text


@router.get("/")
async def root() -> Response:
    """As /health."""
    return Response()


@router.post("/")
async def compat(request: Request, body: CompatRequest) -> Response:
    """A list of one answer, or a stream."""
    return await _stream(request, body) if body.stream else JSONResponse([await _whole(request, body)])


@router.post("/generate")
async def generate(request: Request, body: GenerateRequest) -> Response:
    """The answer."""
    return JSONResponse(await _whole(request, body))


@router.post("/generate_stream")
async def generate_stream(request: Request, body: GenerateRequest) -> Response:
    """The answer token by token."""
    return await _stream(request, body)


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """What is served, and its limits."""
    state = desk.state_of(request)
    context = state.served.engine.context_length
    return {
        "model_id": state.served.name,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": state.settings.places,
        "max_best_of": MOST_BEST,
        "max_stop_sequences": 16,
        "max_input_tokens": context and context - 1,
        "max_input_length": context and context - 1,
        "max_total_tokens": context,
        "max_client_batch_size": 1,
        "router": "neuralbot",
        "version": __version__,
    }


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> list[dict[str, Any]]:
    """The tokens of a text, and where in it they stand."""
    served = desk.state_of(request).served
    ids = await served.text_ids(body.inputs)
    maker, at, tokens = served.maker(len(ids) + 1), 0, []
    for token in ids:
        start, at = at, at + len(maker.push(token))
        tokens.append({"id": token, "text": served.token_text(token), "start": start, "stop": at})
    return tokens


class _Asked:
    """What a request asks for. Raises Failure and NeuralbotError."""

    def __init__(self, served: Served, body: GenerateRequest, *, streaming: bool) -> None:
        self.served = served
        self.body = body
        self.parameters = wanted = body.parameters
        for name in ("watermark", "adapter_id"):
            if getattr(wanted, name):
                raise failures.invalid(f"{name} is not offered", name)
        if wanted.typical_p not in (None, 1):
            raise failures.invalid("typical_p is not offered: use top_p", "typical_p")
        self.count = wanted.best_of or 1
        if streaming and self.count > 1:
            raise failures.invalid("the best of several answers cannot be streamed", "best_of")
        self.sampling = sampling_of(wanted, OWN)
        if self.count > 1 and self.sampling.greedy:
            raise failures.invalid("best_of needs do_sample: true", "best_of")
        if wanted.details or self.count > 1 or streaming:
            self.sampling = replace(self.sampling, logprobs=True, top_logprobs=wanted.top_n_tokens or 0)

    async def choices(self) -> list[Choice]:
        ids = await self.served.text_ids(self.body.inputs)
        if self.parameters.truncate is not None:
            ids = ids[-self.parameters.truncate :]
        limit = self.served.budget(ids, self.sampling)
        samplings = several(self.sampling, self.count)
        return [Choice(ids, one, self.served.maker(limit, one.stop)) for one in samplings]

    def generated(self, text: str) -> str:
        return self.body.inputs + text if self.parameters.return_full_text else text

    def token(self, token: Token, text: str) -> dict[str, Any]:
        return {"id": token.id, "text": text, "logprob": token.logprob, "special": self.served.is_special(token.id)}

    def finish(self, choice: Choice) -> dict[str, Any]:
        reason = "length" if choice.finish == "length" else "stop_sequence" if choice.maker.stopped else "eos_token"
        seed = None if choice.sampling.greedy else choice.sampling.seed
        return {"finish_reason": reason, "generated_tokens": len(choice.ids), "seed": seed}


def sampling_of(wanted: Parameters, own: Sampling) -> Sampling:
    """Any value that only drawing can use asks for it, as in TGI. Raises GenerationError."""
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "frequency_penalty", "max_new_tokens", "seed")
    values: dict[str, Any] = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    drawn = wanted.do_sample or any(values.get(name) is not None for name in ("temperature", "top_k", "top_p"))
    values["do_sample"] = drawn and values.get("temperature") != 0
    if wanted.stop:
        values["stop"] = tuple(wanted.stop)
    if wanted.grammar is not None:
        value = wanted.grammar.value
        form = "regex" if wanted.grammar.type == "regex" else "json_schema"
        values[form] = value if isinstance(value, str) else json.dumps(value)
    return replace(own, **values)


async def _whole(request: Request, body: GenerateRequest) -> dict[str, Any]:
    asked = _Asked(desk.state_of(request).served, body, streaming=False)
    work = await desk.enter(request, asked.choices)
    prefill: list[dict[str, Any]] = []

    async def score() -> None:
        prefill.extend(await asked.served.prefill(work.choices[0].prompt))

    if asked.parameters.decoder_input_details and asked.parameters.details:
        work.first(score)
    texts = [""] * len(work.choices)
    tokens: list[list[Token]] = [[] for _ in work.choices]

    def note(step: Step) -> None:
        texts[step.index] += step.text
        tokens[step.index] += step.tokens

    await desk.finish(request, work, note)
    order = sorted(range(len(texts)), key=lambda index: _likelihood(tokens[index]), reverse=True)
    whole: dict[str, Any] = {"generated_text": asked.generated(texts[order[0]])}
    if asked.parameters.details:
        sequences = [
            {"generated_text": asked.generated(texts[index])}
            | _details(asked, work.choices[index], tokens[index], prefill)
            for index in order
        ]
        whole["details"] = {key: value for key, value in sequences[0].items() if key != "generated_text"}
        if len(sequences) > 1:
            whole["details"]["best_of_sequences"] = sequences[1:]
    return whole


def _likelihood(tokens: Sequence[Token]) -> float:
    return sum(token.logprob or 0.0 for token in tokens) / len(tokens) if tokens else float("-inf")


def _details(asked: _Asked, choice: Choice, tokens: Sequence[Token], prefill: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [asked.served.token_text(token.id) for token in tokens]
    details = asked.finish(choice) | {
        "prefill": prefill,
        "tokens": [asked.token(token, text) for token, text in zip(tokens, texts, strict=True)],
    }
    if asked.parameters.top_n_tokens:
        details["top_tokens"] = [_tops(asked, token) for token in tokens]
    return details


def _tops(asked: _Asked, token: Token) -> list[dict[str, Any]]:
    return [asked.token(Token(other, value, ""), asked.served.token_text(other)) for other, value in token.top]


async def _stream(request: Request, body: GenerateRequest) -> Response:
    state = desk.state_of(request)
    asked = _Asked(state.served, body, streaming=True)
    work = await desk.begin(await desk.enter(request, asked.choices))
    return events.EventStream(work, _events(asked, work), state.settings.stall_time)


async def _events(asked: _Asked, work: Work) -> AsyncIterator[bytes]:
    """An event a token; the one that ends the answer, or the end token itself, brings the details."""
    (choice,) = work.choices
    text, number = "", 0
    async for step in work.steps():
        if step is None:
            yield events.ping(work)
            continue
        text += step.text
        for place, token in enumerate(step.tokens):
            number += 1
            if number == choice.maker.limit or (choice.maker.stopped and place == len(step.tokens) - 1):
                last = token
                break
            yield _event(asked, number, token, token.text)
        if step.finish is not None:
            if number != choice.maker.limit and not choice.maker.stopped:
                last, number = Token(asked.served.end_id, 0.0, ""), number + 1
            details = asked.finish(choice) | {"input_length": len(choice.prompt)}
            yield _event(asked, number, last, last.text + step.rest, asked.generated(text), details)


def _event(
    asked: _Asked,
    number: int,
    token: Token,
    text: str,
    generated: str | None = None,
    details: dict[str, Any] | None = None,
) -> bytes:
    event = {"index": number, "token": asked.token(token, text), "generated_text": generated, "details": details}
    if asked.parameters.top_n_tokens:
        event["top_tokens"] = _tops(asked, token)
    return b"data:" + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
