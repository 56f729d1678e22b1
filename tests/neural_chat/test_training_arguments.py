"""TrainingArguments takes the arguments of 2024, each with one warning, and is that of transformers otherwise."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import transformers

from neuralbot.errors import RecipeError
from neuralbot.recipe import old_keys
from neuralbot.transformers import TrainingArguments

VALUES: dict[str, Any] = {
    "evaluation_strategy": "steps",
    "warmup_ratio": 0.1,
    "save_safetensors": False,
    "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
}


def given(name: str) -> Any:
    fields: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(TrainingArguments)}
    return VALUES.get(name, True if fields[name].default is False else "x" if "str" in str(fields[name].type) else 3)


@pytest.mark.parametrize("name", sorted(set(old_keys.TODAY) - {"torchdynamo", "save_safetensors"}))
def test_an_old_argument_is_taken_with_one_warning(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "neuralbot"):
        arguments: Any = TrainingArguments(output_dir=str(tmp_path), **{name: given(name)})
    assert len(caplog.records) == 1 == len(arguments.notices)
    assert caplog.records[0].message.startswith(f"TrainingArguments: {name}: ")
    today = old_keys.TODAY[name]
    assert not today or getattr(arguments, today) != getattr(transformers.TrainingArguments("x"), today)


@pytest.mark.parametrize("name", ["torchdynamo", "save_safetensors"])
def test_what_would_be_lost_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"TrainingArguments: {name}: cannot be honoured: "):
        TrainingArguments(output_dir=str(tmp_path), **{name: given(name)})


def test_todays_arguments_are_those_of_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values: dict[str, Any] = {"output_dir": str(tmp_path), "eval_strategy": "epoch", "learning_rate": 1e-3, "seed": 3}
    ours, theirs = TrainingArguments(**values).to_dict(), transformers.TrainingArguments(**values).to_dict()
    assert {name: ours[name] for name in theirs} == theirs
    assert caplog.records == []


def test_bf16_works_without_a_gpu_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert TrainingArguments(output_dir=str(tmp_path), bf16=True).use_cpu is True


def test_a_backend_without_other_processes_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert TrainingArguments(output_dir=str(tmp_path), ddp_backend="ccl").ddp_backend is None
    assert "TrainingArguments: ddp_backend: has no effect: this is one process" in caplog.text
