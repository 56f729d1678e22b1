"""`build_chatbot`, `finetune_model` and `optimize_model` where ITREX had them; they raise where ITREX returned None."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from neuralbot import finetune
from neuralbot.arguments import DataArguments, FinetuningArguments, ModelArguments
from neuralbot.chatbot import build_chatbot
from neuralbot.data import origins
from neuralbot.data.bad_rows import BadRows
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.finetune import FinetuneResult
from neuralbot.neural_chat.config import BaseFinetuningConfig
from neuralbot.neural_chat.utils.error_utils import recorded
from neuralbot.recipe import Recipe
from neuralbot.recipe.fields import default_of
from neuralbot.recipe.objects import from_objects
from neuralbot.recipe.training_keys import training_fields
from neuralbot.transformers import MixedPrecisionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["build_chatbot", "finetune_model", "optimize_model"]

_SOURCE = "finetune_model"

_FAILED = {
    "ptun": ErrorCodes.ERROR_PTUN_FINETUNE_FAIL,
    "lora": ErrorCodes.ERROR_LORA_FINETUNE_FAIL,
    "llama_adapter": ErrorCodes.ERROR_LLAMA_ADAPTOR_FINETUNE_FAIL,
    "prefix": ErrorCodes.ERROR_PREFIX_FINETUNE_FAIL,
    "prompt": ErrorCodes.ERROR_PROMPT_FINETUNE_FAIL,
}

# Rows of a hub's test split that are scored where the config sets no max_eval_samples: answers take their time.
SCORED_ROWS = 100
# Percent of a data set that has training rows only.
HELD_BACK = 1


@recorded
def finetune_model(config: BaseFinetuningConfig) -> FinetuneResult:
    """Finetune as `config` says, by the same code as `neuralbot finetune`, into the folder `training_args.output_dir`.

    Returns the run's folder, its scores and losses, and the seconds of each stage. Raises NeuralbotError, with ITREX's
    number as `.code`; RecipeError, before anything is loaded, names each field that is wrong.
    """
    recipe = recipe_of(config)
    try:
        return finetune.run(recipe)
    except NeuralbotError as error:
        if error.code == ErrorCodes.ERROR_GENERIC:
            error.code = _FAILED[recipe.finetuning.peft]
        raise
    except Exception as error:
        what = f"finetuning failed: {type(error).__name__}: {error}"
        raise NeuralbotError(what, code=_FAILED[recipe.finetuning.peft]) from error


def recipe_of(config: BaseFinetuningConfig) -> Recipe:
    """The recipe that `config` stands for. Raises RecipeError, and UsageError for objects of another class."""
    _require_classes(config)
    sections = {
        "model": _changed(config.model_args),
        "data": _changed(config.data_args),
        "finetuning": _changed(config.finetune_args),
        "training": _changed_training(config.training_args),
    }
    if config.finetune_args.task == "summarization":
        sections["data"] |= _prompt_length(config.data_args)
    sections["evaluation"] = _evaluation(config.data_args, config.finetune_args.task)
    notices = getattr(config.training_args, "notices", ())
    recipe = from_objects(sections, source=_SOURCE, default_output=config.training_args.output_dir, notices=notices)
    return _with_validation(recipe)


def _with_validation(recipe: Recipe) -> Recipe:
    """Where an evaluation is wanted and the data set has training rows only, a share of these is held back.

    ITREX evaluated on no rows at all then; of files this is an error that names the field.
    """
    data = recipe.data
    if not (recipe.evaluates and data.dataset_name) or data.validation_file or data.validation_split_percentage:
        return recipe
    found = origins.find(data, recipe.finetuning.task, BadRows(), do_eval=True, token=recipe.model.token)
    if found.validation is not None:
        return recipe
    notice = (
        f"DataArguments: validation_split_percentage: 0, but {data.dataset_name} has no validation rows: "
        f"{HELD_BACK} % of its training rows are held back for the evaluation"
    )
    held_back = dataclasses.replace(data, validation_split_percentage=HELD_BACK)
    return dataclasses.replace(recipe, data=held_back, notices=(*recipe.notices, notice))


def _require_classes(config: Any) -> None:
    from transformers import TrainingArguments

    expected = {
        "model_args": ModelArguments,
        "data_args": DataArguments,
        "training_args": TrainingArguments,
        "finetune_args": FinetuningArguments,
    }
    if not isinstance(config, BaseFinetuningConfig):
        raise UsageError(
            f"finetune_model was given a {type(config).__name__}: expected a TextGenerationFinetuningConfig with "
            f"{', '.join(expected)}"
        )
    for name, cls in expected.items():
        if not isinstance(getattr(config, name), cls):
            raise UsageError(f"{name} is a {type(getattr(config, name)).__name__}: expected {cls.__name__}")


def _changed(arguments: Any) -> dict[str, Any]:
    """The fields that are not at their defaults: what a recipe would spell out."""
    values = {item.name: (getattr(arguments, item.name), default_of(item)) for item in dataclasses.fields(arguments)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _changed_training(arguments: Any) -> dict[str, Any]:
    """The same of a TrainingArguments, whose constructor fills in some fields by itself."""
    from transformers import TrainingArguments

    plain = TrainingArguments(output_dir=arguments.output_dir, use_cpu=arguments.use_cpu)
    names = [name for name in training_fields() if hasattr(plain, name)]
    changed = {name: getattr(arguments, name) for name in names if getattr(arguments, name) != getattr(plain, name)}
    for switch in ("use_cpu", "overwrite_output_dir"):
        if getattr(arguments, switch, False):
            changed[switch] = True
    return changed | {"output_dir": arguments.output_dir}


def _prompt_length(data: DataArguments) -> dict[str, Any]:
    """ITREX's own limit of documents; where the script sets one, it stands in the recipe by its old name."""
    return {} if "max_source_length" in _changed(data) else {"max_prompt_length": data.max_source_length}


def _evaluation(data: DataArguments, task: str) -> dict[str, Any]:
    """Without a test file only summaries are scored, as in ITREX: after tuning, by beam search."""
    if data.test_file:
        return {}
    if task != "summarization":
        return {"metric": "none"}
    beams = {} if "num_beams" in _changed(data) else {"num_beams": data.num_beams}
    return {"before_tuning": False, "max_samples": data.max_eval_samples or SCORED_ROWS} | beams


@recorded
def optimize_model(model: Any, config: Any, use_neural_speed: bool = False) -> PreTrainedModel:
    """`model` (a model, a folder or a hub name) in the precision of `config`, a MixedPrecisionConfig.

    Raises NeuralbotError for another config; weight-only ones go into PipelineConfig(optimization_config=...).
    """
    import torch

    from neuralbot import modeling

    if use_neural_speed or not isinstance(config, MixedPrecisionConfig):
        given = "use_neural_speed=True" if use_neural_speed else type(config).__name__
        raise NeuralbotError(
            f"optimize_model with {given} cannot be honoured: expected MixedPrecisionConfig; weight-only configs go "
            "into PipelineConfig(optimization_config=...)",
            code=ErrorCodes.ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL,
        )
    dtype = getattr(torch, config.dtype)
    optimized: PreTrainedModel = modeling.load_base(model, dtype) if isinstance(model, str) else model.to(dtype)
    return optimized
