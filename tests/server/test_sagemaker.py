"""SageMaker's contract, and the payloads that its page and its Lambda send."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from neuralbot.chatbot import Chatbot
from tests.server.conftest import Serve

QUESTION = "Who has the red bag?"
VALUES = {"max_new_tokens": 20, "top_p": 0.9, "temperature": 0.8, "return_full_text": False}
PAGE = {"inputs": QUESTION, "parameters": VALUES}
EVENT = {"text_inputs": QUESTION, "max_length": 50, "return_full_text": False}


def test_the_pages_payload_is_answered_with_a_list_of_generations(client: httpx.Client) -> None:
    (answer,) = client.post("/invocations", json=PAGE).json()
    assert set(answer) == {"generation"} and answer["generation"]
    full = PAGE | {"parameters": VALUES | {"return_full_text": True, "seed": 1}}
    (answer,) = client.post("/invocations", json=full).json()
    assert answer["generation"].startswith(QUESTION)


def test_without_values_the_run_answers_as_the_chatbot_does(client: httpx.Client, tiny_chatbot: Chatbot) -> None:
    expected = tiny_chatbot.predict(QUESTION)
    dialog = [{"role": "user", "content": QUESTION}]
    assert client.post("/invocations", json={"inputs": QUESTION}).json() == [{"generation": expected}]
    assert (
        client.post("/invocations", json={"inputs": [dialog, dialog]}).json()
        == [{"generation": {"role": "assistant", "content": expected}}] * 2
    )


def test_the_lambdas_event_counts_its_prompt(client: httpx.Client, tiny_chatbot: Chatbot) -> None:
    (answer,) = client.post("/invocations", json=EVENT).json()
    whole = tiny_chatbot.predict(QUESTION)
    assert answer["generation"] and whole.startswith(answer["generation"]) and len(answer["generation"]) < len(whole)
    refused = client.post("/invocations", json=EVENT | {"max_length": 3})
    assert refused.status_code == 400 and "max_length=3 counts the prompt" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": "x", "text_inputs": "x"},
        {"inputs": []},
        {"inputs": [[]]},
        {"inputs": "x", "parameters": {"top_p": 3}},
    ],
)
def test_wrong_payloads(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_ping_needs_no_key_and_ends_with_the_server(client: httpx.Client, serve: Serve) -> None:
    assert client.get("/ping").status_code == 200
    live = serve()
    live.state.stopping = True
    with live.client() as other:
        assert other.get("/ping").status_code == 503


def test_the_page_may_ask_from_its_own_origin(serve: Serve) -> None:
    """callAPI() posts JSON from a page: the browser asks first."""
    live = serve(allowed_origins=("https://page.example",))
    origin = {"Origin": "https://page.example"}
    with live.client() as client:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        asked = client.options("/invocations", headers=origin | ask)
        assert asked.status_code == 200 and asked.headers["access-control-allow-headers"]
        answer = client.post("/invocations", json=PAGE, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert answer.json()[0]["generation"]
