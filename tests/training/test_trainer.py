"""The training loop: padding, the stop at a bad loss, and no pickle on the disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from neuralbot.arguments import FinetuningArguments
from neuralbot.data.tokenized import Tokenized
from neuralbot.errors import ModelError, TrainingDiverged
from neuralbot.training import adapter
from neuralbot.training.trainer import Collator, MetricsCallback, build_trainer, perplexity

ROWS = [{"input_ids": [5, 6, 7, 8, 9][: 2 + i % 4], "labels": [-100, 6, 7, 8, 9][: 2 + i % 4]} for i in range(24)]


def copy_of(model: Any) -> Any:
    copied = type(model)(model.config)
    copied.load_state_dict(model.state_dict())
    return copied


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    chosen: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "save_only_model": True,
        "remove_unused_columns": False, "learning_rate": 1e-2, "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(**(chosen | changes))


def test_collator_pads_right_and_masks_padding() -> None:
    batch = Collator(pad_id=0)([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_collator_pads_to_a_given_length() -> None:
    assert Collator(pad_id=0, pad_to=7)(ROWS[:2])["input_ids"].shape == (2, 7)


def test_training_lowers_the_loss_and_counts_tokens(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = adapter.add_lora(copy_of(tiny_model), FinetuningArguments(lora_all_linear=True), seed=1)
    records: list[dict[str, Any]] = []
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path, max_steps=30), Tokenized(ROWS, 0, ()), None)
    trainer.add_callback(MetricsCallback(trainer, records.append))
    trainer.train()
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] * 0.9
    assert trainer.tokens == pytest.approx(30 * 4 * 3.5, rel=0.05)
    assert 0 < trainer.target_tokens < trainer.tokens
    assert all(record["tokens_per_s"] > 0 for record in records if "loss" in record)


def test_adapter_is_fp32_on_a_bf16_base_and_all_of_it_moves(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = adapter.add_lora(copy_of(tiny_model).to(torch.bfloat16), FinetuningArguments(lora_dropout=0.0), seed=1)
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert {value.dtype for value in trained.values()} == {torch.float32}
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path, bf16=True), Tokenized(ROWS, 0, ()), None)
    trainer.train()
    after = dict(model.named_parameters())
    unmoved = [name for name, value in trained.items() if torch.equal(value, after[name])]
    assert not unmoved
    moments = [tensor for state in trainer.optimizer.state.values() for tensor in state.values() if tensor.ndim]
    assert {moment.dtype for moment in moments} == {torch.float32}


def test_a_loss_that_is_not_a_number_stops_before_any_weight_changes(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = copy_of(tiny_model)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path, logging_steps=5), Tokenized(ROWS, 0, ()), None)
    with pytest.raises(TrainingDiverged, match=r"step 1.*learning_rate"):
        trainer.train()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) or name == "model.norm.weight"


def test_checkpoints_hold_no_pickle(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = adapter.add_lora(copy_of(tiny_model), FinetuningArguments(), seed=1)
    settings = arguments(tmp_path, save_strategy="steps", save_steps=3)
    build_trainer(model, tiny_tokenizer, settings, Tokenized(ROWS, 0, ()), None).train()
    files = [path.name for path in (tmp_path / "checkpoint-3").iterdir()]
    assert "adapter_model.safetensors" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_the_same_seed_gives_the_same_weights(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    def train(seed: int) -> torch.Tensor:
        model = adapter.add_lora(copy_of(tiny_model), FinetuningArguments(), seed=seed)
        settings = arguments(tmp_path / str(seed), seed=seed)
        build_trainer(model, tiny_tokenizer, settings, Tokenized(ROWS, 0, ()), None).train()
        return torch.cat([value.flatten() for value in model.parameters() if value.requires_grad])

    first = train(7)
    assert torch.equal(first, train(7))
    assert not torch.equal(first, train(8))


def test_wrong_lora_modules_name_the_right_ones(tiny_model: Any) -> None:
    with pytest.raises(ModelError, match=r"c_attn.*q_proj"):
        adapter.add_lora(copy_of(tiny_model), FinetuningArguments(lora_target_modules=["c_attn"]), seed=1)


def test_perplexity_of_a_huge_loss_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf
