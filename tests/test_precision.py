"""optimization_config: which numbers a model is loaded in, what is refused, and that answers stay close."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from neuralbot import hardware, kernels, modeling, precision
from neuralbot.chatbot import Chatbot, build_chatbot
from neuralbot.errors import ModelError
from neuralbot.kernels.frozen import FourBit
from neuralbot.kernels.quantized import FourBitLinear, Int8Linear, QuantizedLinear, quantizer
from neuralbot.neural_chat import GenerationConfig, LoadingModelConfig, MixedPrecisionConfig, PipelineConfig

GREEDY = GenerationConfig(do_sample=False, max_new_tokens=12)


@dataclass
class RtnConfig:
    """The fields of ITREX's class that matter here, by their names."""

    bits: int = 4
    group_size: int = 32
    compute_dtype: Any = None
    weight_dtype: Any = None
    scale_dtype: Any = None
    mse_range: bool = False
    use_double_quant: bool = False
    sym: bool = True
    use_quant: bool = True
    algorithm: str = "RTN"
    llm_int8_skip_modules: Any = None


WeightOnlyQuantConfig = type("WeightOnlyQuantConfig", (RtnConfig,), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx512_bf16"}))


def build(folder: Path, config: Any, **more: Any) -> Chatbot:
    return build_chatbot(PipelineConfig(str(folder), device="cpu", optimization_config=config, **more))


def model_of(chatbot: Chatbot) -> Any:
    return chatbot.engine.model  # type: ignore[union-attr]


def linear(chatbot: Chatbot) -> set[type]:
    head = model_of(chatbot).get_output_embeddings()
    return {type(x) for x in model_of(chatbot).modules() if isinstance(x, nn.Linear) and x is not head}


@pytest.mark.parametrize(
    ("config", "kind", "table", "dtype"),
    [
        (RtnConfig(bits=8), Int8Linear, None, torch.bfloat16),
        (RtnConfig(bits=8, compute_dtype="fp32"), Int8Linear, None, torch.float32),
        (RtnConfig(), FourBitLinear, "nf4", torch.bfloat16),
        (RtnConfig(weight_dtype="fp4_e2m1_bnb", compute_dtype="fp32"), FourBitLinear, "fp4", torch.float32),
        (WeightOnlyQuantConfig(weight_dtype="int8", compute_dtype="int8"), Int8Linear, None, torch.bfloat16),
        (WeightOnlyQuantConfig(weight_dtype="nf4", use_double_quant=True), FourBitLinear, "nf4", torch.bfloat16),
        (BitsAndBytesConfig(load_in_8bit=True), Int8Linear, None, torch.bfloat16),
        (BitsAndBytesConfig(load_in_4bit=True), FourBitLinear, "fp4", torch.float32),
        (
            BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            ),
            FourBitLinear,
            "nf4",
            torch.bfloat16,
        ),
    ],
)
def test_weight_only_configs_become_our_layers(
    folder: Path, config: Any, kind: type, table: str | None, dtype: torch.dtype
) -> None:
    chatbot = build(folder, config)
    assert linear(chatbot) == {kind}
    assert model_of(chatbot).lm_head.weight.dtype == dtype
    layer = model_of(chatbot).model.layers[0].mlp.up_proj
    if table:
        assert (float(layer.table[1]) == pytest.approx(-0.696, abs=1e-3)) == (table == "nf4")
        double = getattr(config, "use_double_quant", getattr(config, "bnb_4bit_use_double_quant", False))
        assert layer.steps.is_floating_point() != double
    assert chatbot.predict("hello", config=GREEDY)
    assert any("linear layers are kept in" in notice for notice in chatbot.notices)


@pytest.mark.parametrize(("bits", "least"), [(8, 0.999), (4, 0.98)])
def test_the_model_stays_close_to_the_plain_one(folder: Path, bits: int, least: float) -> None:
    ids = torch.arange(5, 60)[None]
    config = RtnConfig(bits=bits, compute_dtype="fp32")
    with torch.no_grad():
        plain, rounded = (
            model_of(build(folder, it))(ids).logits.flatten() for it in (MixedPrecisionConfig("float32"), config)
        )
    assert least < nn.functional.cosine_similarity(plain, rounded, dim=0) < 1


def test_an_adapter_is_merged_before_anything_is_rounded(folder: Path, tmp_path: Path, tiny_model: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM")
    )
    tuned.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    shutil.copytree(folder, merged)
    tuned.merge_and_unload().save_pretrained(merged)
    loading = LoadingModelConfig(peft_path=str(tmp_path / "adapter"))
    for config in (RtnConfig(bits=8, compute_dtype="fp32"), RtnConfig(bits=4, compute_dtype="fp32")):
        apart, whole = build(folder, config, loading_config=loading), build(merged, config)
        q = "model.layers.0.self_attn.q_proj"
        weights = [model_of(bot).get_submodule(q).weight for bot in (apart, whole, build(folder, config))]
        assert (weights[0] == weights[1]).float().mean() > 0.999
        assert (weights[0] == weights[2]).float().mean() < 0.9
        assert isinstance(model_of(apart).get_submodule(q), QuantizedLinear)


def test_two_models_of_four_bits_answer_at_once() -> None:
    quantize = quantizer(4)
    layers = [quantize(nn.Linear(512, 512, bias=False)) for _ in range(2)]
    x = torch.randn(4, 512)

    def answer(place: int) -> list[torch.Tensor]:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return [layers[place](x) for _ in range(150)]

    with torch.inference_mode(), ThreadPoolExecutor(2) as pool:
        expected = [layer(x) for layer in layers]
        for place, answers in enumerate(pool.map(answer, range(2))):
            for y in answers:
                torch.testing.assert_close(y, expected[place], atol=1e-4, rtol=1e-4)


def test_layers_of_four_bits_train_after_others_have_answered() -> None:
    layer: Any = quantizer(4)(nn.Linear(64, 64, bias=False))
    weights, x = FourBit([layer], kernels.plain), torch.randn(2, 64)

    def again() -> bool:
        with torch.inference_mode():
            answered = weights.forward(x)
        return torch.equal(weights.forward(x), answered)

    with ThreadPoolExecutor(1) as pool:  # a thread of its own has no memory to unpack into yet
        assert pool.submit(again).result()


def test_what_is_run_is_told(folder: Path) -> None:
    config = RtnConfig(group_size=128, weight_dtype="int4_clip", compute_dtype="int8", mse_range=True, sym=False)
    assert build(folder, config).notices == (
        "RtnConfig: linear layers are kept in nf4 instead of int4_clip, blocks of 64, computed in bfloat16 instead of "
        "int8",
        "RtnConfig(group_size=128) has no effect: neuralbot's own layers do not know it",
        "RtnConfig(sym=False) has no effect: neuralbot's own layers do not know it",
        "RtnConfig(mse_range=True) has no effect: neuralbot's own layers do not know it",
    )
    assert len(build(folder, RtnConfig(bits=8)).notices) == 1


def test_the_plain_weights_are_never_all_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling, "load_base", None)
    assert linear(build(folder, RtnConfig(bits=8))) == {Int8Linear}


def test_layers_that_do_not_divide_into_blocks_are_counted(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert "1 of 7 linear layers do not divide into blocks and stay plain" in build(tmp_path, RtnConfig()).notices


def test_a_model_whose_layers_cannot_be_kept_so_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    size = {"vocab_size": len(tiny_tokenizer), "n_embd": 48, "n_inner": 48, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**size)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"\(gpt2\) has no linear layer that can be kept in nf4; use Mixed"):
        build(tmp_path, RtnConfig(bits=4))
    assert "linear layers are kept in int8" in build(tmp_path, RtnConfig(bits=8)).notices[0]


def test_float32_where_the_processor_has_no_bfloat16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2"}))
    chatbot = build(folder, RtnConfig(bits=8, compute_dtype="bf16"))
    assert model_of(chatbot).dtype == torch.float32
    assert "computed in integers beside float32 instead of bfloat16" in chatbot.notices[0]
    assert chatbot.predict("hello", config=GREEDY)


REFUSED = {
    **dict.fromkeys(("GPTQConfig", "AwqConfig", "TeqConfig", "AutoRoundConfig"), "by the torch engine.*RtnConfig"),
    **dict.fromkeys(
        ("SmoothQuantConfig", "StaticQuantConfig", "DynamicQuantConfig", "QuantAwareTrainingConfig"), "RtnConfig"
    ),
    "OtherConfig": "optimization_config is a OtherConfig: expected",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_configs_are_refused_with_what_to_use(folder: Path, name: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]) as caught:
        build(folder, type(name, (), {})())
    assert name in str(caught.value) and caught.value.code == 5001


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RtnConfig(bits=3), r"RtnConfig\(bits=3, weight_dtype=None\): expected bits=8 or 4"),
        (RtnConfig(weight_dtype="fp8_e4m3"), r"weight_dtype='fp8_e4m3'\): expected"),
        (RtnConfig(llm_int8_skip_modules=["q_proj"]), "llm_int8_skip_modules"),
        (RtnConfig(use_quant=False), "use_quant=False"),
        (WeightOnlyQuantConfig(algorithm="TEQ"), "algorithm='TEQ'.*only RTN is offered"),
        (BitsAndBytesConfig(), "neither load_in_8bit nor load_in_4bit"),
        (BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["x"]), "llm_int8_skip_modules"),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused(folder: Path, config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(folder, config)
    assert caught.value.code == (5009 if isinstance(config, BitsAndBytesConfig) else 5001)


def test_weight_only_layers_are_for_the_cpu() -> None:
    with pytest.raises(ModelError, match="weight-only layers are for device='cpu'"):
        precision.of(RtnConfig(), "cuda")


def test_an_assistant_answers_the_same(folder: Path) -> None:
    greedy, exact = replace(GREEDY, max_new_tokens=30), MixedPrecisionConfig("float32")
    helped, passes = build(folder, exact, assistant_model=str(folder)), []
    model_of(helped).register_forward_pre_hook(lambda *_: passes.append(1))
    assert helped.predict("hello", config=greedy) == build(folder, exact).predict("hello", config=greedy)
    assert 1 <= len(passes) < 10


def test_an_assistant_with_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    tokenizer = json.loads((tmp_path / "other/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    last, before = sorted(vocabulary, key=lambda word: -vocabulary[word])[:2]
    vocabulary[last], vocabulary[before] = vocabulary[before], vocabulary[last]
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"other has another vocabulary than .* give a smaller model of the same"):
        build(folder, None, assistant_model=str(tmp_path / "other"))
