"""LoRA on bases of 8 and 4 bits: what the recipe says is what is built, and evaluating does not disturb training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, TrainingArguments

from neuralbot.arguments import FinetuningArguments, ModelArguments
from neuralbot.errors import ModelError
from neuralbot.kernels.quantized import TABLES, FourBitLinear, Int8Linear
from neuralbot.quantized_base import left_whole
from neuralbot.training import adapter
from neuralbot.training.build import build_trainer, load_model

ROWS = [{"input_ids": [5, 6, 7, 8, 9][: 2 + i % 4], "labels": [-100, 6, 7, 8, 9][: 2 + i % 4]} for i in range(24)]
EIGHT = FinetuningArguments(qlora=True, bits=8)
NF4 = FinetuningArguments(qlora=True, bits=4)
FP4 = FinetuningArguments(qlora=True, bits=4, quant_type="fp4", double_quant=False)
kinds = pytest.mark.parametrize("tuning", [EIGHT, NF4, FP4], ids=["int8", "nf4", "fp4"])


@pytest.fixture(scope="module")
def base(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_model.save_pretrained(folder)
    return folder


def load(base: Path, tuning: FinetuningArguments) -> Any:
    return load_model(ModelArguments(model_name_or_path=str(base)), tuning, torch.bfloat16)


def train(
    model: Any,
    tokenizer: Any,
    folder: Path,
    kernels: Literal["fast", "reference"],
    *,
    dropout: float = 0.0,
    **changes: Any,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of six steps, and the adapter after them."""
    chosen: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1, "bf16": True,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "learning_rate": 0.05,
        "remove_unused_columns": False, "dataloader_pin_memory": False,
    }  # fmt: skip
    adapted = adapter.add_adapter(model, FinetuningArguments(lora_dropout=dropout), seed=1)
    settings = TrainingArguments(**(chosen | changes))
    trainer = build_trainer(adapted, tokenizer, settings, ROWS, ROWS, kernels=kernels)
    if settings.eval_strategy != "no":
        trainer.evaluate()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kernels", ["fast", "reference"])
@kinds
def test_evaluating_on_the_way_changes_nothing(
    base: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: FinetuningArguments, kernels: Any
) -> None:
    """bitsandbytes repacks four-bit weights in an evaluation on a CPU, and then trains on other ones."""
    model = load(base, tuning)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    alone = train(load(base, tuning), tiny_tokenizer, tmp_path, kernels)
    between = train(model, tiny_tokenizer, tmp_path, kernels, eval_strategy="steps", eval_steps=1)
    assert between[0] == alone[0]
    assert between[0][-1] < between[0][0]
    assert all(torch.equal(between[1][name], alone[1][name]) for name in alone[1])
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kernels", ["fast", "reference"])
@kinds
def test_checkpointing_on_a_quantised_base_changes_nothing(
    base: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: FinetuningArguments, kernels: Any
) -> None:
    plain = train(load(base, tuning), tiny_tokenizer, tmp_path, kernels, dropout=0.1)
    again = train(load(base, tuning), tiny_tokenizer, tmp_path, kernels, dropout=0.1, gradient_checkpointing=True)
    assert again[0] == pytest.approx(plain[0], rel=1e-6)
    assert all(torch.allclose(again[1][name], plain[1][name], atol=1e-6) for name in plain[1])


def test_the_recipe_chooses_the_numbers_of_the_base(base: Path) -> None:
    def layer(tuning: FinetuningArguments) -> Any:
        return load(base, tuning).model.layers[0].mlp.up_proj

    assert isinstance(layer(EIGHT), Int8Linear)
    for quant_type in TABLES:
        for double in (True, False):
            made = layer(FinetuningArguments(qlora=True, quant_type=quant_type, double_quant=double))
            assert isinstance(made, FourBitLinear)
            assert made.table.tolist() == pytest.approx(TABLES[quant_type])
            assert made.steps.dtype == (torch.int8 if double else torch.float32)


SMALL: dict[str, Any] = {"vocab_size": 97, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 64}


def test_gptj_trains_on_eight_bits_with_smoothed_targets_and_checkpoints(tiny_tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(GPTJConfig(**SMALL, rotary_dim=8)).save_pretrained(tmp_path / "base")
    options = {"label_smoothing_factor": 0.1, "gradient_checkpointing": True}
    model = load(tmp_path / "base", EIGHT)
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 6
    losses, trained = train(model, tiny_tokenizer, tmp_path, "reference", **options)
    assert losses[-1] < losses[0]
    assert all(parameter.abs().max() > 0 for parameter in trained.values())


def test_layers_that_four_bits_cannot_hold_are_counted(base: Path, tmp_path: Path) -> None:
    assert left_whole(load(base, NF4)) == 0
    AutoModelForCausalLM.from_config(GPT2Config(**SMALL, n_inner=96)).save_pretrained(tmp_path / "some")
    assert left_whole(load(tmp_path / "some", NF4)) == 1  # what comes back from 96
    assert left_whole(load(tmp_path / "some", EIGHT)) == 0
    AutoModelForCausalLM.from_config(GPT2Config(**SMALL | {"n_embd": 32, "n_inner": 96})).save_pretrained(
        tmp_path / "none"
    )
    with pytest.raises(ModelError, match=r"none of the 4 linear layers of gpt2.* multiple of 64.*bits to 8"):
        left_whole(load(tmp_path / "none", NF4))
