"""The engine against `model.generate` and against itself: alone, in a batch, interleaved, in threads."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    PreTrainedModel,
)

from neuralbot.engines import torch_engine
from neuralbot.engines.protocol import Sampling, token_budget
from neuralbot.engines.torch_engine import TorchEngine, end_token_ids
from neuralbot.errors import GenerationError
from tests.engines.odd_models import FAMILIES

GREEDY = Sampling(max_new_tokens=24)
PENALISED = Sampling(max_new_tokens=24, repetition_penalty=1.3)
SAMPLED = replace(PENALISED, do_sample=True, temperature=1.5, top_k=30, top_p=0.9, repetition_penalty=1.2, seed=7)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [40], [20, 21, 22], [60, 61, 62, 63, 64]]


@pytest.fixture
def engine(tiny_model: PreTrainedModel, tiny_tokenizer: Any) -> TorchEngine:
    engine = TorchEngine(tiny_model, tiny_tokenizer)
    engine.end_ids = frozenset()  # a random model may draw an end token anywhere; tests that want one say which
    return engine


def generate(model: PreTrainedModel, prompt: list[int], **settings: Any) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": 24, "eos_token_id": None, "pad_token_id": 0, "do_sample": False} | settings
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return [int(token) for token in output[0, len(prompt) :]]


def test_greedy_ids_are_those_of_generate(engine: TorchEngine) -> None:
    for prompt in PROMPTS:
        ids = list(engine.stream(prompt, GREEDY))
        assert len(ids) == 24
        assert ids == generate(engine.model, prompt)


def test_penalty_and_bad_words_are_those_of_generate(engine: TorchEngine) -> None:
    plain = list(engine.stream(PROMPTS[0], PENALISED))
    banned = Sampling(max_new_tokens=24, repetition_penalty=1.3, bad_words_ids=((plain[0],), (plain[3], plain[4])))
    ids = list(engine.stream(PROMPTS[0], banned))
    assert plain[0] not in ids
    assert ids == generate(
        engine.model, PROMPTS[0], repetition_penalty=1.3, bad_words_ids=[[plain[0]], [plain[3], plain[4]]]
    )


def test_drawn_ids_are_those_of_generate_with_the_same_seed(engine: TorchEngine) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = generate(
            engine.model, PROMPTS[0], do_sample=True, temperature=1.5, top_k=30, top_p=0.9, repetition_penalty=1.2
        )
    assert list(engine.stream(PROMPTS[0], SAMPLED)) == expected


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED, SAMPLED], ids=["greedy", "penalised", "sampled"])
def test_a_batch_gives_what_the_streams_give(engine: TorchEngine, sampling: Sampling) -> None:
    alone = [list(engine.stream(prompt, sampling)) for prompt in PROMPTS]
    assert len({tuple(ids) for ids in alone}) == len(PROMPTS)
    assert engine.generate_batch(PROMPTS, sampling) == alone
    assert engine.generate_batch([], sampling) == []


def test_padding_is_no_news_to_the_repetition_penalty(engine: TorchEngine) -> None:
    model = copy.deepcopy(engine.model)
    plain: Any = model.lm_head
    model.lm_head = torch.nn.Linear(plain.in_features, plain.out_features)
    torch.nn.init.zeros_(model.lm_head.weight)
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.zeros(plain.out_features).index_fill_(0, torch.tensor([0]), 1.0))
        model.lm_head.bias[1] = 0.9  # comes first as soon as token 0, the padding token, counts as seen
    penalised = Sampling(max_new_tokens=1, repetition_penalty=1.3)
    answers = TorchEngine(model, engine.tokenizer).generate_batch([[5, 6, 7], [40]], penalised)
    assert answers == [[0], [0]]


def test_rows_end_on_their_own(engine: TorchEngine) -> None:
    free = [list(engine.stream(prompt, SAMPLED)) for prompt in PROMPTS]
    engine.end_ids = frozenset({free[0][3], free[1][0], free[2][9]})
    expected = [ids[: next((at for at, token in enumerate(ids) if token in engine.end_ids), 24)] for ids in free]
    assert expected[1] == [] and len({len(ids) for ids in expected}) > 2
    assert engine.generate_batch(PROMPTS, SAMPLED) == expected
    assert [list(engine.stream(prompt, SAMPLED)) for prompt in PROMPTS] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_decode_as_generate_does(tiny_tokenizer: Any, family: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        engine = TorchEngine(FAMILIES[family]().eval(), tiny_tokenizer)
    engine.end_ids = frozenset()
    # An early end of one row changes the shape of the rest; the penalty keeps small random models from one token.
    alone = [list(engine.stream(prompt, PENALISED)) for prompt in PROMPTS]
    assert alone == [generate(engine.model, prompt, repetition_penalty=1.3) for prompt in PROMPTS]
    engine.end_ids = frozenset({alone[0][5]})
    assert engine.generate_batch(PROMPTS, PENALISED) == [list(engine.stream(prompt, PENALISED)) for prompt in PROMPTS]


def test_seeds_decide_and_the_global_generator_is_left_alone(engine: TorchEngine) -> None:
    before = torch.get_rng_state()
    first, again = (list(engine.stream(PROMPTS[0], SAMPLED)) for _ in range(2))
    other = list(engine.stream(PROMPTS[0], replace(SAMPLED, seed=8)))
    free = {tuple(engine.stream(PROMPTS[0], replace(SAMPLED, seed=None))) for _ in range(3)}
    engine.generate_batch(PROMPTS[:1], replace(SAMPLED, num_beams=2, max_new_tokens=4))
    assert first == again != other
    assert len(free) == 3
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_zero_is_greedy(engine: TorchEngine) -> None:
    cold = Sampling(max_new_tokens=24, do_sample=True, temperature=0, seed=3)
    assert list(engine.stream(PROMPTS[0], cold)) == list(engine.stream(PROMPTS[0], GREEDY))


def test_beams_are_those_of_generate_and_cannot_be_streamed(engine: TorchEngine) -> None:
    beams = Sampling(max_new_tokens=12, num_beams=3)
    expected = [generate(engine.model, prompt, num_beams=3, max_new_tokens=12) for prompt in PROMPTS[:2]]
    assert engine.generate_batch(PROMPTS[:2], beams) == expected
    with pytest.raises(GenerationError, match="num_beams=3"):
        engine.stream(PROMPTS[0], beams)


def test_streams_interleaved_or_in_threads_do_not_disturb_each_other(engine: TorchEngine) -> None:
    alone = [list(engine.stream(prompt, SAMPLED)) for prompt in PROMPTS]
    open_streams = [engine.stream(prompt, SAMPLED) for prompt in PROMPTS]
    assert [list(ids) for ids in zip(*zip(*open_streams, strict=True), strict=True)] == alone
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda prompt: list(engine.stream(prompt, SAMPLED)), PROMPTS * 2)) == alone * 2


def test_a_stream_left_early_frees_its_cache_and_leaves_no_mode_behind(engine: TorchEngine) -> None:
    def caches() -> int:
        return sum(type(thing) is DynamicCache for thing in gc.get_objects())

    gc.collect()
    before = caches()
    ids = engine.stream(PROMPTS[0], GREEDY)
    next(ids)
    assert caches() == before + 1
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    gc.disable()
    try:
        ids.close()  # type: ignore[attr-defined]
        assert caches() == before
    finally:
        gc.enable()


def test_the_context_limits_the_answer(engine: TorchEngine) -> None:
    context = engine.context_length
    assert context is not None
    long = [5] * (context - 3)
    assert len(list(engine.stream(long, GREEDY))) == 3
    assert [len(ids) for ids in engine.generate_batch([long, [5]], GREEDY)] == [3, 24]
    with pytest.raises(GenerationError, match=f"{context} tokens.*at most {context}"):
        engine.stream([5] * context, GREEDY)


def test_it_is_said_once_that_an_answer_is_cut(engine: TorchEngine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        list(engine.stream([5] * (512 - 24), GREEDY))
        assert caplog.messages == []
        for prompt in ([5] * 500, [5] * 508):
            list(engine.stream(prompt, GREEDY))
    assert caplog.messages == [
        "the prompt has 500 of the 512 tokens that the model reads: its answer has room for 12, not for "
        "max_new_tokens=24 (said once)"
    ]


def test_budget_without_a_known_limit() -> None:
    assert token_budget(10_000, 5, None) == 5


@pytest.mark.parametrize("prompt", [[], [5, 10**6], [-1]])
def test_prompts_that_cannot_be_used_raise_at_the_call(engine: TorchEngine, prompt: list[int]) -> None:
    with pytest.raises(GenerationError, match="prompt"):
        engine.stream(prompt, GREEDY)
    with pytest.raises(GenerationError, match="prompt"):
        engine.generate_batch([[5], prompt], GREEDY)


def test_bad_words_outside_the_vocabulary_are_named(engine: TorchEngine) -> None:
    with pytest.raises(GenerationError, match="bad_words_ids holds 99999"):
        engine.stream([5], Sampling(bad_words_ids=((99999,),)))


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_damaged_weights_are_noticed_and_the_engine_lives(engine: TorchEngine, number: str) -> None:
    damaged = copy.deepcopy(engine.model)
    with torch.no_grad():
        damaged.get_input_embeddings().weight[5] = float(number)  # all is well where that token is not
    hurt = TorchEngine(damaged, engine.tokenizer)
    hurt.end_ids = frozenset()
    beams = Sampling(max_new_tokens=4, num_beams=2)
    right = list(engine.stream([6, 7], replace(GREEDY, max_new_tokens=2)))
    other = hurt.stream([6, 7], replace(GREEDY, max_new_tokens=2))
    found = [next(other)]
    asks: list[Any] = [
        lambda: list(hurt.stream([6, 5], GREEDY)),
        lambda: list(hurt.stream([6, 5], SAMPLED)),
        lambda: hurt.generate_batch([[6], [5]], GREEDY),
        lambda: hurt.generate_batch([[6, 5]], beams),
        lambda: hurt.generate_batch([[6, 5]], replace(beams, do_sample=True)),
        lambda: hurt.logprobs([6, 5, 7]),
        lambda: list(TorchEngine(damaged, engine.tokenizer, engine.model).stream([6, 5], GREEDY)),
    ]
    for ask in asks:
        with pytest.raises(GenerationError, match=r"the output of the model is not a number.*weights are damaged"):
            ask()
    with pytest.raises(GenerationError, match=r"the output of assistant_model is not a number"):
        list(TorchEngine(engine.model, engine.tokenizer, damaged).stream([6, 5], GREEDY))
    assert found + list(other) == right == list(hurt.stream([6, 7], replace(GREEDY, max_new_tokens=2)))


def test_forbidding_every_token_is_told(engine: TorchEngine) -> None:
    every = Sampling(bad_words_ids=tuple((token,) for token in range(engine.model.config.vocab_size)))
    with pytest.raises(GenerationError, match="bad_words_ids forbids every one"):
        list(engine.stream([5], every))


def test_answers_end_at_the_tokens_of_model_tokenizer_and_template(
    tiny_model: PreTrainedModel, tiny_tokenizer: Any
) -> None:
    model, tokenizer = copy.deepcopy(tiny_model), copy.deepcopy(tiny_tokenizer)
    end, user, system = tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>", "<|system|>"])
    tokenizer.eos_token = "<|user|>"
    model.generation_config.eos_token_id = [system]
    assert end_token_ids(model, tokenizer) == {end, user, system}
    model.generation_config.eos_token_id, tokenizer.chat_template = system, None
    assert end_token_ids(model, tokenizer) == {user, system}


def test_generation_switches_dropout_off(tiny_model: PreTrainedModel, tiny_tokenizer: Any) -> None:
    model = copy.deepcopy(tiny_model).train()
    list(TorchEngine(model, tiny_tokenizer).stream([5], GREEDY))
    assert not model.training


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-1, float("nan"), 1e308, "hot", None]),
        ("top_k", [-5, 1.5, True]),
        ("top_p", [0, 2, -0.1, float("nan")]),
        ("repetition_penalty", [0, -1, float("inf")]),
        ("max_new_tokens", [0, 32769, 10**9, 2.0]),
        ("seed", [-1, 2**80]),
        ("stop", ["text", ("",), (1,), ["a"]]),
        ("num_beams", [0, 10**6]),
        ("bad_words_ids", [((),), ((-1,),), [[1]], ((1.5,),)]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(GenerationError, match=f"{name}=.*expected"):
            Sampling(**{name: value})


def test_values_at_the_borders_are_taken() -> None:
    Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=0.01, max_new_tokens=1, seed=0)
    Sampling(temperature=100, max_new_tokens=32768, seed=2**63 - 1, stop=("x",), bad_words_ids=((1, 2), (3,)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stop": ("x",) * 10_000}, "10000 strings.*at most 64"),
        ({"json_schema": "{}", "regex": "a"}, "expected one of them"),
        ({"json_schema": "{"}, "json_schema='{' cannot be used"),
        ({"regex": "((("}, "regex=.* cannot be used: missing"),
        ({"regex": ""}, "1 to 65536 characters"),
    ],
)
def test_values_out_of_their_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        Sampling(**values)


def test_the_logprobs_of_a_prompt_and_its_answer(
    engine: TorchEngine, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = list(range(5, 45))
    with torch.inference_mode():
        scores = tiny_model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(scores[place, token]) for place, token in enumerate(ids[1:])]
    assert engine.logprobs(ids) == pytest.approx(expected, abs=1e-4)
    monkeypatch.setattr(torch_engine, "_LOGPROBS_AT_ONCE", 13)  # does not divide the length
    assert engine.logprobs(ids) == pytest.approx(expected, abs=1e-4)
    for wrong, words in (([5], "no tokens"), ([5] * 514, "at most 512"), ([5, 600000], "vocabulary")):
        with pytest.raises(GenerationError, match=words):
            engine.logprobs(wrong)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("helped", [False, True], ids=["alone", "assisted"])
def test_a_stream_tells_the_probabilities_of_its_tokens(engine: TorchEngine, sampling: Sampling, helped: bool) -> None:
    """Those that the model gives: temperature, penalty and the like change none."""
    if helped:
        engine = TorchEngine(engine.model, engine.tokenizer, copy.deepcopy(engine.model))
        engine.end_ids = frozenset()
    answer, prompt = engine.stream(PROMPTS[0], replace(sampling, logprobs=True)), PROMPTS[0]
    assert answer.logprobs == []
    first = next(answer)
    assert len(answer.logprobs) == 1
    ids = [first, *answer]
    assert len(ids) == 24
    assert answer.logprobs == pytest.approx(engine.logprobs(prompt + ids)[len(prompt) - 1 :], abs=1e-4)
    plain = engine.stream(prompt, sampling)
    assert list(plain) == ids and plain.logprobs == []


def test_a_batch_has_no_probabilities(engine: TorchEngine) -> None:
    with pytest.raises(GenerationError, match="logprobs=True is for `stream`"):
        engine.generate_batch(PROMPTS, Sampling(logprobs=True))


def test_what_only_the_fast_engine_has_is_refused(engine: TorchEngine) -> None:
    for asked in ({"json_schema": "{}"}, {"regex": "a"}):
        with pytest.raises(GenerationError, match="need the OpenVINO engine"):
            engine.stream([5], Sampling(**asked))


def test_the_likeliest_tokens_at_each_place_are_the_models(engine: TorchEngine) -> None:
    answer = engine.stream(PROMPTS[0], Sampling(max_new_tokens=6, logprobs=True, top_logprobs=4))
    ids = list(answer)
    scored = engine.score([*PROMPTS[0], *ids], 4)[len(PROMPTS[0]) - 1 :]
    with torch.inference_mode():
        shares_TV = engine.model(torch.tensor([[*PROMPTS[0], *ids]])).logits[0].log_softmax(dim=-1)
    for place, (token, one) in enumerate(zip(ids, scored, strict=True)):
        row_V = shares_TV[len(PROMPTS[0]) - 1 + place]
        values, tokens = row_V.topk(4)
        assert one.token == token and one.logprob == pytest.approx(float(row_V[token]), abs=1e-4)
        for top in (one.top, answer.tops[place]):
            assert [other for other, _ in top] == tokens.tolist()
            assert [value for _, value in top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("helped", [False, True], ids=["alone", "assisted"])
def test_bias_and_penalties_of_openai_are_taken_from_the_logits(engine: TorchEngine, helped: bool) -> None:
    """Held against the definition, token by token: logits + bias - presence - frequency times."""
    if helped:
        engine = TorchEngine(engine.model, engine.tokenizer, copy.deepcopy(engine.model))
        engine.end_ids = frozenset()
    values = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": ((30, 2.0), (31, -50.0))}
    for prompt in PROMPTS[:3]:
        ids = list(engine.stream(prompt, Sampling(max_new_tokens=20, **values)))
        for place, token in enumerate(ids):
            with torch.inference_mode():
                logits_V = engine.model(torch.tensor([[*prompt, *ids[:place]]])).logits[0, -1]
            logits_V = logits_V.clone()
            logits_V[30] += 2
            logits_V[31] -= 50
            for used, times in Counter(ids[:place]).items():
                logits_V[used] -= 1.5 + 0.5 * times
            assert token == int(logits_V.argmax())
