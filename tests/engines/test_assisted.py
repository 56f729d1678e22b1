"""Assisted generation: the ids of plain decoding, in fewer passes of the large model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from tests.engines.odd_models import FAMILIES

GREEDY = Sampling(max_new_tokens=40)
PENALISED = replace(GREEDY, repetition_penalty=1.3, bad_words_ids=((7,), (8, 9)))
SAMPLED = Sampling(
    max_new_tokens=40, do_sample=True, temperature=1.5, top_k=30, top_p=0.9, repetition_penalty=1.2, seed=7
)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [40], [60, 61, 62, 63, 64]]


def similar(model: PreTrainedModel, noise: float = 0.03) -> PreTrainedModel:
    """A model that often, but not always, thinks alike."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in other.parameters():
            parameter += noise * torch.randn_like(parameter) * parameter.std()
    return other


def different(model: PreTrainedModel) -> PreTrainedModel:
    return similar(model, noise=10)


class Counted:
    """Counts the passes of a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.passes = 0
        self._hook = model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: Any) -> None:
        self._hook.remove()


@pytest.fixture
def engine(tiny_model: PreTrainedModel, tiny_tokenizer: Any) -> Iterator[TorchEngine]:
    engine = TorchEngine(tiny_model, tiny_tokenizer)
    engine.end_ids = frozenset()
    yield engine


def assisted(engine: TorchEngine, assistant: PreTrainedModel) -> TorchEngine:
    other = TorchEngine(engine.model, engine.tokenizer, assistant)
    other.end_ids = engine.end_ids
    return other


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED, SAMPLED], ids=["greedy", "penalised", "sampled"])
@pytest.mark.parametrize("relation", [copy.deepcopy, similar, different])
def test_the_ids_are_those_of_plain_decoding(engine: TorchEngine, relation: Any, sampling: Sampling) -> None:
    with_help = assisted(engine, relation(engine.model))
    for prompt in PROMPTS:
        assert list(with_help.stream(prompt, sampling)) == list(engine.stream(prompt, sampling))


def test_a_good_assistant_saves_passes_and_a_bad_one_costs_none(engine: TorchEngine) -> None:
    passes = []
    for assistant in (copy.deepcopy(engine.model), similar(engine.model), different(engine.model)):
        with Counted(engine.model) as counted:
            assert len(list(assisted(engine, assistant).stream(PROMPTS[0], GREEDY))) == 40
        passes.append(counted.passes)
    assert passes[0] <= 6 and passes[0] < passes[1] < passes[2] <= 40


def test_end_tokens_end_the_answer_wherever_they_stand(engine: TorchEngine) -> None:
    plain = list(engine.stream(PROMPTS[0], SAMPLED))
    for place in (0, 1, 4, 9):
        engine.end_ids = frozenset({plain[place]})
        expected = plain[: plain.index(plain[place])]
        for relation in (copy.deepcopy, similar):
            assert list(assisted(engine, relation(engine.model)).stream(PROMPTS[0], SAMPLED)) == expected


@pytest.mark.parametrize("budget", [1, 2, 3, 7])
def test_no_more_tokens_than_asked_for(engine: TorchEngine, budget: int) -> None:
    sampling = replace(GREEDY, max_new_tokens=budget)
    assert len(list(assisted(engine, copy.deepcopy(engine.model)).stream(PROMPTS[0], sampling))) == budget


def test_an_assistant_with_a_shorter_context_stops_helping(tiny_tokenizer: Any) -> None:
    size = {"vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2}
    long, short = (GPT2LMHeadModel(GPT2Config(**size, n_positions=count)) for count in (64, 20))
    engine = TorchEngine(long, tiny_tokenizer)
    engine.end_ids = frozenset()
    assert list(assisted(engine, short).stream(PROMPTS[0], GREEDY)) == list(engine.stream(PROMPTS[0], GREEDY))


def test_the_context_is_used_to_its_end(engine: TorchEngine) -> None:
    assert engine.context_length == 512
    long = [5, 6, 7, 8] * 126
    ids = list(assisted(engine, similar(engine.model)).stream(long, GREEDY))
    assert len(ids) == 8 and ids == list(engine.stream(long, GREEDY))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_and_larger_vocabularies(tiny_tokenizer: Any, family: str) -> None:
    sampling = replace(GREEDY, repetition_penalty=1.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = FAMILIES[family]().eval()
    engine = TorchEngine(model, tiny_tokenizer)
    engine.end_ids = frozenset()
    padded = similar(model)
    padded.resize_token_embeddings(320, mean_resizing=False)
    for prompt in PROMPTS:
        assert list(assisted(engine, padded).stream(prompt, sampling)) == list(engine.stream(prompt, sampling))


def test_streams_left_open_do_not_disturb_each_other(engine: TorchEngine) -> None:
    with_help = assisted(engine, similar(engine.model))
    alone = [list(engine.stream(prompt, SAMPLED)) for prompt in PROMPTS]
    streams = [with_help.stream(prompt, SAMPLED) for prompt in PROMPTS]
    assert [list(ids) for ids in zip(*zip(*streams, strict=True), strict=True)] == alone
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_beams_and_batches_go_without_help(engine: TorchEngine) -> None:
    with_help = assisted(engine, similar(engine.model))
    for sampling in (replace(GREEDY, num_beams=2), SAMPLED):
        assert with_help.generate_batch(PROMPTS, sampling) == engine.generate_batch(PROMPTS, sampling)
