"""A model folder as the genuine package and transformers 4.41 expect it: the same weights, config files of 2024.

The package takes a model for what letters in its path say, so the folder is called by the model's type.

Does not: change the original; the folder holds links to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from neuralbot.errors import ModelError

_OUTPUT, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_REWRITTEN = ("config.json", "tokenizer_config.json", "tokenizer.json")


def prepare(original: Path, work: Path) -> Path:
    """Make the folder inside `work` and return it."""
    config = _read(original / "config.json")
    folder = work / f"{config.get('model_type', 'model')}-{original.name}"
    folder.mkdir()
    for file in original.iterdir():
        if file.is_file() and file.name not in _REWRITTEN:
            (folder / file.name).symlink_to(file.resolve())
    _write(folder / "config.json", _old_config(config))
    if (original / "tokenizer_config.json").is_file():
        _write(folder / "tokenizer_config.json", _old_tokenizer(_read(original / "tokenizer_config.json"), original))
    if config.get("tie_word_embeddings"):
        _name_embedding(folder / "model.safetensors")
    if (original / "tokenizer.json").is_file():
        _write(folder / "tokenizer.json", _old_merges(_read(original / "tokenizer.json")))
    return folder


def _name_embedding(weights: Path) -> None:
    """Write the file anew where it has a tied embedding by its name at the output only: 4.41 looks for the other."""
    if not weights.is_file():
        return
    with safe_open(weights, framework="pt") as file:
        if _OUTPUT not in file.keys() or _EMBEDDING in file.keys():  # noqa: SIM118  # it is no dictionary
            return
        tensors = {_EMBEDDING if name == _OUTPUT else name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights.unlink()  # the link
    save_file(tensors, weights, metadata={"format": "pt"})


def _old_merges(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """tokenizers 0.19 reads a merge as one text with a blank between its parts."""
    merges = tokenizer["model"].get("merges") or []
    if not merges or isinstance(merges[0], str):
        return tokenizer
    if blank := next((pair for pair in merges if any(" " in part for part in pair)), None):
        raise ModelError(f"the engine itrex cannot read this tokenizer: its merge {blank} has a blank in it")
    return tokenizer | {"model": tokenizer["model"] | {"merges": [" ".join(pair) for pair in merges]}}


def _old_config(config: dict[str, Any]) -> dict[str, Any]:
    old = {
        key: value for key, value in config.items() if key not in ("dtype", "rope_parameters", "quantization_config")
    }
    if "dtype" in config:
        old["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        old["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return old


def _old_tokenizer(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    old = {key: value for key, value in config.items() if key not in ("backend", "extra_special_tokens")}
    if not (folder / "tokenizer.model").is_file():  # or the package would look for one
        old["tokenizer_class"] = "PreTrainedTokenizerFast"
    if more := config.get("extra_special_tokens"):
        old["additional_special_tokens"] = more
    # token_type_ids make a Llama's generate raise, and predict return None
    old["model_input_names"] = ["input_ids", "attention_mask"]
    return old


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
