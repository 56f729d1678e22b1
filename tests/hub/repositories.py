"""What the hub of these tests serves: a tiny Llama and tiny data sets under the names that the shipped recipes use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

LLAMA = "meta-llama/Llama-2-7b-chat-hf"
WIDE = "someone/wide-llama"  # its weights take three reads of a download
CHAT = "Intel/neural-chat-7b-v3-1"
NEWS = "cnn_dailymail"  # its name of old: the hub sends those who ask for it on to its owner's
CODE = "theblackcat102/evol-codealpaca-v1"
PICKLED = "someone/pickled-llama"
GATED_ROWS = "someone/gated-rows"
TEST_ONLY = "someone/test-only"

PLACES = ["Bergen", "Turin", "Leeds", "Porto", "Ghent", "Graz", "Cork", "Brno"]
NEWS_OF = [
    ("opened a library", "The building by the river holds 40,000 books and a hall for children."),
    ("closed its harbour", "A storm with waves of nine metres kept every boat at the quay."),
    ("elected a mayor", "She won by eleven votes and wants more trams before next winter."),
    ("planted a forest", "Volunteers set two thousand oaks on the hill behind the station."),
    ("built a bridge", "Cyclists may use it from Monday, cars have to wait until the spring."),
]
TASKS = [
    ("adds two numbers", "a, b", "a + b"),
    ("doubles a number", "a", "a * 2"),
    ("tells whether a number is even", "a", "a % 2 == 0"),
    ("joins two texts with a space", "a, b", 'a + " " + b'),
    ("gives the last item of a list", "a", "a[-1]"),
]


def build(root: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write all repositories below `root`, as server.Hub expects them."""
    models, datasets = root / "models", root / "datasets"
    for revision, layers in (("main", 2), ("v1", 1)):
        _model(models / LLAMA / revision, tokenizer, layers=layers, shard="200KB")
    _model(models / CHAT / "main", tokenizer, layers=1)
    _model(models / WIDE / "main", tokenizer, layers=1, intermediate_size=34_000)
    _model(models / PICKLED / "main", tokenizer, layers=1)
    (models / PICKLED / "main" / "model.safetensors").unlink()
    for revision, places in (("main", PLACES), ("v1", PLACES[:3])):
        _news(datasets / "abisee" / NEWS / revision, places)
        _jsonl(datasets / CODE / revision / "train.jsonl", _code(places))
    _jsonl(datasets / GATED_ROWS / "main" / "train.jsonl", _code(PLACES))
    _jsonl(datasets / TEST_ONLY / "main" / "test.jsonl", _code(PLACES))


def _model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, layers: int, shard: str = "1GB", intermediate_size: int = 128
) -> None:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=intermediate_size, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=512, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)  # few steps of a program's own settings do not lower the loss of every random model
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle: never to be downloaded" * 100)
    (folder / "README.md").write_text("# A tiny random Llama\n", encoding="utf-8")


def _news(folder: Path, places: list[str]) -> None:
    """Two configurations, each with three splits in parquet, listed in the card as the real data set lists them."""
    card = ["---", "configs:"]
    for config, word in (("1.0.0", "Earlier"), ("3.0.0", "Today")):
        card += [f'- config_name: "{config}"', "  data_files:"]
        rows = [
            {
                "article": f"{word} the town of {place} {event}. {more} People of {place} came to see it.",
                "highlights": f"{place} {event} .",
                "id": f"{config}-{place}-{number}",
            }
            for place in places
            for number, (event, more) in enumerate(NEWS_OF)
        ]
        for split, part in (("train", rows[:-8]), ("validation", rows[-8:-4]), ("test", rows[-4:])):
            file = folder / config / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), file)
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", "# News\n"]), encoding="utf-8")


def _code(places: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"Write a Python function called {place.lower()}_{number} that {task}.",
            "output": f"def {place.lower()}_{number}({names}):\n    return {value}",
        }
        for place in places
        for number, (task, names, value) in enumerate(TASKS)
    ]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (path.parent / "README.md").write_text("# Code\n", encoding="utf-8")
