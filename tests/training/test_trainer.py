"""The training loop: padding, the stop at a bad loss, and no pickle on the disk."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import TrainingArguments

from neuralbot import hardware
from neuralbot.arguments import FinetuningArguments
from neuralbot.errors import ModelError, TrainingDiverged
from neuralbot.kernels.frozen import can_prepack
from neuralbot.training import adapter
from neuralbot.training.build import build_trainer, why_reference
from neuralbot.training.packed_trainer import prepacks
from neuralbot.training.trainer import Collator, MetricsCallback, perplexity

ROWS = [{"input_ids": [5, 6, 7, 8, 9][: 2 + i % 4], "labels": [-100, 6, 7, 8, 9][: 2 + i % 4]} for i in range(24)]


Kernels = Literal["fast", "reference"]
both = pytest.mark.parametrize("kernels", ["fast", "reference"])


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


@both
def test_training_lowers_the_loss_and_counts_tokens(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, kernels: Kernels
) -> None:
    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(lora_all_linear=True), seed=1)
    records: list[dict[str, Any]] = []
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path, max_steps=30), ROWS, None, kernels=kernels)
    trainer.add_callback(MetricsCallback(records.append))
    trainer.train()
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] * 0.9
    assert trainer.tokens == pytest.approx(30 * 4 * 3.5, rel=0.05)
    assert 0 < trainer.target_tokens < trainer.tokens
    assert all(record["tokens_per_s"] > 0 for record in records if "loss" in record)


@both
def test_adapter_is_fp32_on_a_bf16_base_and_all_of_it_moves(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, kernels: Kernels
) -> None:
    model = adapter.add_adapter(copy_of(tiny_model).to(torch.bfloat16), FinetuningArguments(lora_dropout=0.0), seed=1)
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert {value.dtype for value in trained.values()} == {torch.float32}
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path, bf16=True), ROWS, None, kernels=kernels)
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
    trainer = build_trainer(
        model, tiny_tokenizer, arguments(tmp_path, logging_steps=5), ROWS, None, kernels="reference"
    )
    with pytest.raises(TrainingDiverged, match=r"step 1.*learning_rate"):
        trainer.train()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) or name == "model.norm.weight"


@both
def test_a_bad_adapter_stops_the_run_before_any_weight_changes(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, kernels: Kernels
) -> None:
    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(), seed=1)
    bad = next(value for name, value in model.named_parameters() if "layers.1" in name and "lora_B" in name)
    with torch.no_grad():
        bad[0] = float("nan")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path), ROWS, None, kernels=kernels)
    with pytest.raises(TrainingDiverged, match="step 1"):
        trainer.train()
    assert all(torch.equal(value, before[name]) or value is bad for name, value in model.named_parameters())


def test_fast_and_plain_train_alike_for_60_steps(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """bf16, the same rows in the same order, small batches accumulated: curves within 0.5 %, the same held-out loss."""
    curves: dict[str, list[float]] = {}
    held_out: dict[str, float] = {}
    rows = ROWS + [{"input_ids": [3] * 9 + [n, 7, n], "labels": [-100] * 9 + [n, 7, n]} for n in range(20, 40)]
    for kernels in ("reference", "fast"):
        model = adapter.add_adapter(
            copy_of(tiny_model).to(torch.bfloat16), FinetuningArguments(lora_dropout=0.0), seed=1
        )
        settings = arguments(
            tmp_path / kernels, max_steps=60, bf16=True, gradient_accumulation_steps=2, learning_rate=2e-3
        )
        trainer = build_trainer(model, tiny_tokenizer, settings, rows, rows[:10], kernels=kernels)
        trainer.train()
        curves[kernels] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        held_out[kernels] = trainer.evaluate()["eval_loss"]
    assert len(curves["fast"]) == 60
    assert curves["reference"][-1] < 0.95 * curves["reference"][0]
    assert curves["fast"] == pytest.approx(curves["reference"], rel=5e-3)
    assert held_out["fast"] == pytest.approx(held_out["reference"], rel=5e-3)


@pytest.mark.parametrize("peft", ["lora", "prompt", "prefix"])
def test_smoothing_is_that_of_whole_steps_and_not_of_held_out_rows(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, peft: str
) -> None:
    """Small batches accumulated train as whole steps do, and fast as plain; held-out losses are not smoothed."""
    tuning = FinetuningArguments(peft=peft, lora_dropout=0.0)
    ways: list[tuple[Kernels, int]] = [("reference", 1), ("reference", 2), *([("fast", 2)] if peft == "lora" else [])]
    curves, held_out = [], []
    for kernels, accumulated in ways:
        model = adapter.add_adapter(copy_of(tiny_model), tuning, seed=1)
        settings = arguments(
            tmp_path, label_smoothing_factor=0.2, learning_rate=0.02,
            per_device_train_batch_size=4 // accumulated, gradient_accumulation_steps=accumulated,
        )  # fmt: skip
        trainer = build_trainer(model, tiny_tokenizer, settings, ROWS, ROWS, kernels=kernels)
        trainer.train()
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        held_out.append(trainer.evaluate()["eval_loss"])
        sharp = build_trainer(model, tiny_tokenizer, arguments(tmp_path), ROWS, ROWS, kernels=kernels)
        assert sharp.evaluate()["eval_loss"] == pytest.approx(held_out[-1], rel=1e-5)
    assert all(curve == pytest.approx(curves[0], rel=1e-4) for curve in curves)
    assert held_out == pytest.approx([held_out[0]] * len(held_out), rel=1e-4)


def test_smoothing_changes_what_is_trained(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    losses = []
    for smoothing in (0.0, 0.2):
        model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(lora_dropout=0.0), seed=1)
        settings = arguments(tmp_path, label_smoothing_factor=smoothing, learning_rate=0.05)
        trainer = build_trainer(model, tiny_tokenizer, settings, ROWS, ROWS, kernels="reference")
        trainer.train()
        losses.append(trainer.evaluate()["eval_loss"])
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_best_checkpoint_is_loaded_back_into_the_fast_path(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(lora_dropout=0.0), seed=1)
    settings = arguments(
        tmp_path, max_steps=8, learning_rate=10.0, lr_scheduler_type="constant", eval_strategy="steps", eval_steps=2,
        save_strategy="steps", save_steps=2, load_best_model_at_end=True,
    )  # fmt: skip
    trainer = build_trainer(model, tiny_tokenizer, settings, ROWS, ROWS, kernels="fast")
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(set(losses)) > 1
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_plain_peft_loads_what_the_fast_path_trained(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(lora_dropout=0.0), seed=1)
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path), ROWS, None, kernels="fast")
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    ids = torch.arange(12)[None]
    loaded = PeftModel.from_pretrained(copy_of(tiny_model), str(tmp_path / "run"))
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert not torch.equal(loaded(ids).logits, copy_of(tiny_model)(ids).logits)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"neftune_noise_alpha": 5.0}, "neftune"),
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen"),
        ({}, None),
    ],
)
def test_what_the_fast_trainer_cannot_do_is_said(
    tiny_model: Any, tmp_path: Path, change: dict[str, Any], reason: str | None
) -> None:
    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(), seed=1)
    found = why_reference(model, arguments(tmp_path, **change), 100)
    assert found is None if reason is None else reason in (found or "")


@both
def test_released_weights_are_gone(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, kernels: Kernels) -> None:
    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(), seed=1)
    trainer = build_trainer(model, tiny_tokenizer, arguments(tmp_path), ROWS, None, kernels=kernels)
    trainer.train()
    weights = [weakref.ref(parameter) for parameter in model.parameters() if not parameter.requires_grad]
    trainer.release()
    gc.collect()
    assert not any(weight() for weight in weights)
    assert trainer.tokens > 0


@both
def test_checkpoints_hold_no_pickle(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, kernels: Kernels) -> None:
    model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(), seed=1)
    settings = arguments(tmp_path, save_strategy="steps", save_steps=3)
    build_trainer(model, tiny_tokenizer, settings, ROWS, None, kernels=kernels).train()
    files = [path.name for path in (tmp_path / "checkpoint-3").iterdir()]
    assert "adapter_model.safetensors" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


@both
def test_the_same_seed_gives_the_same_weights(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, kernels: Kernels
) -> None:
    def train(seed: int) -> torch.Tensor:
        model = adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(), seed=seed)
        settings = arguments(tmp_path / str(seed), seed=seed)
        build_trainer(model, tiny_tokenizer, settings, ROWS, None, kernels=kernels).train()
        return torch.cat([value.flatten() for value in model.parameters() if value.requires_grad])

    first = train(7)
    assert torch.equal(first, train(7))
    assert not torch.equal(first, train(8))


def test_wrong_lora_modules_name_the_right_ones(tiny_model: Any) -> None:
    with pytest.raises(ModelError, match=r"c_attn.*q_proj"):
        adapter.add_adapter(copy_of(tiny_model), FinetuningArguments(lora_target_modules=["c_attn"]), seed=1)


def test_perplexity_of_a_huge_loss_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf


@pytest.mark.skipif(not can_prepack(), reason="oneDNN multiplies no bf16 here")
def test_only_a_bf16_base_whose_copies_are_small_is_copied_into_blocks(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapter.add_adapter(copy_of(tiny_model).bfloat16(), FinetuningArguments(), seed=1)
    assert prepacks(model)
    assert not prepacks(adapter.add_adapter(copy_of(tiny_model).float(), FinetuningArguments(), seed=1))
    small = replace(hardware.probe(), memory_bytes=2**14)
    monkeypatch.setattr(hardware, "probe", lambda: small)
    assert not prepacks(model)
