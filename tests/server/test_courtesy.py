"""What a client of a slow machine may expect: signs of life, a fair turn, a deadline; and its leaving is noticed."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from neuralbot.server import keys
from tests.server.conftest import Live, Serve
from tests.server.scripted import Scripted

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2000}


def begin(live: Live, body: dict[str, Any], path: str = CHAT) -> socket.socket:
    """A request on its way, on a connection of its own."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
    return connection


def until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_work_within_a_token(serve: Serve, tiny_tokenizer: Any, stream: bool) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.05)
    live = serve(chatbot=engine.chatbot())
    connection = begin(live, ASK | {"stream": stream})
    until(lambda: engine.made > 3)
    connection.close()
    made = engine.made
    until(lambda: not engine.running)
    assert engine.made - made <= 4  # a token, and the time that the machine takes to tell us
    live.wait_until_idle()


def test_a_client_that_leaves_the_queue_makes_room_and_is_never_worked_for(serve: Serve, tiny_tokenizer: Any) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.02)
    live = serve(chatbot=engine.chatbot(), slots=1, queue=1)
    first = begin(live, ASK)
    until(lambda: engine.running)
    for stream in (True, False):
        second = begin(live, ASK | {"stream": stream})
        until(lambda: len(live.state.admission) == 2)
        second.close()
        until(lambda: len(live.state.admission) == 1)
    first.close()
    live.wait_until_idle()
    assert len(engine.prompts) == 1


def test_who_waits_is_told_its_place_and_then_that_it_is_read(serve: Serve, tiny_tokenizer: Any) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.3)
    live = serve(chatbot=engine.chatbot(), slots=1, queue=5, ping=0.1)
    first = begin(live, ASK)
    until(lambda: engine.running)
    with httpx.stream("POST", live.url + CHAT, json=ASK | {"max_tokens": 2, "stream": True}) as answer:
        lines = answer.iter_lines()
        waiting = next(line for line in lines if line.startswith(":"))
        first.close()
        rest = [line for line in lines if line]
    assert waiting == ": waiting, 0 before you"
    assert any(line.startswith(": reading ") for line in rest)
    assert rest[-1] == "data: [DONE]"


def test_clients_pass_over_the_pings(serve: Serve, tiny_tokenizer: Any) -> None:
    import openai
    from huggingface_hub import InferenceClient

    live = serve(chatbot=Scripted(tiny_tokenizer, delay=0.3).chatbot(), ping=0.05)
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as ai:
        chunks = ai.chat.completions.create(model="tiny", messages=ASK["messages"], max_tokens=3, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "aaa"
    hub = InferenceClient(live.url)
    assert "".join(hub.text_generation("x", max_new_tokens=3, stream=True)) == "aaa"


def test_a_deadline_ends_whole_answers_and_streams(serve: Serve, tiny_tokenizer: Any) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.05)
    live = serve(chatbot=engine.chatbot(), deadline=0.5)
    with live.client() as client:
        late = client.post(CHAT, json=ASK)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        events = [line for line in client.post(CHAT, json=ASK | {"stream": True}).text.splitlines() if line]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "timeout" and len(events) > 3
        tgi = client.post("/generate_stream", json={"inputs": "x", "parameters": {"max_new_tokens": 2000}})
        assert json.loads(tgi.text.splitlines()[-2].removeprefix("data: "))["error_type"] == "generation"
    until(lambda: not engine.running)


def test_a_reader_that_takes_nothing_is_dropped_and_holds_up_nobody(serve: Serve, tiny_tokenizer: Any) -> None:
    engine = Scripted(tiny_tokenizer, context=60000)
    live = serve(chatbot=engine.chatbot(), stall_time=1, deadline=100)
    stuck = begin(live, ASK | {"max_tokens": 32768, "stream": True})
    until(lambda: engine.running)
    with live.client() as client:
        assert client.post(CHAT, json=ASK | {"max_tokens": 3}).status_code == 200
    live.wait_until_idle(60)
    stuck.close()


def test_a_light_key_is_served_soon_beside_a_greedy_one(serve: Serve, tiny_tokenizer: Any, tmp_path: Any) -> None:
    path = tmp_path / "keys.txt"
    greedy, light = keys.make("greedy", path), keys.make("light", path)
    engine = Scripted(tiny_tokenizer, delay=0.005)
    live = serve(keys=keys.read(path), chatbot=engine.chatbot(), slots=2, queue=60)
    body = ASK | {"max_tokens": 20}

    def ask() -> None:
        with live.client(greedy) as client:
            assert client.post(CHAT, json=body).status_code == 200

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    until(lambda: len(live.state.admission) > 20)
    with live.client(light) as client:
        before = len(engine.prompts)
        assert client.post(CHAT, json=body).status_code == 200
        assert len(engine.prompts) - before < 8, "the greedy key's queue went first"
    for thread in threads:
        thread.join()


def test_many_choices_share_the_slots_of_one_request(serve: Serve, tiny_tokenizer: Any) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.01)
    live = serve(chatbot=engine.chatbot(), slots=2)
    most = 0

    def watch() -> None:
        nonlocal most
        while len(engine.prompts) < 8 or engine.running:
            most = max(most, engine.running)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    with live.client() as client:
        answer = client.post(CHAT, json=ASK | {"n": 8, "max_tokens": 10}).json()
    thread.join()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a" * 10] * 8
    assert most == 2


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_disconnects_leave_no_slot_taken(serve: Serve, tiny_tokenizer: Any, count: int) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.002)
    live = serve(chatbot=engine.chatbot(), slots=4, queue=16)
    chance = random.Random(0)
    threads_before = threading.active_count()
    with live.client() as client:
        for number in range(count):
            path = chance.choice([CHAT, "/v1/completions", "/generate_stream", "/generate"])
            body = {"prompt": "x", "inputs": "x"} | ASK | {"stream": chance.random() < 0.5}
            connection = begin(live, body | {"parameters": {"max_new_tokens": 500}}, path)
            time.sleep(chance.random() * 0.02)
            if chance.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
            connection.close()
            if number % 20 == 0:
                assert client.get("/health").status_code == 200
        live.wait_until_idle(30)
        until(lambda: not engine.running)
        assert live.state.admission.busy == 0 and not live.state.works
        assert client.post(CHAT, json=ASK | {"max_tokens": 3}).json()["choices"][0]["message"]["content"] == "aaa"
    assert threading.active_count() <= threads_before + live.state.settings.slots + 4
