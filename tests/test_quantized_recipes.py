"""The shipped recipes for large bases of 8 and 4 bits, run as they are on a small base and a few rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig

from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot, finetune, recipe
from tests.families import FAMILIES

SMALL = (
    "training.max_steps=2", "training.learning_rate=0.02", "training.warmup_steps=0", "serving.max_new_tokens=3",
)  # fmt: skip
SIZES: dict[str, Any] = {"vocab_size": 700, "bos_token_id": None, "eos_token_id": 1}
GPTJ = GPTJConfig(**SIZES, n_embd=64, n_layer=2, n_head=2, rotary_dim=8, n_positions=512)
LLAMA = LlamaConfig(
    **SIZES, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=2048,
)  # fmt: skip


def base(folder: Path, config: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def questions(path: Path, words: int = 3) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Answer"])
        writer.writerows([f"Do blocks expire? {i}", f"{i} " + "no " * (words if i % 2 else 3)] for i in range(40))
    return path


def run(name: str, base: Path, rows: Path, folder: Path) -> tuple[finetune.FinetuneResult, dict[str, Any]]:
    names = f"model.model_name_or_path={base}", f"data.train_file={rows}"
    result = finetune.run(recipe.load(name, [*names, *SMALL], output_dir=str(folder / "run")))
    return result, json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))


def check(result: finetune.FinetuneResult, manifest: dict[str, Any], bits: int, kernels: str) -> None:
    """The things that hold for each of the recipes."""
    assert (manifest["base_bits"], manifest["kernels"]) == (bits, kernels)
    assert manifest["method"] == "lora"
    assert result.metrics["eval_loss"] < result.metrics["eval_loss_before"]
    chatbot = build_chatbot(
        PipelineConfig(model_name_or_path=str(result.run_dir), optimization_config=MixedPrecisionConfig())
    )
    assert isinstance(chatbot.predict(query="Do blocks expire?"), str)


def test_gptj_on_8_bits(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = questions(tmp_path / "questions.csv")
    result, manifest = run("gptj-8bit", base(tmp_path / "base", GPTJ, tiny_tokenizer), rows, tmp_path)
    check(result, manifest, 8, "reference")
    assert manifest["prompt_style"] == "question_answer_brackets"
    config = json.loads((result.run_dir / "adapter_config.json").read_text(encoding="utf-8"))
    assert set(config["target_modules"]) == {"q_proj", "v_proj"}
    training = recipe.load("gptj-8bit").training
    assert (training["label_smoothing_factor"], training["gradient_checkpointing"]) == (0.1, True)


def test_llama_on_8_bits_with_rows_of_1500_tokens_packed(tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = base(tmp_path / "base", LLAMA, tiny_tokenizer)
    result, manifest = run("llama2-7b-8bit", folder, questions(tmp_path / "questions.csv", 1000), tmp_path)
    check(result, manifest, 8, "fast")
    assert manifest["prompt_style"] == "question_answer_headings"
    config = json.loads((result.run_dir / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 32, 0.05)
    assert set(config["target_modules"]) == {"q_proj", "v_proj"}
    assert any("an answer that is cut at data.max_seq_length=1500" in notice for notice in manifest["notices"])
    assert 1500 < result.metrics["computed_tokens"] < result.metrics["tokens"]  # nothing is padded


def test_qlora_for_a_chat_model(tmp_path: Path, tiny_tokenizer: Any) -> None:
    tokenizer = FAMILIES["llama-2"].tokenizer(tiny_tokenizer.backend_tokenizer)
    config = LlamaConfig(**LLAMA.to_dict() | {"vocab_size": 710})
    chats = [
        {"messages": [{"role": "user", "content": f"Find {i}"}, {"role": "assistant", "content": f"Try {i}."}]}
        for i in range(40)
    ]
    rows = tmp_path / "chats.jsonl"
    rows.write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    result, manifest = run("qlora-chat", base(tmp_path / "base", config, tokenizer), rows, tmp_path)
    check(result, manifest, 4, "fast")
    assert manifest["prompt_style"] == "tokenizer"
    config = json.loads((result.run_dir / "adapter_config.json").read_text(encoding="utf-8"))
    assert set(config["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}
