"""Tokens that a recipe adds: one id each in the rows, trained by LoRA and fully, saved and read again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, GPTJConfig

from neuralbot import finetune, recipe, vocabulary
from neuralbot.conversation import Turn, encode_prompt
from neuralbot.errors import ModelError
from neuralbot.modeling import load_base, load_for_chat

MARK, OTHER = "<|addon|>", "«rating»"


def save_base(folder: Path, tiny_model: Any, tiny_tokenizer: Any, *, tied: bool) -> Path:
    config = copy.deepcopy(tiny_model.config)
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def finetuned(folder: Path, base: Path, finetuning: dict[str, Any]) -> finetune.FinetuneResult:
    rows = [{"instruction": f"Name {MARK} {i}", "output": f"{OTHER} {i} {MARK}"} for i in range(16)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    whole = {
        "model": {"model_name_or_path": str(base)},
        "data": {"train_file": str(folder / "rows.json"), "special_tokens": [MARK, OTHER, "<|user|>"]},
        "finetuning": finetuning,
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 6, "per_device_train_batch_size": 8, "logging_steps": 2,
            "learning_rate": 0.01,
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(whole), encoding="utf-8")
    return finetune.run(recipe.load(folder / "recipe.yaml"))


WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora on int8": {"qlora": True, "bits": 8},
    "full": {"full_finetune": True},
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("way", WAYS)
def test_new_tokens_are_trained_and_come_back(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, way: str, tied: bool
) -> None:
    base = save_base(tmp_path / "base", tiny_model, tiny_tokenizer, tied=tied)
    known = len(tiny_tokenizer)
    result = finetuned(tmp_path, base, WAYS[way])
    loaded = load_for_chat(str(result.run_dir), torch.float32)
    assert loaded.tokenizer.convert_tokens_to_ids([MARK, OTHER]) == [known, known + 1]
    before = load_base(str(base), torch.float32)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, name)().weight, getattr(loaded.model, name)().weight
        assert len(new) == known + 2
        if way != "full":
            assert torch.equal(new[:known], old)
        moved = (new[known:] - old.mean(0)).abs().amax(1)
        assert moved.min() > 1e-3  # six steps of 0.01
    if way == "full":
        return
    plain = AutoPeftModelForCausalLM.from_pretrained(result.run_dir, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 6, known, known + 1]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)
    manifest = json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))
    assert "trainable_tokens_delta" in manifest["kernels_reason"]
    assert "data.special_tokens: the tokenizer had 1 of 3 already" in manifest["notices"]


def test_rows_hold_one_id_for_a_mark_and_the_template_keeps_its_own(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|over|>")
    known = len(tokenizer)
    assert vocabulary.add_tokens(tokenizer, [MARK, "<|user|>", "<|over|>"]) == (known, known + 1)
    ids = encode_prompt(tokenizer, [Turn("user", f"a{MARK}b <|over|>")])
    assert ids.count(known) == 1
    assert ids.count(known + 1) == 1  # the template's, not the user's
    assert tokenizer.decode([known], skip_special_tokens=True) == MARK


def test_tokens_start_at_the_mean_of_the_rows_before_them(tmp_path: Path) -> None:
    config = GPTJConfig(vocab_size=50, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.lm_head.bias)
    old = copy.deepcopy(model)
    vocabulary.make_room(model, (48, 52))  # as where the output layer has rows to spare
    assert model.lm_head.weight.shape == (53, 16)
    for found, before in (
        (model.lm_head.weight, old.lm_head.weight), (model.lm_head.bias, old.lm_head.bias),
        (model.transformer.wte.weight, old.transformer.wte.weight),
    ):  # fmt: skip
        torch.testing.assert_close(found[[48, 52]], before[:48].mean(0).expand_as(found[[48, 52]]))
        assert torch.equal(found[:48], before[:48])


def test_an_output_layer_with_a_bias_is_told(tiny_tokenizer: Any, tmp_path: Path) -> None:
    config = GPTJConfig(vocab_size=700, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=128)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match=r"output layer of gptj has a bias.*full_finetune"):
        finetuned(tmp_path, tmp_path / "base", {})
    assert not (tmp_path / "run").exists()
