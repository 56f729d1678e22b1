"""Servers over the tiny model, in a thread of the test's process, on a port of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from neuralbot.arguments import ServingArguments
from neuralbot.chatbot import Chatbot
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.server import running
from neuralbot.server.app import Server
from neuralbot.server.keys import Keys
from neuralbot.server.served import Served
from neuralbot.server.settings import Settings

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


class Live:
    """A server that runs. url: where."""

    def __init__(self, chatbot: Chatbot, settings: Settings, keys: Keys) -> None:
        self.server = Server(Served(chatbot, ["tiny"], settings.slots), settings, keys)
        self.state = self.server.state
        self.uvicorn: Any = running.prepared(self.server)
        self._thread = threading.Thread(target=self.uvicorn.run)
        self._thread.start()
        while not self.uvicorn.started:
            time.sleep(0.01)
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def wait_until_idle(self, seconds: float = 10) -> None:
        """Raises AssertionError where places are still taken after so long."""
        end = time.monotonic() + seconds
        while len(self.state.admission):
            assert time.monotonic() < end, f"{len(self.state.admission)} places are taken"
            time.sleep(0.01)

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self._thread.join()


Serve = Callable[..., Live]


@pytest.fixture(scope="session")
def tiny_chatbot(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Chatbot:
    """Answers greedily, up to 64 tokens."""
    serving = ServingArguments(do_sample=False, repetition_penalty=1.0, max_new_tokens=64)
    return Chatbot(TorchEngine(tiny_model, tiny_tokenizer), serving, name="tiny")


@pytest.fixture
def serve(tiny_chatbot: Chatbot) -> Iterator[Serve]:
    """serve(keys=..., chatbot=..., any field of Settings): a server, stopped with the test."""
    started: list[Live] = []

    def start(keys: Keys | None = None, chatbot: Chatbot = tiny_chatbot, **fields: Any) -> Live:
        started.append(Live(chatbot, Settings(port=0, **fields), keys or Keys({})))
        return started[-1]

    yield start
    for live in started:
        live.stop()


@pytest.fixture(scope="module")
def live(tiny_chatbot: Chatbot) -> Iterator[Live]:
    """One server for the tests of a module that change nothing of it."""
    server = Live(tiny_chatbot, Settings(port=0), Keys({}))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client
