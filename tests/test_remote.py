"""Remote models behind the chatbot, against a server on the loopback that records what it is asked."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from neuralbot.chatbot import Chatbot, build_chatbot
from neuralbot.conversation import Turn
from neuralbot.engines.remote import RemoteEngine
from neuralbot.errors import GenerationError, ModelError
from neuralbot.neural_chat import GenerationConfig, PipelineConfig
from neuralbot.neural_chat.config import OpenAIConfig
from neuralbot.transformers import MixedPrecisionConfig

KEY = "sk-secret-0123456789"
PIECES = ["Paris", " is", " it", ".\n", "Yes", "\u00e9"]


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {"role": "assistant"} if content is None else {"content": content}
    choices = [] if "usage" in more else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": choices, **more}


USAGE = chunk(usage={"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17})
ANSWER = [chunk(), *map(chunk, PIECES), chunk("", "stop"), USAGE]


class Server(ThreadingHTTPServer):
    """Answers each request as `act` says; keeps the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.act: Callable[[Handler], None] = lambda handler: handler.send_chunks(ANSWER)
        self.broken_pipe = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that are cut on purpose need no traceback."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
        self.server.act(self)

    def send_chunks(self, chunks: list[dict[str, Any]], *, done: bool = True) -> None:
        self.start()
        for item in chunks:
            self.event(json.dumps(item))
        if done:
            self.event("[DONE]")
        self.end()

    def start(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def send_json(self, status: int, content: object) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def openai(**more: Any) -> Chatbot:
    return build_chatbot(PipelineConfig("gpt-4o-mini", openai_config=OpenAIConfig(KEY, "org-1"), **more))


def endpoint(server: Server, **more: Any) -> Chatbot:
    return build_chatbot(PipelineConfig(hf_endpoint_url=server.url, hf_access_token="hf_secret", **more))


def test_openai_is_asked_in_its_protocol(server: Server) -> None:
    chatbot = openai()
    assert chatbot.predict("Where?", history=[Turn("user", "Hi"), Turn("assistant", "Yes?")], seed=4) == "".join(PIECES)
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}" and headers["openai-organization"] == "org-1"
    assert body == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Where?"},
        ],
        "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.1, "top_p": 0.75, "max_tokens": 256, "seed": 4,
    }  # fmt: skip


def test_sampling_values_are_sent_as_the_protocol_has_them(server: Server) -> None:
    chatbot = openai()
    chatbot.set_customized_system_prompts("Be brief.")
    config = GenerationConfig(do_sample=False, max_new_tokens=7)
    chatbot.predict("Where?", config=config, stop=["\n"])
    body = server.asked[0][2]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.0, 7, ["\n"])
    assert not {"top_p", "seed", "top_k", "repetition_penalty"} & body.keys()


def test_neural_chats_way_of_messages_works(server: Server) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    assert openai().predict(messages) == "".join(PIECES)
    assert server.asked[0][2]["messages"] == messages


def test_an_endpoint_gets_the_values_beyond_the_protocol_too(server: Server) -> None:
    chatbot = endpoint(server)
    pieces, links = chatbot.predict_stream("Where?")
    assert ([*pieces], links) == (PIECES, [])
    path, headers, body = server.asked[0]
    assert (path, headers["authorization"], body["model"]) == ("/v1/chat/completions", "Bearer hf_secret", "tgi")
    assert (body["top_k"], body["repetition_penalty"]) == (40, 1.1)
    assert any("some servers (TGI) do not read them" in notice for notice in chatbot.notices)
    named = endpoint(server, model_name_or_path="my/model")
    named.predict("Where?")
    assert server.asked[1][2]["model"] == "my/model"


def test_lengths_are_those_the_server_tells(server: Server) -> None:
    config = GenerationConfig(return_stats=True, format_version="v1")
    stats = json.loads(openai().predict("Where?", config=config).partition("END_OF_STREAM_STATS=")[2])
    assert (stats["input_token_len"], stats["output_token_len"]) == (11, 6)
    assert stats["first_token_latency"] <= stats["duration"]
    server.act = lambda handler: handler.send_chunks(ANSWER[:-1])
    table = openai().predict("Where?", config=replace(config, format_version="v2"))
    assert f"| {'output_token_len':<22} | {'not known':<27} |" in table


def test_times_are_those_of_the_pieces(server: Server) -> None:
    def slowly(handler: Handler) -> None:
        handler.start()
        for item in ANSWER:
            handler.event(json.dumps(item))
            time.sleep(0.03)
        handler.event("[DONE]")
        handler.end()

    server.act = slowly
    config = GenerationConfig(return_stats=True, format_version="v1")
    stats = json.loads(openai().predict("Where?", config=config).partition("END_OF_STREAM_STATS=")[2])
    assert stats["next_token_latency"] >= 29
    assert stats["first_token_latency"] + 5 * stats["next_token_latency"] <= stats["duration"] - 50


def test_the_reason_of_the_end_is_the_servers(server: Server) -> None:
    reply = openai().reply([Turn("user", "Where?")], openai().sampling)
    assert ("".join(reply), reply.finish_reason) == ("".join(PIECES), "stop")
    server.act = lambda handler: handler.send_chunks([chunk("cut"), chunk("", "length")])
    reply = openai().reply([Turn("user", "Where?")], openai().sampling)
    assert ("".join(reply), reply.finish_reason) == ("cut", "length")


def test_closing_a_stream_ends_the_connection(server: Server) -> None:
    def endless(handler: Handler) -> None:
        handler.start()
        try:
            while True:
                handler.event(json.dumps(chunk("more ")))
        except OSError:
            handler.close_connection = True
            server.broken_pipe.set()

    server.act = endless
    reply = openai().reply([Turn("user", "Where?")], openai().sampling)
    assert next(reply) == "more "
    assert not server.broken_pipe.is_set()
    reply.close()
    assert server.broken_pipe.wait(10)


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (
            401,
            {"error": {"message": f"bad key {KEY}"}},
            "answered 401 .the key is not accepted: check it.: bad key ...",
        ),
        (429, {"error": {"message": "slow down"}}, "answered 429 .too many requests.*: slow down"),
        (404, {"error": "Model not found", "error_type": "x"}, "answered 404 .*: Model not found"),
        (500, "<html>oh</html>", "answered 500 .it failed.: <html>oh</html>"),
        (503, "", "answered 503 .the server is starting"),
    ],
)
def test_refusals_are_told_with_status_and_reason_but_no_key(
    server: Server, status: int, content: object, message: str
) -> None:
    server.act = lambda handler: handler.send_json(status, content)
    with pytest.raises(GenerationError, match=f"the server http://127.0.0.1:[0-9]+/v1 {message}") as caught:
        openai().predict("Where?")
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.code == 5008


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda handler: handler.send_chunks([chunk("a")]), "ended its answer without saying why"),
        (
            lambda handler: handler.send_chunks([chunk("a"), {"error": {"message": "no memory"}}]),
            "sent an error.*memory",
        ),
        (lambda handler: handler.send_chunks([chunk("a"), {"error": "no", "error_type": "overloaded"}]), "error: no"),
        (lambda handler: (handler.start(), handler.event("{broken"), handler.end()), "sent what is no answer"),
        (lambda handler: (handler.start(), handler.connection.shutdown(socket.SHUT_RDWR)), "broke the connection off"),
    ],
    ids=["no reason", "error", "tgi error", "no json", "cut"],
)
def test_answers_that_break_are_no_answers(server: Server, act: Any, message: str) -> None:
    server.act = act
    with pytest.raises(GenerationError, match=message):
        openai().predict("Where?")


def test_a_silent_server_is_not_waited_for_without_end(server: Server) -> None:
    release = threading.Event()
    server.act = lambda handler: bool(release.wait(20)) and None
    engine = RemoteEngine(server.url, "m", KEY, timeout_s=0.3)
    with pytest.raises(GenerationError, match=r"did not answer within 0\.3 s"):
        Chatbot(engine).predict("Where?")
    release.set()


def test_a_server_that_is_not_there_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(GenerationError, match=r"the server http://127\.0\.0\.1:9/v1 cannot be reached"):
        openai().predict("Where?")


def test_keys_come_from_the_environment_and_are_shown_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ModelError, match="gpt-4 needs a key: set OPENAI_API_KEY"):
        build_chatbot(PipelineConfig("gpt-4"))
    with pytest.raises(ModelError, match="needs a key"):
        build_chatbot(PipelineConfig("other", openai_config=OpenAIConfig()))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG", "org-2")
    chatbot = build_chatbot(PipelineConfig("gpt-4"))
    assert chatbot.predict("Where?") == "".join(PIECES)
    headers = server.asked[0][1]
    assert (headers["authorization"], headers["openai-organization"]) == (f"Bearer {KEY}", "org-2")
    config = PipelineConfig("gpt-4", openai_config=OpenAIConfig(KEY), hf_access_token=KEY)
    shown = [repr(chatbot.engine), repr(config), repr(chatbot), str(chatbot.notices), caplog.text]
    assert all(KEY not in text for text in shown)
    assert repr(chatbot.engine) == f"RemoteEngine(url='{server.url}/v1', model='gpt-4')"


def test_an_endpoint_needs_a_token_and_an_address(server: Server) -> None:
    with pytest.raises(ModelError, match=f"hf_endpoint_url={server.url} needs a token") as missing:
        build_chatbot(PipelineConfig(hf_endpoint_url=server.url))
    assert missing.value.code == 2007
    for url in ("ftp://host/x", "host:80", "https://user:pass@host", "https://"):
        with pytest.raises(ModelError, match="is no address of a server") as caught:
            build_chatbot(PipelineConfig(hf_endpoint_url=url, hf_access_token="x"))
        assert "pass" not in str(caught.value)


def test_what_has_no_effect_or_is_unsafe_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    chatbot = openai(device="cpu", task="chat", optimization_config=MixedPrecisionConfig(), assistant_model="x")
    for name in ("device", "task", "optimization_config", "assistant_model"):
        assert any(f"{name}=" in notice and "runs on a server" in notice for notice in chatbot.notices)
    assert any("top_k and repetition_penalty are not part" in notice for notice in chatbot.notices)
    assert not any("unencrypted" in notice for notice in chatbot.notices)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.com/v1")
    assert any("unencrypted" in notice for notice in openai().notices)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GenerationConfig(num_beams=2), "num_beams=2: a remote model"),
        (GenerationConfig(bad_words_ids=[3]), "bad_words_ids: the ids of a remote model"),
    ],
)
def test_values_that_no_server_takes_raise_at_once(server: Server, config: GenerationConfig, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        openai().stream("Where?", config)
    with pytest.raises(GenerationError, match="written by its server"):
        openai().prepare_prompt("Where?")
    assert not server.asked


def test_several_answers_are_asked_for_one_by_one(server: Server) -> None:
    assert openai().predict_all("Where?", GenerationConfig(num_return_sequences=3), seed=5) == ["".join(PIECES)] * 3
    assert [body["seed"] for _, _, body in server.asked] == [5, 6, 7]


def test_a_tools_turn_reaches_the_server(server: Server) -> None:
    call = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}
    history = [
        Turn("user", "Go"),
        Turn("assistant", "", tool_calls=(call,)),
        Turn("tool", "done", name="f", tool_call_id="c1"),
    ]
    openai().predict("And?", history=history)
    sent = server.asked[0][2]["messages"]
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'
    assert sent[2] == {"role": "tool", "content": "done", "name": "f", "tool_call_id": "c1"}


def test_a_folder_is_never_sent_to_a_server(
    server: Server, tmp_path: Any, tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model.save_pretrained("gpt-4")
    tiny_tokenizer.save_pretrained("gpt-4")
    chatbot = build_chatbot(PipelineConfig("gpt-4", openai_config=OpenAIConfig(KEY)))
    assert "openai_config has no effect: gpt-4 is a model in this process" in chatbot.notices
    assert chatbot.predict("hello", config=GenerationConfig(max_new_tokens=3)) and not server.asked
