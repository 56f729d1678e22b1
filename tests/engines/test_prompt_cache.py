"""What is known of a prompt's beginning is not computed again, and nothing else changes: not one bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import AdaptionPromptConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from neuralbot.engines import prompt_cache
from neuralbot.engines.prompt_cache import PromptCache, reads_in_blocks
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from tests.engines.odd_models import FAMILIES
from tests.engines.test_assisted import similar
from tests.training.test_families import FAMILIES as CONFIGS

GREEDY = Sampling(max_new_tokens=20)
SAMPLED = replace(GREEDY, do_sample=True, temperature=1.5, top_k=30, repetition_penalty=1.2, seed=7)
BLOCK = 8
SYSTEM = list(range(100, 130))
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
VIRTUAL: dict[str, Any] = {"num_virtual_tokens": 4, **TASK}
ADAPTERS: dict[str, Callable[[], Any]] = {
    "prompt": lambda: PromptTuningConfig(**VIRTUAL),
    "ptun": lambda: PromptEncoderConfig(**VIRTUAL, encoder_hidden_size=16),
    "prefix": lambda: PrefixTuningConfig(**VIRTUAL),
    "llama_adapter": lambda: AdaptionPromptConfig(**TASK, adapter_len=4, adapter_layers=2),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "BLOCK", BLOCK)


class Read:
    """Counts the ids that a model is given."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.ids = 0
        self._hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.ids += inputs["input_ids"].shape[1]

    def __enter__(self) -> Read:
        return self

    def __exit__(self, *_: Any) -> None:
        self._hook.remove()


def engine_of(model: Any, tokenizer: Any, assistant: PreTrainedModel | None = None) -> TorchEngine:
    engine = TorchEngine(model, tokenizer, assistant)
    engine.end_ids = frozenset()  # a random model may draw an end token anywhere
    return engine


@pytest.fixture
def engine(tiny_model: PreTrainedModel, tiny_tokenizer: Any) -> TorchEngine:
    return engine_of(tiny_model, tiny_tokenizer)


def conversation(engine: TorchEngine, sampling: Sampling, turns: int = 4) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts of which each continues the one before and its answer, and the answers."""
    prompt = [*SYSTEM, 60, 61, 62]
    for turn in range(turns):
        answer = list(engine.stream(prompt, sampling))
        yield prompt, answer
        prompt = [*prompt, *answer, 70 + turn, 80 + turn, 90 + turn]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_only_what_is_new_is_read(engine: TorchEngine, tiny_tokenizer: Any, sampling: Sampling) -> None:
    model: Any = engine.model
    known = 0
    turns = conversation(engine, sampling)
    while True:
        with Read(model) as read:
            turn = next(turns, None)
        if turn is None:
            break
        prompt, answer = turn
        assert read.ids == len(prompt) - known + len(answer) - 1
        known = (len(prompt) - 1) // BLOCK * BLOCK
        assert answer == list(engine_of(model, tiny_tokenizer).stream(prompt, sampling))
    assert known > 80


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_known_changes_no_bit(tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny_model).to(dtype)
    asked = replace(SAMPLED, logprobs=True)
    for prompt, _ in conversation(engine := engine_of(model, tiny_tokenizer), asked):
        again, fresh = engine.stream(prompt, asked), engine_of(model, tiny_tokenizer).stream(prompt, asked)
        assert list(again) == list(fresh)
        assert again.logprobs == fresh.logprobs and len(again.logprobs) == 20


def test_other_questions_behind_the_same_beginning(engine: TorchEngine, tiny_tokenizer: Any) -> None:
    prompts = [[*SYSTEM, question, *range(20, 40)] for question in (5, 6, 7)]
    fresh = [list(engine_of(engine.model, tiny_tokenizer).stream(prompt, GREEDY)) for prompt in prompts]
    with Read(engine.model) as read:
        assert [list(engine.stream(prompt, GREEDY)) for prompt in prompts] == fresh
    shared = len(SYSTEM) // BLOCK * BLOCK
    assert read.ids == 3 * (51 + 19) - 2 * shared
    with Read(engine.model) as read:
        assert [list(engine.stream(prompt, GREEDY)) for prompt in prompts] == fresh
    assert read.ids == 3 * (51 - 48 + 19)


def test_the_answers_of_a_batch_are_those_of_streams(engine: TorchEngine) -> None:
    prompts = [prompt for prompt, _ in conversation(engine, GREEDY)]
    streams = [list(engine.stream(prompt, GREEDY)) for prompt in prompts]
    assert engine.generate_batch(prompts, GREEDY) == streams
    assert [engine.generate_batch([prompt], GREEDY)[0] for prompt in prompts] == streams


def test_threads_share_what_is_known(engine: TorchEngine, tiny_tokenizer: Any) -> None:
    prompts = [prompt for prompt, _ in conversation(engine_of(engine.model, tiny_tokenizer), SAMPLED, turns=3)] * 4
    prompts += [[*SYSTEM, question, *range(20, 40)] for question in range(12)]
    alone = [list(engine_of(engine.model, tiny_tokenizer).stream(prompt, SAMPLED)) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda prompt: list(engine.stream(prompt, SAMPLED)), prompts)) == alone
    streams = [engine.stream(prompt, SAMPLED) for prompt in prompts]
    assert [list(ids) for ids in zip(*zip(*streams, strict=True), strict=True)] == alone


def test_a_stream_left_early_leaves_its_prompt(engine: TorchEngine) -> None:
    expected = list(engine.stream(SYSTEM, GREEDY))
    other = engine_of(engine.model, engine.tokenizer)
    answer = other.stream(SYSTEM, GREEDY)
    next(answer)
    answer.close()
    assert list(answer) == []
    with Read(other.model) as read:
        assert list(other.stream(SYSTEM, GREEDY)) == expected
    assert read.ids == len(SYSTEM) - 24 + 19


def kept(engine: TorchEngine) -> list[list[int]]:
    return [beginning.ids for beginning in engine._prompts._kept._all]


def test_the_one_used_longest_ago_goes_first(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*first: int) -> None:
        for start in first:
            next(engine.stream([start] * (BLOCK + 1), GREEDY))

    monkeypatch.setattr(prompt_cache, "MOST_KEPT", 3)
    ask(1, 2, 3, 1, 4)
    assert [ids[0] for ids in kept(engine)] == [3, 1, 4]
    one = engine._prompts._kept._all[0].bytes
    assert one == 2 * 2 * BLOCK * 2 * 16 * 4  # layers, keys and values, tokens, heads, width, bytes
    engine._prompts._kept._most_bytes = 2 * one + 1
    ask(5)
    assert [ids[0] for ids in kept(engine)] == [4, 5]
    next(engine.stream([6] * 30, GREEDY))  # more than all the room there is
    assert [ids[0] for ids in kept(engine)] == [4, 5]


def test_a_longer_beginning_takes_the_place_of_the_shorter(engine: TorchEngine) -> None:
    prompts = [prompt for prompt, _ in conversation(engine, GREEDY)]
    longest = prompts[-1][: (len(prompts[-1]) - 1) // BLOCK * BLOCK]
    assert kept(engine) == [longest]
    next(engine.stream(prompts[0], GREEDY))
    assert kept(engine) == [longest]


@pytest.mark.parametrize("method", ADAPTERS)
def test_behind_virtual_tokens(tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, method: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = get_peft_model(copy.deepcopy(tiny_model), ADAPTERS[method]()).eval()
        for name, parameter in tuned.named_parameters():
            if "adaption_gate" in name:  # closed before training
                torch.nn.init.ones_(parameter)
    engine = engine_of(tuned, tiny_tokenizer)
    for prompt, answer in conversation(engine, GREEDY):
        ids = torch.tensor([prompt])
        output = tuned.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
        assert answer == output[0, len(prompt) :].tolist()
    assert len(kept(engine)[0]) > 80


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_with_an_assistant(engine: TorchEngine, tiny_tokenizer: Any, sampling: Sampling) -> None:
    helper = similar(engine.model)
    helped = engine_of(engine.model, tiny_tokenizer, helper)
    with Read(helper) as read:
        for prompt, answer in conversation(helped, sampling):
            assert answer == list(engine.stream(prompt, sampling))
    assert read.ids < 400 and len(kept(helped)[0]) > 80
    assert helped._assistant is not None and len(helped._assistant.prompts._kept._all) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families(tiny_tokenizer: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "BLOCK", 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        engine = engine_of(FAMILIES[family]().eval(), tiny_tokenizer)
    sampling = Sampling(max_new_tokens=4, repetition_penalty=1.3)  # else small random models repeat one token
    for prompt, answer in conversation(engine, sampling, turns=3):
        ids = torch.tensor([prompt])
        expected = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=4,
            eos_token_id=None,
            pad_token_id=0,
            do_sample=False,
            repetition_penalty=1.3,
        )
        assert answer == expected[0, len(prompt) :].tolist()
    # Beyond a window of 6 tokens the first ones are forgotten, so they cannot be kept.
    assert [len(ids) for ids in kept(engine)] == ([3] if family == "mistral" else [45])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_reads_in_blocks_what_it_reads_at_once(name: str, tiny_tokenizer: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        engine = engine_of(AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval(), tiny_tokenizer)
    assert engine._prompts.in_blocks
    ids = [(7 * place) % 600 for place in range(90)]
    with torch.inference_mode():
        expected = engine.model(torch.tensor([ids])).logits[0, -1]
    for _ in range(2):  # the second time with what is known
        cache = engine._prompts.begin(ids, engine.virtual.empty_cache())
        assert cache.get_seq_length() == 88
        found = engine._forward(torch.tensor([ids[88:]]), cache)[0, -1]
        assert torch.allclose(found, expected, atol=1e-5)


SIZE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 20,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
NOT_IN_BLOCKS: dict[str, Callable[[], PreTrainedConfig]] = {
    "longrope": lambda: Phi3Config(**SIZE, rope_parameters=LONGROPE, original_max_position_embeddings=20),
    "dynamic": lambda: LlamaConfig(**SIZE, rope_parameters=DYNAMIC),
    "stateful": lambda: MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1),
    "linear": lambda: Qwen3NextConfig(**SIZE, layer_types=["linear_attention", "full_attention"]),
}


@pytest.mark.parametrize("name", NOT_IN_BLOCKS)
def test_what_cannot_be_read_in_blocks_is_read_at_once(name: str) -> None:
    model = AutoModelForCausalLM.from_config(NOT_IN_BLOCKS[name]())
    assert not reads_in_blocks(model)


def test_places_that_depend_on_the_length_are_as_generate_has_them(tiny_tokenizer: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(NOT_IN_BLOCKS["longrope"](), dtype=torch.float32).eval()
    engine = engine_of(model, tiny_tokenizer)
    prompt = list(range(10, 60))
    with torch.inference_mode():
        scores = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    expected = [float(scores[place, token]) for place, token in enumerate(prompt[1:])]
    assert engine.logprobs(prompt) == pytest.approx(expected, abs=1e-4)
    cache = engine._prompts.begin(prompt, engine.virtual.empty_cache())
    assert cache.get_seq_length() == 0 and kept(engine) == []


@pytest.mark.parametrize("name", ["longrope", "linear"])
def test_what_is_read_at_once_is_answered_as_generate_does(tiny_tokenizer: Any, name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(NOT_IN_BLOCKS[name](), dtype=torch.float32).eval()
    engine = engine_of(model, tiny_tokenizer)
    for prompt, answer in conversation(engine, GREEDY, turns=2):
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, eos_token_id=None)
        assert answer == output[0, len(prompt) :].tolist()


def test_the_memory_is_a_part_of_the_machines(monkeypatch: pytest.MonkeyPatch, engine: TorchEngine) -> None:
    monkeypatch.setattr(prompt_cache, "_memory_bytes", lambda device: 64_000)
    assert PromptCache(engine._forward)._kept._most_bytes == 4_000
    PromptCache(engine._forward).begin([5] * (BLOCK + 1), DynamicCache())  # too large to be kept, and not refused
