"""Families that the fast trainer does not know: it says so by name, and the plain trainer tunes them."""

from __future__ import annotations

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
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen3Config,
    TrainingArguments,
)

from neuralbot.arguments import FinetuningArguments
from neuralbot.errors import ModelError
from neuralbot.training import adapter
from neuralbot.training.build import build_trainer, why_reference

SIZES: dict[str, Any] = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA_LIKE: dict[str, Any] = SIZES | {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip
GPT_LIKE: dict[str, Any] = SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
CONFIGS = [
    Qwen3Config(**LLAMA_LIKE),
    Gemma2Config(**LLAMA_LIKE),
    Phi3Config(**LLAMA_LIKE),
    MixtralConfig(**LLAMA_LIKE, num_local_experts=2),
    PhiConfig(**{key: value for key, value in LLAMA_LIKE.items() if key != "head_dim"}),
    GPTJConfig(**GPT_LIKE, rotary_dim=8),
    GPT2Config(**GPT_LIKE),
    GPTBigCodeConfig(**GPT_LIKE),
    GPTNeoXConfig(**SIZES, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
    FalconConfig(**SIZES, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
    OPTConfig(
        **SIZES, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32,
        max_position_embeddings=64,
    ),
    MptConfig(**SIZES, d_model=32, n_layers=2, n_heads=2, max_seq_len=64),
    BloomConfig(**SIZES, hidden_size=32, n_layer=2, n_head=2),
]  # fmt: skip
ROWS = [{"input_ids": [5, 6, 7, 8, 9][: 2 + i % 4], "labels": [-100, 6, 7, 8, 9][: 2 + i % 4]} for i in range(12)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_plain_trainer_tunes_what_the_fast_one_does_not_know(
    config: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = adapter.add_adapter(AutoModelForCausalLM.from_config(config), FinetuningArguments(), seed=1)
    settings = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=10, per_device_train_batch_size=6, logging_steps=1, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", remove_unused_columns=False, learning_rate=3e-2,
        dataloader_pin_memory=False,
    )  # fmt: skip
    assert config.model_type in (why_reference(model, settings, longest_row=5) or "")
    trainer = build_trainer(model, tiny_tokenizer, settings, ROWS, None, kernels="reference")
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_a_family_without_usual_layers_is_told_so() -> None:
    ctrl = AutoModelForCausalLM.from_config(CTRLConfig(**GPT_LIKE, dff=32))
    with pytest.raises(ModelError, match=r"ctrl at its usual layers.*Wk, Wq, Wv.*lora_all_linear"):
        adapter.add_adapter(ctrl, FinetuningArguments(), seed=1)
