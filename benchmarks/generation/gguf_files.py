"""A Llama checkpoint in bf16 -> GGUF files for llama.cpp, in the forms that are compared.

A tokenizer goes in where it is a byte-level BPE that takes digits one by one, as the seedling's is; others do not.

python -m benchmarks.generation.gguf_files CHECKPOINT FOLDER        in the environment of llama-cpp-python and gguf
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write(checkpoint: Path, path: Path) -> None:
    """The file in bf16."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(path, "llama")
    _describe(writer, config)
    _describe_tokenizer(writer, checkpoint / "tokenizer.json", config["vocab_size"])
    for name, bits in _tensors(checkpoint):
        if bits.ndim == 1:
            writer.add_tensor(_renamed(name), (bits.astype(np.uint32) << 16).view(np.float32))
            continue
        for part, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
            if part in name:
                bits = _paired(bits, heads)
        writer.add_tensor(_renamed(name), bits.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, form: int) -> None:
    """Raises RuntimeError."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = form
    if status := llama_cpp.llama_model_quantize(bytes(source), bytes(target), options):
        raise RuntimeError(f"llama.cpp cannot quantize {source}: status {status}")


def _describe(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_file_type(llama_cpp.LLAMA_FTYPE_MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])


def _describe_tokenizer(writer: GGUFWriter, path: Path, size: int) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    steps = (content["pre_tokenizer"] or {}).get("pretokenizers", [])
    if [step["type"] for step in steps] != ["Digits", "ByteLevel"]:
        writer.add_tokenizer_model("no_vocab")
        return
    tokens = [f"[unused {number}]" for number in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, number in content["model"]["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for token in content["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], TokenType.CONTROL
    merges = content["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # llama.cpp's name for GPT-2's rules behind single digits
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_add_bos_token(False)


def _tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Name and bits of each tensor; numpy has no bf16, and torch is not in this environment."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            rest = np.frombuffer(file.read(), dtype=np.uint8)
        for name, about in head.items():
            if name != "__metadata__":
                start, end = about["data_offsets"]
                yield name, rest[start:end].view(np.uint16).reshape(about["shape"])


def _renamed(name: str) -> str:
    known = name.removesuffix(".weight")
    if not known.startswith("model.layers."):
        return f"{_NAMES[known]}.weight"
    layer, part = known.removeprefix("model.layers.").split(".", maxsplit=1)
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _paired(bits: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows in the order of llama.cpp's rotary positions: the halves of a head by turns."""
    rows, columns = bits.shape
    return np.ascontiguousarray(
        bits.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def main(checkpoint: str, folder: str) -> None:
    whole = Path(folder) / "bf16.gguf"
    write(Path(checkpoint), whole)
    quantize(whole, Path(folder) / "int8.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
    quantize(whole, Path(folder) / "int4.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)


if __name__ == "__main__":
    main(*sys.argv[1:])
