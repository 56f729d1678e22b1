"""Rebuilding the embedded base: the tokenizer to the byte, the training for a few steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from neuralbot import pretrain
from neuralbot.arguments import PretrainArguments
from neuralbot.modeling import load_for_chat
from neuralbot.recipe import load_section

ROOT = Path(__file__).parents[1]


def recipe() -> PretrainArguments:
    return load_section(ROOT / "recipes" / "seedling.yaml", "pretraining", PretrainArguments)


def test_the_committed_tokenizer_is_what_the_recipe_builds(tmp_path: Path) -> None:
    pretrain.build_tokenizer(recipe().vocab_size, recipe().seed).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (ROOT / "neuralbot" / "seedling" / name).read_text()


def test_a_few_steps_write_a_model_that_loads(tmp_path: Path) -> None:
    short = dataclasses.replace(recipe(), output_dir=str(tmp_path), max_steps=3, tokens_per_batch=512)
    scores = pretrain.pretrain(short)
    assert set(scores) >= {"sort", "article", "function", "dialogue"}
    loaded = load_for_chat(str(tmp_path), torch.float32)
    assert loaded.model.num_parameters() == load_for_chat("seedling", torch.float32).model.num_parameters()
    assert "| sort |" in (tmp_path / "README.md").read_text()
