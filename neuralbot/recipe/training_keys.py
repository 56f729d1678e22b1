"""The fields of section `training`: those of the installed `transformers.TrainingArguments`, and two of our own.

Importing that class takes seconds and pulls in torch; a recipe is to be checked in well under one. So its source file
is found without importing it, and names, annotations, defaults and help are read from the syntax tree; so are the
value lists of its enums. Only what the class does not say (ranges, a few value lists) stands here.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from neuralbot.errors import NeuralbotError
from neuralbot.recipe.fields import Field, Interval, read_annotation

# Source files of transformers that hold TrainingArguments and the enums its annotations name.
_SOURCE = "training_args.py"
_ENUM_SOURCES = (_SOURCE, "trainer_utils.py", "debug_utils.py")

# Still fields of some releases, but translated by old_keys.py in all.
_DEPRECATED = frozenset({"warmup_ratio", "logging_dir"})

_LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")

_CHOICES: dict[str, tuple[str, ...]] = {
    "log_level": _LOG_LEVELS,
    "log_level_replica": _LOG_LEVELS,
    "include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "metric_for_best_model": ("loss", "eval_loss"),
}

_HELP: dict[str, str] = {
    "report_to": "Where values go beside metrics.jsonl: none, all that are installed, or some of tensorboard, mlflow, "
    "trackio, wandb. What they keep on this machine goes into the run folder, or where TENSORBOARD_LOGGING_DIR, "
    "MLFLOW_TRACKING_URI, TRACKIO_DIR or WANDB_DIR say. A tracker that fails ends no run.",
}

_COUNT, _SEED, _STEPS, _SHARE = "[1, inf)", "[0, 4294967295]", "(0, inf)", "[0, 1)"

_INTERVALS: dict[str, str] = {
    "per_device_train_batch_size": "[1, 65536]",
    "per_device_eval_batch_size": "[1, 65536]",
    "num_train_epochs": "(0, 100000]",
    "max_steps": "[-1, inf)",
    "learning_rate": "(0, 1]",
    "warmup_steps": "[0, inf)",
    "weight_decay": "[0, 1]",
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": "(0, 1]",
    "gradient_accumulation_steps": "[1, 65536]",
    "max_grad_norm": "[0, inf)",
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": "[0, inf)",
    "torch_empty_cache_steps": _COUNT,
    "logging_steps": _STEPS,
    "eval_steps": _STEPS,
    "save_steps": _STEPS,
    "eval_delay": "[0, inf)",
    "eval_accumulation_steps": _COUNT,
    "save_total_limit": _COUNT,
    "seed": _SEED,
    "data_seed": _SEED,
    "dataloader_num_workers": "[0, 256]",
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "early_stopping_patience": _COUNT,
}

# name, kinds, default, help
_OWN: tuple[tuple[str, set[str], Any, str], ...] = (
    (
        "early_stopping_patience",
        {"int", "null"},
        None,
        "Stop after this many evaluations without a better loss. Needs load_best_model_at_end.",
    ),
    (
        "overwrite_output_dir",
        {"bool"},
        False,
        "If output_dir already holds files: true starts afresh and keeps the old run beside it, false is an error.",
    ),
)


@cache
def training_fields() -> dict[str, Field]:
    """The fields of section `training`, by name. Raises NeuralbotError if transformers is not installed."""
    folder = _transformers_folder()
    enums = {name: values for file in _ENUM_SOURCES for name, values in _enums(folder / file)}
    found = {}
    for item in _class_body(folder / _SOURCE):
        name = ast.unparse(item.target)
        if name not in _DEPRECATED:
            found[name] = _field(name, item, enums)
    for name, kinds, default, text in _OWN:
        found[name] = Field("training", name, frozenset(kinds), (), default, text, _interval(name))
    return found


def _transformers_folder() -> Path:
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise NeuralbotError("the package transformers is not installed; run: pip install neuralbot")
    return Path(spec.submodule_search_locations[0])


def _class_body(path: Path) -> Iterator[ast.AnnAssign]:
    """The annotated fields of TrainingArguments."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef) and statement.name == "TrainingArguments":
            for item in statement.body:
                if isinstance(item, ast.AnnAssign):
                    yield item


def _enums(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and values of each ExplicitEnum in a file."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef) and "ExplicitEnum" in map(ast.unparse, statement.bases):
            assigned = [item.value for item in statement.body if isinstance(item, ast.Assign)]
            yield statement.name, tuple(str(value.value) for value in assigned if isinstance(value, ast.Constant))


def _field(name: str, item: ast.AnnAssign, enums: dict[str, tuple[str, ...]]) -> Field:
    given = {keyword.arg: keyword.value for keyword in getattr(item.value, "keywords", [])}
    metadata = _metadata(given.get("metadata"))
    kinds, choices = read_annotation(ast.unparse(item.annotation), enums)
    if "dict" in kinds:
        kinds -= {"str"}  # there it stands for JSON, or a file with it: YAML has mappings
    default = [] if "default_factory" in given else _literal(given.get("default"))
    return Field(
        section="training",
        name=name,
        kinds=kinds,
        choices=_CHOICES.get(name) or tuple(metadata.get("choices") or ()) or choices,
        default=default,
        help=_HELP.get(name) or str(metadata.get("help") or "").replace("%%", "%"),
        interval=_interval(name),
    )


def _metadata(node: ast.expr | None) -> dict[str, Any]:
    """The literal parts of `metadata={...}`."""
    if not isinstance(node, ast.Dict):
        return {}
    pairs = zip(node.keys, node.values, strict=True)
    return {str(_literal(key)): _literal(value) for key, value in pairs}


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal; None for anything computed."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _interval(name: str) -> Interval | None:
    return Interval.of(_INTERVALS[name]) if name in _INTERVALS else None
