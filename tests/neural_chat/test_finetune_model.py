"""finetune_model is the finetune verb with Python objects: the same recipe and checks, a result or an exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser
from transformers import TrainingArguments as Plain

from neuralbot import finetune, recipe
from neuralbot.errors import NeuralbotError, RecipeError, TrainingDiverged, UsageError
from neuralbot.neural_chat import (
    CodeGenerationFinetuningConfig,
    SummarizationFinetuningConfig,
    TextGenerationFinetuningConfig,
    finetune_model,
)
from neuralbot.neural_chat.chatbot import recipe_of
from neuralbot.neural_chat.config import BaseFinetuningConfig, DataArguments, FinetuningArguments, ModelArguments
from neuralbot.neural_chat.utils.error_utils import get_latest_error
from neuralbot.transformers import TrainingArguments

ROWS = [{"instruction": f"Say {word}.", "output": word} for word in ("one", "two", "three", "four", "five", "six")] * 4


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    """The working directory of a script: a tiny model and a file of rows."""
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(training: Plain | None = None, tuning: dict[str, Any] | None = None, **data: Any) -> BaseFinetuningConfig:
    return TextGenerationFinetuningConfig(
        model_args=ModelArguments(model_name_or_path="model"),
        data_args=DataArguments(**{"train_file": "rows.json", "validation_split_percentage": 20} | data),
        training_args=training or TrainingArguments(output_dir="run", do_eval=True, max_steps=2, bf16=True),
        finetune_args=FinetuningArguments(**tuning or {}),
    )


def test_the_three_configs_are_one_class() -> None:
    assert TextGenerationFinetuningConfig is SummarizationFinetuningConfig is CodeGenerationFinetuningConfig


def test_it_returns_what_the_run_made_and_clears_the_latest_error(place: Path) -> None:
    with pytest.raises(RecipeError):
        finetune_model(config(train_file="none.json"))
    assert get_latest_error() == 3004
    result = finetune_model(config())
    assert result.run_dir == Path("run") and (place / "run/adapter_model.safetensors").is_file()
    assert result.metrics["steps"] == 2 and result.metrics["eval_loss"] > 0 and result.seconds["train"] > 0
    assert get_latest_error() is None


def test_it_is_the_recipe_that_the_verb_reads(place: Path) -> None:
    (place / "r.yaml").write_text(
        "model: {model_name_or_path: model}\n"
        "data: {train_file: rows.json, validation_split_percentage: 20}\n"
        "finetuning: {lora_rank: 4, qlora: true, bits: 8}\n"
        "training: {output_dir: run, do_eval: true, eval_strategy: epoch, learning_rate: 1e-3, bf16: true,\n"
        "  use_cpu: true, warmup_steps: 0.1, lr_scheduler_type: cosine, lr_scheduler_kwargs: {num_cycles: 0.5},\n"
        "  overwrite_output_dir: true}\n"
        "evaluation: {metric: none}\n"
    )
    arguments = TrainingArguments(
        output_dir="run", evaluation_strategy="epoch", learning_rate=1e-3, bf16=True, warmup_ratio=0.1, no_cuda=True,
        lr_scheduler_type="cosine", lr_scheduler_kwargs={"num_cycles": 0.5}, overwrite_output_dir=True,
    )  # fmt: skip
    made = recipe_of(config(arguments, {"lora_rank": 4, "qlora": True, "bits": 8}))
    assert made == recipe.load("r.yaml")
    assert [notice.split(": ")[1] for notice in made.notices] == [
        "warmup_ratio", "overwrite_output_dir", "no_cuda", "evaluation_strategy",
    ]  # fmt: skip


def test_a_plain_training_arguments_is_taken_too(place: Path) -> None:
    made = recipe_of(config(Plain(output_dir="run", do_eval=True, seed=7, use_cpu=True, debug="underflow_overflow")))
    expected = {"do_eval": True, "seed": 7, "use_cpu": True, "debug": ["underflow_overflow"], "output_dir": "run"}
    assert made.training == expected


def test_every_mistake_is_told_at_once_by_class_and_field(place: Path) -> None:
    wrong = config(Plain(output_dir="run", learning_rate=7), {"lora_rank": "x", "peft": "lore"}, train_file="row.json")
    with pytest.raises(RecipeError) as caught:
        finetune_model(wrong)
    said = str(caught.value).splitlines()
    assert said[0] == "the configuration has 4 problems:"
    assert [line.split(": ")[0:2] for line in said[1:]] == [
        ["  FinetuningArguments", "lora_rank"], ["  FinetuningArguments", "peft"],
        ["  TrainingArguments", "learning_rate"], ["  DataArguments", "train_file"],
    ]  # fmt: skip
    assert "did you mean lora?" in said[2] and "did you mean" in said[4]
    assert not (place / "run").exists()


def test_evaluation_of_files_without_validation_rows_is_an_error_that_names_the_field(place: Path) -> None:
    with pytest.raises(RecipeError, match=r"do_eval: there are no rows to evaluate on: set data\.validation_file or"):
        recipe_of(config(validation_split_percentage=0))


def test_a_data_set_with_training_rows_only_is_divided_and_said(place: Path) -> None:
    splits_of = {"only": ["train"], "both": ["train", "validation"]}
    for name, splits in splits_of.items():
        (place / name).mkdir()
        for split in splits:
            (place / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    only, both = (recipe_of(config(train_file=None, dataset_name=x, validation_split_percentage=0)) for x in splits_of)
    assert (only.data.validation_split_percentage, both.data.validation_split_percentage) == (1, 0)
    assert "0, but only has no validation rows: 1 % of its training rows are held back" in only.notices[-1]
    assert both.notices == ()


def test_summaries_are_made_and_scored_as_in_itrex(place: Path) -> None:
    """Its defaults count, too: documents of 384 tokens, answers of 128, 4 beams."""
    made = recipe_of(config(None, {"task": "summarization"}))
    assert made.data.max_prompt_length == 384
    assert (made.evaluation.max_new_tokens, made.evaluation.num_beams, made.evaluation.max_samples) == (128, 4, 100)
    assert made.notices == ()
    given = {"max_source_length": 60, "max_target_length": 20, "num_beams": 2, "max_eval_samples": 7}
    made = recipe_of(config(None, {"task": "summarization"}, **given))
    assert made.data.max_prompt_length == 60
    assert (made.evaluation.max_new_tokens, made.evaluation.num_beams, made.evaluation.max_samples) == (20, 2, 7)
    assert len(made.notices) == 3
    assert (recipe_of(config()).data.max_prompt_length, recipe_of(config()).evaluation.num_beams) == (None, 1)


def test_documents_of_all_splits_are_shortened(place: Path) -> None:
    rows = [{"article": f"{word} opened. " * 60, "highlights": f"{word} is open."} for word in ("Oslo", "Bonn", "Rome")]
    for name in ("rows.json", "test.json"):
        (place / name).write_text(json.dumps(rows * (8 if name == "rows.json" else 1)))
    limits = {"max_source_length": 50, "max_target_length": 3, "num_beams": 2, "test_file": "test.json"}
    result = finetune_model(config(None, {"task": "summarization"}, **limits))
    manifest = json.loads((result.run_dir / "manifest.json").read_text())
    told = [notice for notice in manifest["notices"] if "shortened" in notice]
    assert [notice.partition(":")[0] for notice in told] == ["test rows", "training rows", "validation rows"]
    assert all(notice.endswith("data.max_prompt_length=50") for notice in told)
    assert result.after is not None
    assert max(len(sample.prompt) for sample in result.after.samples) < 200 < len(rows[0]["article"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cfg", "finetune_model was given a str: expected a TextGenerationFinetuningConfig with model_args, data_args"),
        (BaseFinetuningConfig(*[None] * 4), "model_args is a NoneType: expected ModelArguments"),  # type: ignore[arg-type]
    ],
)
def test_objects_of_another_class_are_told(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        finetune_model(given)
    assert str(caught.value).startswith(message)
    assert get_latest_error() == 9999


@pytest.mark.parametrize("raised", [TrainingDiverged("the loss is nan"), ZeroDivisionError("division by zero")])
def test_what_fails_while_training_has_the_number_of_the_method(
    raised: Exception, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: recipe.Recipe) -> None:
        raise raised

    monkeypatch.setattr(finetune, "run", fail)
    with pytest.raises(NeuralbotError) as caught:
        finetune_model(config())
    assert caught.value.code == 4002 == get_latest_error()
    assert caught.value is raised or caught.value.__cause__ is raised


def test_the_four_parts_work_with_hf_argument_parser(place: Path) -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments, FinetuningArguments))  # type: ignore[arg-type]
    line = "--model_name_or_path model --train_file rows.json --output_dir run --overwrite_output_dir --no_cuda"
    line += " --per_gpu_train_batch_size 2 --bf16 True --lora_rank 4 --lora_target_modules q_proj v_proj"
    by_line = parser.parse_args_into_dataclasses(line.split())
    (place / "args.json").write_text(
        '{"model_name_or_path": "model", "train_file": "rows.json", "output_dir": "run", "overwrite_output_dir": true,'
        '"no_cuda": true, "per_gpu_train_batch_size": 2, "bf16": true, "lora_rank": 4,'
        '"lora_target_modules": ["q_proj", "v_proj"]}'
    )
    by_file = parser.parse_json_file("args.json")
    recipes = [recipe_of(BaseFinetuningConfig(*parts)) for parts in (by_line, by_file)]
    assert recipes[0] == recipes[1]
    assert recipes[0].training["per_device_train_batch_size"] == 2 and recipes[0].overwrite_output_dir
    assert recipes[0].finetuning.lora_target_modules == ["q_proj", "v_proj"]
