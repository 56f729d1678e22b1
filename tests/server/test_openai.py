"""OpenAI's protocol by its own client, held against the chatbot and the engine in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from neuralbot.chatbot import Chatbot
from neuralbot.conversation import Turn, encode_prompt, encode_text
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from tests.server.conftest import Live

ASK: Any = [{"role": "user", "content": "Who has the red bag?"}]
TURNS = [Turn("user", "Who has the red bag?")]


@pytest.fixture(scope="module")
def ai(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def engine(tiny_chatbot: Chatbot) -> TorchEngine:
    assert isinstance(tiny_chatbot.engine, TorchEngine)
    return tiny_chatbot.engine


def test_a_chat_is_what_the_chatbot_answers(ai: openai.OpenAI, tiny_chatbot: Chatbot) -> None:
    expected = tiny_chatbot.predict("Who has the red bag?")
    answer = ai.chat.completions.create(model="tiny", messages=ASK)
    assert answer.choices[0].message.content == expected
    prompt = encode_prompt(tiny_chatbot.engine.tokenizer, TURNS)
    assert answer.usage is not None and answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 64 and answer.choices[0].finish_reason == "length"
    parts = [{"type": "text", "text": "Who has the red bag?"}]
    asked: Any = [{"role": "user", "content": parts}]
    assert ai.chat.completions.create(model="tiny", messages=asked).choices[0].message.content == expected


def test_a_stream_joins_to_the_answer_and_ends_with_the_usage(ai: openai.OpenAI, tiny_chatbot: Chatbot) -> None:
    chunks = list(
        ai.chat.completions.create(
            model="tiny", messages=ASK, stream=True, max_tokens=20, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert (
        "".join(texts)
        == ai.chat.completions.create(model="tiny", messages=ASK, max_tokens=20).choices[0].message.content
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert not chunks[-1].choices and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 20
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_bytes_of_a_stream(client: httpx.Client) -> None:
    body = {"messages": ASK, "max_tokens": 3, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        text = answer.read().decode()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-2])


def test_seeds_draw_what_the_engine_draws_with_them(ai: openai.OpenAI, engine: TorchEngine) -> None:
    values: Any = {"model": "tiny", "messages": ASK, "temperature": 1.5, "max_tokens": 12, "seed": 5}
    answers = [choice.message.content for choice in ai.chat.completions.create(**values, n=3).choices]
    again = [choice.message.content for choice in ai.chat.completions.create(**values | {"seed": 6}, n=2).choices]
    assert answers[1:] == again and len(set(answers)) > 1
    sampling = Sampling(temperature=1.5, max_new_tokens=12, do_sample=True, seed=5, top_k=40, top_p=0.75)
    ids = list(engine.stream(encode_prompt(engine.tokenizer, TURNS), sampling))
    assert answers[0] == engine.tokenizer.decode(ids, skip_special_tokens=True)
    streamed = [""] * 3
    for chunk in ai.chat.completions.create(**values, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == answers


def test_stop_strings_cut_and_are_left_out(ai: openai.OpenAI) -> None:
    whole = ai.chat.completions.create(model="tiny", messages=ASK).choices[0].message.content or ""
    stop = whole[10:14]
    answer = ai.chat.completions.create(model="tiny", messages=ASK, stop=["@@@@", stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens < 64


def test_logit_bias_and_penalties_change_what_is_picked(ai: openai.OpenAI, engine: TorchEngine) -> None:
    first, second = (engine.tokenizer.convert_tokens_to_ids(letter) for letter in "xz")

    def answer(**values: Any) -> str | None:
        return ai.chat.completions.create(model="tiny", messages=ASK, max_tokens=8, **values).choices[0].message.content

    assert answer(logit_bias={str(first): 60}) == "x" * 8
    assert answer(logit_bias={str(first): -100, str(second): 60}) == "z" * 8
    both = {str(first): 61, str(second): 60}
    assert answer(logit_bias=both) == "x" * 8
    assert answer(logit_bias=both, presence_penalty=2) == "xzxxxxxx"
    assert answer(logit_bias=both, frequency_penalty=2) == "xzxzxzxz"
    assert answer(logit_bias=both, presence_penalty=0.1, frequency_penalty=0) == "x" * 8


def test_logprobs_of_a_chat_are_the_models(ai: openai.OpenAI, engine: TorchEngine) -> None:
    prompt = encode_prompt(engine.tokenizer, TURNS)
    answer = ai.chat.completions.create(model="tiny", messages=ASK, max_tokens=6, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs
    assert entries is not None and entries.content is not None and len(entries.content) == 6
    (ids,) = engine.generate_batch([prompt], Sampling(max_new_tokens=6))
    expected = engine.logprobs([*prompt, *ids])[len(prompt) - 1 :]
    assert [entry.logprob for entry in entries.content] == pytest.approx(expected, abs=1e-4)
    for entry in entries.content:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
        assert bytes(entry.bytes or ()).decode() == entry.token


def test_completions_continue_a_text_by_the_models_own_choice(ai: openai.OpenAI, engine: TorchEngine) -> None:
    ids = encode_text(engine.tokenizer, "The capital of")
    (expected,) = engine.generate_batch([ids], Sampling(max_new_tokens=10))
    text = engine.tokenizer.decode(expected, skip_special_tokens=True)
    for prompt in ("The capital of", ids):
        answer = ai.completions.create(model="tiny", prompt=prompt, max_tokens=10, temperature=0)
        assert answer.choices[0].text == text
    streamed = ai.completions.create(model="tiny", prompt=ids, max_tokens=10, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text


def test_several_prompts_have_their_answers_in_order(ai: openai.OpenAI) -> None:
    prompts = ["The capital", "Anna has", "Monday"]
    single = [ai.completions.create(model="tiny", prompt=one, temperature=0).choices[0].text for one in prompts]
    answer = ai.completions.create(model="tiny", prompt=prompts, temperature=0, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text for choice in answer.choices] == [text for text in single for _ in range(2)]


def test_echo_scores_the_prompt_as_the_model_does(ai: openai.OpenAI, engine: TorchEngine) -> None:
    ids = encode_text(engine.tokenizer, "Spring, summer, autumn and winter")
    expected = engine.logprobs(ids)
    for new in (0, 1):
        answer = ai.completions.create(
            model="tiny", prompt=[ids, ids], max_tokens=new, echo=True, logprobs=2, temperature=0
        )
        for choice in answer.choices:
            found = choice.logprobs
            assert found is not None and found.token_logprobs is not None and found.tokens is not None
            assert found.token_logprobs[0] is None
            assert found.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
            assert len(found.token_logprobs) == len(ids) + new
            assert "".join(found.tokens) == choice.text
            assert found.text_offset is not None and choice.text[found.text_offset[3] :].startswith(found.tokens[3])
            for logprob, top in list(zip(found.token_logprobs, found.top_logprobs or (), strict=True))[1:]:
                assert 2 <= len(top) <= 3 and max(top.values()) >= (logprob or 0)
        assert answer.usage is not None and answer.usage.prompt_tokens == 2 * len(ids)


def test_best_of_gives_the_likeliest(ai: openai.OpenAI) -> None:
    values: Any = {"model": "tiny", "prompt": "Anna", "max_tokens": 6, "seed": 1, "temperature": 1.5, "logprobs": 0}

    def likelihood(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    all_of = ai.completions.create(**values, n=4).choices
    best = ai.completions.create(**values, best_of=4).choices
    assert len(best) == 1 and best[0].text == max(all_of, key=likelihood).text


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("chat/completions", {"temperature": -1}, "temperature"),
        ("chat/completions", {"temperature": 1e308}, "temperature"),
        ("chat/completions", {"top_p": 0}, "top_p"),
        ("chat/completions", {"top_p": 2}, "top_p"),
        ("chat/completions", {"top_k": -5}, "top_k"),
        ("chat/completions", {"n": 9}, "n"),
        ("chat/completions", {"n": 0}, "n"),
        ("chat/completions", {"max_tokens": 10**9}, "max_tokens"),
        ("chat/completions", {"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"seed": 2**80}, "seed"),
        ("chat/completions", {"stop": ["x"] * 17}, "stop"),
        ("chat/completions", {"stop": [""]}, "stop.0"),
        ("chat/completions", {"logit_bias": {"x": 1}}, "logit_bias.x"),
        ("chat/completions", {"logit_bias": {"5": 101}}, "logit_bias.5"),
        ("chat/completions", {"logit_bias": {"999999": 1}}, None),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}] * 257}, "messages"),
        ("chat/completions", {"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role"),
        ("chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, None),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("completions", {"best_of": 1, "n": 2}, "best_of"),
        ("completions", {"logprobs": 10**9}, "logprobs"),
        ("completions", {"max_tokens": 0}, "max_tokens"),
        ("completions", {"prompt": [[1]] * 17}, None),
        ("completions", {"prompt": [-1]}, None),
        ("completions", {"prompt": [10**6]}, None),
        ("completions", {"prompt": ""}, None),
        ("completions", {"prompt": []}, None),
        ("completions", {"stream": "yes"}, "stream"),
    ],
)
def test_values_out_of_range_are_named(
    client: httpx.Client, path: str, change: dict[str, Any], param: str | None
) -> None:
    body = {"messages": ASK} if path.startswith("chat") else {"prompt": "x"}
    answer = client.post(f"/v1/{path}", json=body | change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and (param is None or error["param"] == param), error


def test_what_does_not_fit_the_context_is_told_with_both_numbers(ai: openai.OpenAI, engine: TorchEngine) -> None:
    for prompt in ([7] * 512, [7] * 600, "a" * 100_000):
        with pytest.raises(openai.BadRequestError, match=r"at most 512") as refused:
            ai.completions.create(model="tiny", prompt=prompt)
        assert refused.value.code == "context_length_exceeded"
    answer = ai.completions.create(model="tiny", prompt=[7] * 511, max_tokens=9)
    assert answer.usage is not None and answer.usage.completion_tokens == 1
    assert answer.choices[0].finish_reason == "length"


def test_models_are_listed_and_others_refused(ai: openai.OpenAI) -> None:
    assert [model.id for model in ai.models.list()] == ["tiny"]
    assert ai.models.retrieve("tiny").owned_by == "neuralbot"
    for ask in (lambda: ai.models.retrieve("gpt-4"), lambda: ai.chat.completions.create(model="gpt-4", messages=ASK)):
        with pytest.raises(openai.NotFoundError) as refused:
            ask()
        assert refused.value.code == "model_not_found"


def test_unknown_addresses_and_methods_in_the_same_form(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("PUT", "/v1/models", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_fields_are_let_be_and_penalties_of_zero_are_none(ai: openai.OpenAI) -> None:
    plain = ai.chat.completions.create(model="tiny", messages=ASK, max_tokens=5)
    more = ai.chat.completions.create(
        model="tiny",
        messages=ASK,
        max_tokens=5,
        frequency_penalty=0,
        presence_penalty=0,
        user="somebody",
        extra_body={"something": {"new": 1}, "top_k": -1},
    )
    assert plain.choices[0].message.content == more.choices[0].message.content


def test_a_schema_needs_the_openvino_engine(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="OpenVINO"):
        ai.chat.completions.create(model="tiny", messages=ASK, response_format={"type": "json_object"})
    with pytest.raises(openai.BadRequestError, match="OpenVINO"):
        ai.chat.completions.create(model="tiny", messages=ASK, response_format={"type": "json_object"}, stream=True)


def test_a_prompt_without_tokens_is_refused_whatever_is_asked_of_it(live: Live) -> None:
    for more in ({}, {"max_tokens": 0, "echo": True}, {"max_tokens": 0, "echo": True, "logprobs": 1}):
        answer = httpx.post(f"{live.url}/v1/completions", json={"prompt": "", **more})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"
