"""neuralbot as a user has it: `build_chatbot`, then replies in text, each read by a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import local
from typing import Any

from benchmarks.generation.job import Answer, Job, Prompt, Stream, run
from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot
from neuralbot.chatbot import Chatbot
from neuralbot.engines.protocol import Sampling
from neuralbot.transformers import RtnConfig
from neuralbot.turns import Turn

# As `neuralbot export --precision` makes them.
FORMS: dict[str, Any] = {
    "bf16": MixedPrecisionConfig(),
    "int8": RtnConfig(bits=8, sym=False),
    "int4": RtnConfig(bits=4, group_size=128, sym=False),
}


class Watched:
    """An engine that notes in `current.stream` of the thread when each id was taken from it, and else changes nothing.

    The next id is taken when the text of the last one is made, so the time between two holds all that a user waits for.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.context_length = engine.context_length
        self.current = local()

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[int]:
        if prompt_ids != self.current.prompt.ids:
            raise ValueError("the chatbot asks with another prompt than the others get")
        return self._noted(self.engine.stream(prompt_ids, sampling), self.current.stream)

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        raise NotImplementedError("only streams are measured")

    def _noted(self, ids: Iterator[int], stream: Stream) -> Iterator[int]:
        for token in ids:
            stream.add(token)
            yield token


def make(job: Job) -> Answer:
    built = build_chatbot(
        PipelineConfig(model_name_or_path=job.model, engine=job.engine, optimization_config=FORMS[job.kept])
    )
    ignore_end_tokens(built.engine)
    watched = Watched(built.engine)
    chatbot = Chatbot(watched, built.serving)

    def read(prompt: Prompt, count: int) -> Stream:
        watched.current.prompt, watched.current.stream = prompt, Stream()
        turns = [Turn(role, content) for role, content in prompt.turns]  # type: ignore[arg-type]
        for _ in chatbot.reply(turns, Sampling(max_new_tokens=count)):
            pass
        stream: Stream = watched.current.stream
        return stream

    def answer(prompts: Sequence[Prompt], count: int) -> list[Stream]:
        with ThreadPoolExecutor(len(prompts)) as readers:
            return list(readers.map(lambda prompt: read(prompt, count), prompts))

    return answer


def ignore_end_tokens(engine: Any) -> None:
    """Random weights may draw one anywhere."""
    if hasattr(engine, "exported"):
        engine.exported = replace(engine.exported, end_ids=frozenset())
    else:
        engine.end_ids = frozenset()


if __name__ == "__main__":
    run(make)
