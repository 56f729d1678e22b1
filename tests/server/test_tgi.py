"""TGI's protocol: by huggingface_hub's client here, by the old text_generation client in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, OverloadedError, ValidationError

from neuralbot.chatbot import Chatbot
from neuralbot.conversation import encode_text
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from tests.server.conftest import Live, Serve

PROMPT = "Why is the sky blue?"


@pytest.fixture(scope="module")
def hub(live: Live) -> InferenceClient:
    return InferenceClient(live.url)


@pytest.fixture(scope="module")
def engine(tiny_chatbot: Chatbot) -> TorchEngine:
    assert isinstance(tiny_chatbot.engine, TorchEngine)
    return tiny_chatbot.engine


def greedy(engine: TorchEngine, count: int) -> tuple[list[int], str]:
    (ids,) = engine.generate_batch([encode_text(engine.tokenizer, PROMPT)], Sampling(max_new_tokens=count))
    return ids, engine.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_text_is_continued_as_it_is(hub: InferenceClient, engine: TorchEngine) -> None:
    ids, text = greedy(engine, 12)
    assert hub.text_generation(PROMPT, max_new_tokens=12) == text
    assert hub.text_generation(PROMPT, max_new_tokens=12, return_full_text=True) == PROMPT + text
    found = hub.text_generation(PROMPT, max_new_tokens=12, details=True, decoder_input_details=True)
    assert found.generated_text == text and found.details is not None
    assert found.details.finish_reason == "length" and found.details.generated_tokens == 12
    assert [token.id for token in found.details.tokens] == ids
    prompt = encode_text(engine.tokenizer, PROMPT)
    expected = engine.logprobs([*prompt, *ids])
    assert [token.logprob for token in found.details.tokens] == pytest.approx(expected[len(prompt) - 1 :], abs=1e-4)
    before = [token.logprob for token in found.details.prefill][1:]
    assert before == pytest.approx(expected[: len(prompt) - 1], abs=1e-4)


def test_a_stream_has_an_event_a_token_and_joins_to_the_text(hub: InferenceClient, engine: TorchEngine) -> None:
    ids, text = greedy(engine, 12)
    found = list(hub.text_generation(PROMPT, max_new_tokens=12, details=True, stream=True))
    assert [one.token.id for one in found] == ids
    assert "".join(one.token.text for one in found) == text == found[-1].generated_text
    assert found[-1].details is not None and found[-1].details.finish_reason == "length"
    assert found[-1].details.input_length == len(encode_text(engine.tokenizer, PROMPT))
    assert all(one.details is None and one.generated_text is None for one in found[:-1])
    assert [one.index for one in found] == list(range(1, 13))
    assert "".join(hub.text_generation(PROMPT, max_new_tokens=12, stream=True)) == text


def test_stop_sequences_and_seeds(hub: InferenceClient, engine: TorchEngine) -> None:
    _, text = greedy(engine, 30)
    stop = text[8:11]
    found = hub.text_generation(PROMPT, max_new_tokens=30, stop=[stop], details=True)
    assert found.generated_text == text[: text.index(stop)]
    assert found.details is not None and found.details.finish_reason == "stop_sequence"
    streamed = list(hub.text_generation(PROMPT, max_new_tokens=30, stop=[stop], details=True, stream=True))
    assert "".join(one.token.text for one in streamed) == streamed[-1].generated_text == found.generated_text
    values: Any = {"do_sample": True, "temperature": 1.5, "seed": 3, "max_new_tokens": 8}
    first = hub.text_generation(PROMPT, **values)
    assert first == hub.text_generation(PROMPT, **values) != hub.text_generation(PROMPT, **values | {"seed": 4})
    best = hub.text_generation(PROMPT, **values, best_of=3, details=True)
    assert best.details is not None and best.details.best_of_sequences is not None
    means = [
        sum(token.logprob for token in one.tokens) / len(one.tokens)
        for one in (best.details, *best.details.best_of_sequences)
    ]
    assert means == sorted(means, reverse=True) and len(means) == 3


def test_an_answer_that_ends_by_itself_ends_with_the_end_token(serve: Serve, tiny_chatbot: Chatbot) -> None:
    engine: Any = tiny_chatbot.engine
    end = engine.tokenizer.eos_token_id
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}}
    with serve().client() as client:
        biased = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 5, "logit_bias": {str(end): 100}})
        assert biased.json()["choices"][0]["finish_reason"] == "stop"
    whole = Sampling(max_new_tokens=5, logit_bias=((end, 100.0),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neuralbot.server.tgi.OWN", whole)
        with serve().client() as client:
            events = [
                json.loads(line.removeprefix("data:"))
                for line in client.post("/generate_stream", json=body).text.splitlines()
                if line
            ]
            assert client.post("/generate", json=body).json() == {"generated_text": ""}
    (only,) = events
    assert only["token"] | {"logprob": 0} == {"id": end, "text": "", "logprob": 0, "special": True}
    assert only["generated_text"] == "" and only["details"]["finish_reason"] == "eos_token"


def test_chats_by_the_same_client(hub: InferenceClient, tiny_chatbot: Chatbot) -> None:
    messages = [{"role": "user", "content": "Who has the red bag?"}]
    expected = tiny_chatbot.predict("Who has the red bag?")
    assert hub.chat_completion(messages, max_tokens=64).choices[0].message.content == expected
    pieces = [part.choices[0].delta.content or "" for part in hub.chat_completion(messages, max_tokens=64, stream=True)]
    assert "".join(pieces) == expected


def test_what_each_route_answers_with(client: httpx.Client) -> None:
    body = {"inputs": "x", "parameters": {"max_new_tokens": 2}}
    (listed,) = client.post("/", json=body).json()
    assert listed == client.post("/generate", json=body).json()
    streamed = [client.post("/generate_stream", json=body).text, client.post("/", json=body | {"stream": True}).text]
    assert streamed[0] == streamed[1] and "[DONE]" not in streamed[0]
    assert client.get("/").status_code == client.get("/health").status_code == 200
    info = client.get("/info").json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == ("tiny", 512, 511)


def test_tokens_of_a_text(client: httpx.Client, engine: TorchEngine) -> None:
    text = "Anna has a red bag, 你好"
    tokens = client.post("/tokenize", json={"inputs": text}).json()
    assert [token["id"] for token in tokens] == encode_text(engine.tokenizer, text)
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens[:6])
    assert tokens[-1]["stop"] == len(text)


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": -1},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
        {"top_p": 0},
        {"best_of": 9},
        {"best_of": 2},
        {"stop": ["x"] * 17},
        {"watermark": True},
        {"typical_p": 0.5},
        {"adapter_id": "other"},
        {"truncate": 0},
        {"grammar": {"type": "json", "value": {}}},
        {"seed": -1},
    ],
)
def test_wrong_values_in_tgis_form(client: httpx.Client, hub: InferenceClient, parameters: dict[str, Any]) -> None:
    for path in ("/", "/generate", "/generate_stream"):
        if path != "/generate_stream" or "best_of" not in parameters:
            answer = client.post(path, json={"inputs": "x", "parameters": parameters})
            assert answer.status_code == 422 and answer.json()["error_type"] == "validation", answer.text
            assert answer.json()["error"]


def test_errors_are_raised_by_the_client(serve: Serve, hub: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="top_p"):
        hub.text_generation(PROMPT, top_p=7.0)
    live = serve(slots=1, queue=0)
    place = live.state.admission.enter()
    with pytest.raises((OverloadedError, HfHubHTTPError)):
        InferenceClient(live.url).text_generation(PROMPT)
    live.uvicorn._loop.call_soon_threadsafe(place.leave)


OLD_CLIENT = """
import os
from text_generation import Client
from text_generation.errors import ValidationError

client = Client(os.environ["URL"], headers={"Authorization": "Bearer " + os.environ["KEY"]}, timeout=120)
prompt = "Why is the sky blue?"
print(repr(client.generate(prompt, max_new_tokens=16).generated_text))

def respond(message, chat_history, instruction, temperature=0.7):  # the notebook's, but for its prompt
    stream = client.generate_stream(message, max_new_tokens=16, stop_sequences=["\\nUser:", "<|endoftext|>"],
                                    temperature=temperature, seed=1)
    acc_text = ""
    for idx, response in enumerate(stream):
        text_token = response.token.text
        if response.details:
            print(response.details.finish_reason.value, response.details.generated_tokens)
            return
        acc_text += text_token
        yield acc_text

print(repr(list(respond(prompt, [], ""))[-1]))
best = client.generate(prompt, max_new_tokens=4, do_sample=True, best_of=2, decoder_input_details=True)
print(len(best.details.prefill), len(best.details.tokens), len(best.details.best_of_sequences))
try:
    client.generate("x " * 2000)
except ValidationError as error:
    print("refused", error)
"""


@pytest.fixture(scope="module")
def old_client(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An environment with the old client, which wants an older huggingface_hub; made once, kept by pytest's cache."""
    cache: Any = request.config.cache
    folder = cache.mkdir("text-generation")
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        install = [str(python), "-m", "pip", "install", "-q", "text-generation==0.7.0"]
        make = [[sys.executable, "-m", "venv", str(folder)], install]
        if any(subprocess.run(command, capture_output=True).returncode for command in make):
            pytest.skip("text-generation 0.7.0 cannot be installed here")
        (folder / "made").touch()
    yield python


@pytest.mark.slow
def test_the_notebook_of_the_old_client_runs_as_it_is(live: Live, old_client: Path, engine: TorchEngine) -> None:
    environment = os.environ | {"URL": live.url, "KEY": "none"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([old_client, "-c", OLD_CLIENT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == repr(greedy(engine, 16)[1])
    assert lines[1] == "length 16" and len(lines[2]) > 4
    assert lines[3] == f"{len(encode_text(engine.tokenizer, PROMPT))} 4 1"
    assert lines[4].startswith("refused") and "512" in lines[4]
