"""Every model family: a tiny random checkpoint is tuned by a recipe, saved, loaded again, and chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CTRLConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot, finetune, recipe
from neuralbot.arguments import FinetuningArguments
from neuralbot.errors import ModelError
from neuralbot.training import adapter

SHORT: dict[str, Any] = {"vocab_size": 640, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
HEADS: dict[str, Any] = SHORT | {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LONG: dict[str, Any] = HEADS | {"max_position_embeddings": 128}
GROUPED: dict[str, Any] = LONG | {"intermediate_size": 32, "num_key_value_heads": 1}
WIDE: dict[str, Any] = GROUPED | {"head_dim": 16}
GPT: dict[str, Any] = SHORT | {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama 2": LlamaConfig(**WIDE | {"num_key_value_heads": 2}),
    "llama 3": LlamaConfig(**WIDE, rope_parameters=LLAMA3_ROPE),
    "mistral": MistralConfig(**WIDE, sliding_window=64),
    "mixtral": MixtralConfig(**WIDE, num_local_experts=2),
    "qwen 2": Qwen2Config(**GROUPED),
    "qwen 3": Qwen3Config(**WIDE),
    "falcon": FalconConfig(**LONG, multi_query=True),
    "falcon 40b": FalconConfig(**LONG, new_decoder_architecture=True, num_kv_heads=1),
    "gpt-j": GPTJConfig(**GPT, rotary_dim=8),
    "gpt-neox": GPTNeoXConfig(**LONG, intermediate_size=32),
    "gpt-2": GPT2Config(**GPT),
    "opt": OPTConfig(**LONG, ffn_dim=32, word_embed_proj_dim=16),
    "bloom": BloomConfig(**SHORT, hidden_size=32, n_layer=1, n_head=2),
    "mpt": MptConfig(**SHORT, d_model=32, n_layers=1, n_heads=2, max_seq_len=128),
    "phi 2": PhiConfig(**GROUPED),
    "phi 3": Phi3Config(**GROUPED),
    "phi 4": Phi3Config(**GROUPED, partial_rotary_factor=0.75, tie_word_embeddings=True),
    "gemma 2": Gemma2Config(**WIDE, sliding_window=64),
    "gemma 3": Gemma3TextConfig(**WIDE, sliding_window=64),
    "starcoder": GPTBigCodeConfig(**GPT),
    "starcoder 2": Starcoder2Config(**GROUPED, sliding_window=64),
}
PACKED = ("llama", "mistral", "qwen2")
WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"full_finetune": True},
    "int8": {"qlora": True, "bits": 8},
}
NOT_LORA = ("mixtral", "falcon 40b", "phi 2", "starcoder")  # in the quick run; the others are, and these:
QUICK = {("full", "llama 3"), ("full", "falcon"), ("full", "opt"), ("int8", "falcon"), ("int8", "gpt-2")}
QUESTION = "say 5"


def cases() -> list[Any]:
    # Mixtral's experts are stored under names that a base cannot be quantised from as it is read.
    every = [(way, name) for way in WAYS for name in FAMILIES if way == "lora" or name != "mixtral"]
    quick = [(way, name) for way, name in every if (way, name) in QUICK or (way == "lora" and name not in NOT_LORA)]
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in every if case not in quick]
    return [*quick, *slow]


def write_recipe(folder: Path, name: str, tokenizer: Any, finetuning: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(FAMILIES[name]).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for file, numbers in (("train", range(3, 11)), ("test", (5,))):
        rows = [{"instruction": f"say {i}", "output": f"{i} it is"} for i in numbers]
        (folder / f"{file}.json").write_text(json.dumps(rows), encoding="utf-8")
    whole = {
        "model": {"model_name_or_path": str(folder / "base")},
        "data": {"train_file": str(folder / "train.json"), "test_file": str(folder / "test.json")},
        "finetuning": {"lora_dropout": 0.0} | finetuning,
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 3, "per_device_train_batch_size": 8, "logging_steps": 1,
            "learning_rate": 0.02, "lr_scheduler_type": "constant",
        },
        "evaluation": {"before_tuning": False, "max_new_tokens": 3},
        "serving": {"do_sample": False, "max_new_tokens": 3, "repetition_penalty": 1.0},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(whole), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.mark.parametrize(("way", "name"), cases())
def test_a_family_is_tuned_saved_loaded_and_chats(way: str, name: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    result = finetune.run(recipe.load(write_recipe(tmp_path, name, tiny_tokenizer, WAYS[way])))
    records = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [record["loss"] for line in records if "loss" in (record := json.loads(line))]
    assert losses[-1] < losses[0]
    manifest = json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))
    family = FAMILIES[name].model_type
    packed = family in PACKED and way != "full"
    assert manifest["kernels"] == ("fast" if packed else "reference")
    assert packed or way == "full" or family in manifest["kernels_reason"]
    assert result.after is not None
    chatbot = build_chatbot(
        PipelineConfig(model_name_or_path=str(result.run_dir), optimization_config=MixedPrecisionConfig())
    )
    assert [chatbot.predict(query=QUESTION)] == [sample.answer for sample in result.after.samples]


def test_a_family_without_usual_layers_is_told_so() -> None:
    ctrl = AutoModelForCausalLM.from_config(CTRLConfig(vocab_size=97, n_embd=32, n_layer=1, n_head=2, dff=32))
    with pytest.raises(ModelError, match=r"ctrl at its usual layers.*Wk, Wq, Wv.*lora_all_linear"):
        adapter.add_adapter(ctrl, FinetuningArguments(), seed=1)
