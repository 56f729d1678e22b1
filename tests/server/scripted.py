"""An engine whose answers are written by the test: what is under test is what the server makes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

from neuralbot.arguments import ServingArguments
from neuralbot.chatbot import Chatbot
from neuralbot.engines.picking import Picked
from neuralbot.engines.protocol import Sampling, token_budget


class Said:
    """An answer on its way, as engines have it."""

    def __init__(self, ids: Generator[int]) -> None:
        self.logprobs: list[float] = []
        self.tops: list[tuple[tuple[int, float], ...]] = []
        self._ids = ids

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        token = next(self._ids)
        self.logprobs.append(-1.0)
        self.tops.append(((token, -1.0),))
        return token

    def close(self) -> None:
        self._ids.close()


class Scripted:
    """Says `script`, or the letter a for ever, a token each `delay` seconds. prompts: what it was asked."""

    def __init__(self, tokenizer: Any, script: str | None = None, *, delay: float = 0.0, context: int = 4096) -> None:
        self.tokenizer = tokenizer
        self.context_length = context
        self.delay = delay
        self.prompts: list[list[int]] = []
        self.samplings: list[Sampling] = []
        self.running = 0
        self.made = 0
        self._lock = threading.Lock()
        self._ids = None if script is None else tokenizer(script, add_special_tokens=False)["input_ids"]

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[int]:
        limit = token_budget(len(prompt_ids), sampling.max_new_tokens, self.context_length)
        with self._lock:
            self.prompts.append(prompt_ids)
            self.samplings.append(sampling)
        return Said(self._stream(limit))

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        return [list(self.stream(prompt, sampling)) for prompt in prompts]

    def score(self, ids: list[int], top: int = 0) -> list[Picked]:
        return [Picked(token, -1.0, ((token, -1.0),)[:top]) for token in ids[1:]]

    def chatbot(self) -> Chatbot:
        return Chatbot(self, ServingArguments(do_sample=False), name="scripted")

    def _stream(self, limit: int) -> Generator[int]:
        self._count(1)
        try:
            letter = self.tokenizer("a", add_special_tokens=False)["input_ids"]
            ids = letter * limit if self._ids is None else self._ids[:limit]
            for token in ids:
                time.sleep(self.delay)
                self.made += 1
                yield token
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.running += change
