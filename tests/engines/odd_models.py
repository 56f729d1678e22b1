"""Small random models of families that differ in how they count places."""

from __future__ import annotations

from typing import Any

from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

FAMILIES: dict[str, Any] = {  # no position ids, learned positions, a window smaller than the answer
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64)),
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=6,
            max_position_embeddings=128,
        )
    ),
}
