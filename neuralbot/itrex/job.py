"""A recipe -> the arguments of the genuine package and of transformers 4.41, by their names of 2024."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.errors import UsageError

if TYPE_CHECKING:
    from neuralbot.arguments import ServingArguments
    from neuralbot.recipe import Recipe

_OUR_OWN = ("kernels",)  # fields of FinetuningArguments that the package does not have
_GENERATION = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "do_sample")


def finetune(recipe: Recipe, model: Path, files: dict[str, Path], questions: list[str], output: Path) -> dict[str, Any]:
    """The job of `worker.finetune`. files: `train` and perhaps `validation`, as rows.py writes them."""
    data, finetuning = recipe.data, asdict(recipe.finetuning)
    rows = {f"{role}_file": str(path) for role, path in files.items()}
    return {
        "do": "finetune",
        "model": {"model_name_or_path": str(model)},
        "data": rows | {"max_seq_length": data.max_seq_length, "dataset_concatenation": data.dataset_concatenation,
                        "max_source_length": data.max_prompt_length or data.max_source_length,
                        "max_target_length": recipe.evaluation.max_new_tokens}
        | ({"num_beams": recipe.evaluation.num_beams} if recipe.evaluation.num_beams > 1 else {}),
        "training": training_arguments(recipe, output, evaluates="validation" in files),
        "finetuning": {key: value for key, value in finetuning.items() if key not in _OUR_OWN} | {"device": "cpu"},
        "questions": questions,
        "peft_path": None if recipe.finetuning.full_finetune else str(output),
        "generation": generation(recipe.serving),
    }  # fmt: skip


def refuse(recipe: Recipe) -> None:
    """Raise UsageError for what the recipe asks and the package cannot do."""
    asked = {
        "data.prompt_style": (recipe.data.prompt_style, "the package writes prompts of its own"),
        "data.streaming": (recipe.data.streaming, "its rows are handed over as files"),
        "model.tokenizer_name": (recipe.model.tokenizer_name, "it takes the tokenizer of the model"),
        "training.early_stopping_patience": (recipe.early_stopping_patience, "it trains to the end"),
        "finetuning.device": (recipe.finetuning.device == "cuda", "it runs on the CPU here"),
    }
    for key, (value, reason) in asked.items():
        if value:
            raise UsageError(f"{key} cannot be honoured by the engine itrex: {reason}; leave it out")


def training_arguments(recipe: Recipe, output: Path, *, evaluates: bool) -> dict[str, Any]:
    """Those of the recipe, under the names that transformers 4.41 has for them."""
    old = dict(recipe.training)
    sampling = old.pop("train_sampling_strategy", None)
    if sampling == "group_by_length":
        old["group_by_length"] = True
    warmup = old.get("warmup_steps", 0)
    if 0 < warmup < 1:
        old["warmup_ratio"] = old.pop("warmup_steps")
    ours = {"output_dir": str(output), "overwrite_output_dir": True, "do_train": True, "do_eval": evaluates}
    return {"bf16": True} | old | ours | {"use_cpu": True, "report_to": [], "disable_tqdm": True}


def chat(model: Path, adapter: Path | None, serving: ServingArguments) -> dict[str, Any]:
    """The job of `worker.chat`."""
    return {
        "do": "chat",
        "model": {"model_name_or_path": str(model)},
        "peft_path": str(adapter) if adapter else None,
        "generation": generation(serving),
    }


def generation(serving: ServingArguments) -> dict[str, Any]:
    """The package's GenerationConfig for these settings."""
    return {name: getattr(serving, name) for name in _GENERATION}
