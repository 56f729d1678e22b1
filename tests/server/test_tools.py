"""Calls of tools: written and read as each template has them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from neuralbot.errors import ModelError
from neuralbot.server.openai import calls
from tests.server.conftest import Serve
from tests.server.scripted import Scripted
from tests.test_template_families import CALLED, WRITTEN, call, tokenizer_of, tool

READ = [name for name in WRITTEN if name != "deepseek"]
ARGUMENTS = {"city": "Paris", "days": 3}
TOOL = tool()
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Is it warm in Paris?"}], "tools": [TOOL]}


def client_of(serve: Serve, engine: Scripted) -> openai.OpenAI:
    live = serve(chatbot=engine.chatbot())
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def written(name: str) -> str:
    """A call as the family writes it, without its end token."""
    return WRITTEN[name].rpartition("</s>" if WRITTEN[name].endswith("</s>") else "<|")[0]


@pytest.mark.parametrize("name", READ)
def test_what_a_template_writes_is_read_back(name: str) -> None:
    form = calls.form_of(tokenizer_of(name, "byte fallback"))
    (found,) = form.read(written(name))
    assert found["function"]["name"] == "get_weather" and json.loads(found["function"]["arguments"]) == ARGUMENTS
    assert form.read("The weather is fine.") == form.read(f"{form.opening} {{broken") == []


def test_a_form_that_is_no_json_is_refused() -> None:
    with pytest.raises(ModelError, match="no JSON"):
        calls.form_of(tokenizer_of("deepseek", "byte fallback"))
    with pytest.raises(ModelError, match="cannot render tools"):
        calls.form_of(tokenizer_of("vicuna", "byte fallback"))


@pytest.mark.parametrize("name", READ)
def test_a_call_whole_and_streamed(serve: Serve, name: str) -> None:
    engine = Scripted(tokenizer_of(name, "byte fallback"), written(name))
    with client_of(serve, engine) as ai:
        choice = ai.chat.completions.create(**ASK).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert choice.message.tool_calls is not None
        (called,) = choice.message.tool_calls
        assert called.type == "function" and called.function.name == "get_weather"
        assert json.loads(called.function.arguments) == ARGUMENTS
        chunks = list(ai.chat.completions.create(**ASK, stream=True))
        (delta,) = [chunk.choices[0].delta for chunk in chunks if chunk.choices[0].delta.tool_calls]
        assert delta.tool_calls is not None and delta.tool_calls[0].function is not None
        assert json.loads(delta.tool_calls[0].function.arguments or "") == ARGUMENTS
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        assert not "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_text_before_two_calls(serve: Serve) -> None:
    text = "I look it up. " + written("qwen2.5") + "\n" + written("qwen2.5").replace("Paris", "Rome")
    engine = Scripted(tokenizer_of("qwen2.5", "byte fallback"), text)
    with client_of(serve, engine) as ai:
        message = ai.chat.completions.create(**ASK).choices[0].message
        assert message.content == "I look it up." and message.tool_calls is not None
        cities = [json.loads(one.function.arguments)["city"] for one in message.tool_calls if one.type == "function"]
        assert cities == ["Paris", "Rome"]
        streamed = "".join(
            chunk.choices[0].delta.content or "" for chunk in ai.chat.completions.create(**ASK, stream=True)
        )
        assert streamed == "I look it up. "


def test_an_answer_without_a_call_is_text(serve: Serve) -> None:
    for text in ("It is warm.", "<tool_call> broken"):
        engine = Scripted(tokenizer_of("qwen2.5", "byte fallback"), text)
        with client_of(serve, engine) as ai:
            choice = ai.chat.completions.create(**ASK).choices[0]
            assert (choice.message.content, choice.finish_reason) == (text, "stop")
            streamed = ai.chat.completions.create(**ASK, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text


def test_a_forced_call_is_begun_for_the_model(serve: Serve) -> None:
    tokenizer = tokenizer_of("qwen2.5", "byte fallback")
    rest = written("qwen2.5").removeprefix("<tool_call>")
    engine = Scripted(tokenizer, rest)
    with client_of(serve, engine) as ai:
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            message = ai.chat.completions.create(**ASK, tool_choice=choice).choices[0].message
            assert message.tool_calls is not None and json.loads(message.tool_calls[0].function.arguments) == ARGUMENTS
            assert tokenizer.decode(engine.prompts[-1]).endswith("<tool_call>")
        ai.chat.completions.create(**ASK, tool_choice="none")
        assert "get_weather" not in tokenizer.decode(engine.prompts[-1])
        other = ASK | {"tools": [TOOL, tool("other")]}
        ai.chat.completions.create(**other, tool_choice={"type": "function", "function": {"name": "other"}})
        assert "get_weather" not in tokenizer.decode(engine.prompts[-1])
        with pytest.raises(openai.BadRequestError, match="'missing'"):
            ai.chat.completions.create(**ASK, tool_choice={"type": "function", "function": {"name": "missing"}})


def test_the_schema_of_a_forced_call() -> None:
    form = calls.form_of(tokenizer_of("mistral", "byte fallback"))
    schema = json.loads(form.schema([TOOL, tool("other")]))
    assert schema["type"] == "array" and len(schema["items"]["anyOf"]) == 2
    assert schema["items"]["anyOf"][1]["properties"]["name"] == {"const": "other"}


def test_calls_and_results_of_earlier_turns_are_rendered(serve: Serve) -> None:
    engine = Scripted(tokenizer_of("qwen2.5", "byte fallback"), "It is warm.")
    earlier = call("get_weather", ARGUMENTS)
    earlier["function"]["arguments"] = json.dumps(ARGUMENTS)
    messages = [
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": [earlier]},
        {"role": "tool", "tool_call_id": earlier["id"], "content": "20 degrees", "name": "get_weather"},
    ]
    with client_of(serve, engine) as ai:
        answer = ai.chat.completions.create(**ASK | {"messages": messages})
        assert answer.choices[0].message.content == "It is warm."
        text = engine.tokenizer.decode(engine.prompts[0])
        assert CALLED.tool_calls and written("qwen2.5") in text and "20 degrees" in text
        earlier["function"]["arguments"] = "no JSON"
        with pytest.raises(openai.BadRequestError, match="no JSON"):
            ai.chat.completions.create(**ASK | {"messages": messages})
