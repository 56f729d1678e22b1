"""The contract of SageMaker's containers, /ping and /invocations, with the payloads of JumpStart's text models.

`inputs` is a question in the run's own prompt style, or a list of conversations; `text_inputs` with its values beside
it is the older form. The answers are `[{"generation": ...}]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from neuralbot.conversation import Turn
from neuralbot.engines.protocol import MAX_NEW_TOKENS, Sampling
from neuralbot.errors import GenerationError
from neuralbot.server import desk, failures
from neuralbot.server.bodies import Body, StrictRoute
from neuralbot.server.tgi import Parameters, Text, sampling_of
from neuralbot.server.work import Choice, Step

if TYPE_CHECKING:
    from neuralbot.server.served import Served

router = APIRouter(route_class=StrictRoute)

MOST_DIALOGS = 8


class DialogTurn(Body):
    role: Literal["system", "user", "assistant"]
    content: Text


Dialog = Annotated[list[DialogTurn], Field(min_length=1, max_length=256)]


class InvocationParameters(Parameters):
    max_length: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None


class Invocation(InvocationParameters):
    """The values stand beside `text_inputs`, or in `parameters` beside `inputs`."""

    inputs: Text | Annotated[list[Dialog], Field(min_length=1, max_length=MOST_DIALOGS)] | None = None
    text_inputs: Text | None = None
    parameters: InvocationParameters | None = None


@router.get("/ping")
async def ping(request: Request) -> Response:
    """Whether requests are taken."""
    if desk.state_of(request).stopping:
        raise failures.stopping()
    return JSONResponse({})


@router.post("/invocations")
async def invocations(request: Request, body: Invocation) -> Response:
    """Answers in the form that JumpStart's models have."""
    asked = _Asked(desk.state_of(request).served, body)
    work = await desk.enter(request, asked.choices)
    texts = [""] * len(work.choices)

    def note(step: Step) -> None:
        texts[step.index] += step.text

    await desk.finish(request, work, note)
    return JSONResponse([{"generation": asked.generation(text)} for text in texts])


@dataclass
class _Asked:
    """What a request asks for. Raises Failure and NeuralbotError."""

    served: Served
    body: Invocation

    async def choices(self) -> list[Choice]:
        if (self.body.inputs is None) == (self.body.text_inputs is None):
            raise failures.invalid("expected inputs or text_inputs, one of them", "inputs")
        return [await self._choice(turns) for turns in self._dialogs()]

    def generation(self, text: str) -> Any:
        if isinstance(self.body.inputs, list):
            return {"role": "assistant", "content": text}
        return self._question + text if self._parameters.return_full_text else text

    @property
    def _question(self) -> str:
        return str(self.body.text_inputs if self.body.inputs is None else self.body.inputs)

    @property
    def _parameters(self) -> InvocationParameters:
        return self.body.parameters or self.body

    def _dialogs(self) -> list[list[Turn]]:
        if isinstance(self.body.inputs, list):
            return [[Turn(one.role, one.content) for one in dialog] for dialog in self.body.inputs]
        return [[Turn("user", self._question)]]

    async def _choice(self, turns: list[Turn]) -> Choice:
        prompt = await self.served.chat_ids(self.served.system_turns(turns))
        sampling = self._sampling(len(prompt))
        limit = self.served.budget(prompt, sampling)
        return Choice(prompt, sampling, self.served.maker(limit, sampling.stop, lead=self.served.lead))

    def _sampling(self, prompt_length: int) -> Sampling:
        wanted, own = self._parameters, self.served.chatbot.sampling
        sampling = sampling_of(wanted, own)
        if wanted.do_sample is False and wanted.temperature is None and wanted.top_p is None and wanted.top_k is None:
            sampling = replace(sampling, do_sample=own.do_sample)  # nothing was said: as the run is served
        if wanted.max_length is not None and wanted.max_new_tokens is None:
            # The older form counts the prompt, too.
            if wanted.max_length <= prompt_length:
                raise GenerationError(
                    f"max_length={wanted.max_length} counts the prompt, which has {prompt_length} tokens: raise it, or "
                    "give max_new_tokens"
                )
            sampling = replace(sampling, max_new_tokens=wanted.max_length - prompt_length)
        return sampling
