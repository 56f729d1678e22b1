"""Lets an engine answer questions in batches: greedily, or several times each by sampling under a seed.

The prompts come from `conversation.encode_prompt`, as in training and serving.

Not done here: choosing questions (`questions`), scoring answers (`metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuralbot.conversation import answer_lead, encode_prompt
from neuralbot.engines.protocol import Sampling
from neuralbot.errors import GenerationError

if TYPE_CHECKING:
    from neuralbot.arguments import EvaluationArguments
    from neuralbot.engines.protocol import Engine
    from neuralbot.evaluation.questions import Question


def answer(
    engine: Engine,
    questions: Sequence[Question],
    settings: EvaluationArguments,
    on_progress: Callable[[int], None] = lambda count: None,
) -> tuple[list[list[str]], list[str]]:
    """`settings.samples` answers to each question, in order, and what there is to say about those that failed.

    One sample is the likeliest answer; several are drawn. The longest prompts go first: too little memory shows at
    once. A prompt that the engine refuses has empty answers. `on_progress` gets the number of answers that were made.
    """
    prompts = [encode_prompt(engine.tokenizer, question.turns, question.tools) for question in questions]
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    answers: list[list[str]] = [[] for _ in prompts]
    refused: dict[int, GenerationError] = {}
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        for draw in range(settings.samples):
            sampling = _sampling(settings, draw, start)
            found = _generate(engine, [prompts[place] for place in batch], sampling)
            for place, ids in zip(batch, found, strict=True):
                if isinstance(ids, GenerationError):
                    refused[place] = ids
                answers[place].append("" if isinstance(ids, GenerationError) else _decode(engine, ids))
            on_progress(len(batch))
    return answers, _refusals(list(refused.values()))


def _sampling(settings: EvaluationArguments, draw: int, batch: int) -> Sampling:
    """An engine draws every row of a batch with the same seed, so each draw and batch has one of its own.

    It has 32 bits: torch's generator looks at no more.
    """
    if settings.samples == 1:
        return Sampling(max_new_tokens=settings.max_new_tokens, do_sample=False, num_beams=settings.num_beams)
    return Sampling(
        max_new_tokens=settings.max_new_tokens,
        do_sample=True,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=int(np.random.SeedSequence([settings.seed, draw, batch]).generate_state(1)[0]),
    )


def _generate(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> Sequence[list[int] | GenerationError]:
    """A batch's answers; if the engine refuses it, each prompt alone, so that one bad row costs one row."""
    try:
        return engine.generate_batch(prompts, sampling)
    except GenerationError as error:
        if len(prompts) == 1:
            return [error]
    return [_generate(engine, [prompt], sampling)[0] for prompt in prompts]


def _refusals(refused: Sequence[GenerationError]) -> list[str]:
    if not refused:
        return []
    rows = "1 question" if len(refused) == 1 else f"{len(refused)} questions"
    return [f"{rows} could not be answered and scored 0; the first because: {refused[0]}"]


def _decode(engine: Engine, ids: list[int]) -> str:
    text = engine.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).removeprefix(answer_lead(engine.tokenizer))
