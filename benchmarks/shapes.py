"""Llama checkpoints with random weights, by name: real shapes whose weights need no download.

    python -m benchmarks.shapes llama-162m FOLDER --vocab-size 32000

A layer is a shard, so that making a model needs the memory of one layer. The seed is fixed: one shape, one model.
Does not: make tokenizer files (peers/rows.py).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0
MAX_POSITION = 2048


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; `vocab` grows to the tokenizer's where that is larger."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int = 32000
    std: float = 0.02

    def config(self, vocab: int) -> dict[str, Any]:
        """The content of config.json, in words that old and new transformers read."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": vocab,
            "max_position_embeddings": MAX_POSITION,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def shards(self, vocab: int) -> Iterator[dict[str, tuple[int, ...]]]:
        """Tensor name -> size: the embeddings, each layer, then the final norm with the head."""
        hidden, keys = self.hidden, self.hidden // self.heads * self.kv_heads
        yield {"model.embed_tokens.weight": (vocab, hidden)}
        for index in range(self.layers):
            layer = f"model.layers.{index}"
            yield {
                f"{layer}.input_layernorm.weight": (hidden,),
                f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
                f"{layer}.self_attn.k_proj.weight": (keys, hidden),
                f"{layer}.self_attn.v_proj.weight": (keys, hidden),
                f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
                f"{layer}.post_attention_layernorm.weight": (hidden,),
                f"{layer}.mlp.gate_proj.weight": (self.intermediate, hidden),
                f"{layer}.mlp.up_proj.weight": (self.intermediate, hidden),
                f"{layer}.mlp.down_proj.weight": (hidden, self.intermediate),
            }
        yield {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}

    def parameters(self, vocab: int) -> int:
        """How many there are without the input embeddings, which are looked up and not multiplied."""
        _, *rest = self.shards(vocab)
        return sum(math.prod(size) for shard in rest for size in shard.values())


SHAPES = {
    "llama-162m": Shape(hidden=768, intermediate=3072, layers=12, heads=12, kv_heads=12),
    "llama-1.1b": Shape(hidden=2048, intermediate=5632, layers=22, heads=32, kv_heads=4),  # TinyLlama
    "llama-7b": Shape(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32),
    # For tests. Larger weights, because at 0.02 a model this small gives every row the same loss.
    "tiny": Shape(hidden=32, intermediate=64, layers=2, heads=2, kv_heads=1, vocab=64, std=0.3),
}


def write_checkpoint(shape: Shape, vocab: int, folder: Path) -> None:
    """Config, bf16 shards and their index, in a folder that exists."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    (folder / "config.json").write_text(json.dumps(shape.config(vocab), indent=2), encoding="utf-8")
    places: dict[str, str] = {}
    for number, shard in enumerate(shape.shards(vocab), start=1):
        name = f"model-{number:05}-of-{shape.layers + 2:05}.safetensors"
        tensors = {
            key: torch.ones(size, dtype=torch.bfloat16)
            if len(size) == 1
            else torch.empty(size, dtype=torch.bfloat16).normal_(0, shape.std, generator=generator)
            for key, size in shard.items()
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description="Write a random Llama checkpoint.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab-size", type=int, default=0, help="at least this many tokens")
    chosen = parser.parse_args(arguments)
    shape: Shape = SHAPES[chosen.shape]
    chosen.folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(shape, max(shape.vocab, chosen.vocab_size), chosen.folder)


if __name__ == "__main__":
    main()
