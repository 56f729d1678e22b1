"""The server over the OpenVINO engine: its answers come without a thread each, and may be held to a grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from neuralbot.arguments import ServingArguments
from neuralbot.chatbot import Chatbot
from neuralbot.conversation import Turn, encode_prompt
from neuralbot.engines.openvino_engine import OpenVinoEngine
from neuralbot.engines.protocol import Sampling
from neuralbot.server.keys import Keys
from neuralbot.server.settings import Settings
from tests.server.conftest import Live
from tests.server.test_courtesy import until

if TYPE_CHECKING:
    from neuralbot.engines.openvino_engine import Exported

ASK: Any = [{"role": "user", "content": "Who has the red bag?"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def engine(exported: Exported, tiny_tokenizer: Any) -> OpenVinoEngine:
    """The end token is one again: a grammar needs it to end. The answers below are shown not to draw it."""
    return OpenVinoEngine(replace(exported, end_ids=frozenset({tiny_tokenizer.eos_token_id})), tiny_tokenizer)


@pytest.fixture(scope="module")
def live(engine: OpenVinoEngine) -> Iterator[Live]:
    serving = ServingArguments(do_sample=False, repetition_penalty=1.0)
    server = Live(Chatbot(engine, serving, name="tiny"), Settings(port=0, slots=2), Keys({}))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ai(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_and_its_stream_are_what_the_engine_says(ai: openai.OpenAI, engine: OpenVinoEngine) -> None:
    prompt = encode_prompt(engine.tokenizer, [Turn("user", "Who has the red bag?")])
    ids = list(engine.stream(prompt, Sampling(max_new_tokens=20)))
    expected = engine.tokenizer.decode(ids, skip_special_tokens=True)
    ask: Any = {"model": "tiny", "messages": ASK, "max_tokens": 20, "temperature": 0}
    whole = ai.chat.completions.create(**ask)
    assert len(ids) == 20 and whole.choices[0].message.content == expected
    assert whole.usage is not None and whole.usage.completion_tokens == 20
    parts = [chunk.choices[0].delta.content or "" for chunk in ai.chat.completions.create(**ask, stream=True)]
    assert "".join(parts) == expected and len([part for part in parts if part]) > 1


def test_an_answer_is_held_to_a_schema(ai: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    for seed in range(3):
        answer = ai.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=200, temperature=1, seed=seed, response_format=form
        )
        assert json.loads(answer.choices[0].message.content or "")["a"] in ("x", "y")


def test_a_stream_that_is_left_ends_in_the_engine(
    live: Live, engine: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    stream = engine.stream
    monkeypatch.setattr(engine, "stream", lambda *asked: answers.append(stream(*asked)) or answers[-1])
    body = {"messages": ASK, "max_tokens": 450, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    live.wait_until_idle(5)
    until(lambda: engine._workers["plain"].running == 0)
    assert len(answers[0].logprobs) < 440, "it was read to its end"
    with live.client() as client:
        assert client.post("/v1/chat/completions", json=body | {"max_tokens": 2, "stream": False}).status_code == 200
