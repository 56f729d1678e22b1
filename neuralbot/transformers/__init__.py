"""The names of `intel_extension_for_transformers.transformers` under our prefix.

Importing it loads neither torch nor transformers; the names that need them are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuralbot.transformers.auto_model import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, OptimizedModel
from neuralbot.transformers.configs import (
    AMPConfig,
    AutoRoundConfig,
    AwqConfig,
    DynamicQuantConfig,
    GPTQConfig,
    MixedPrecisionConfig,
    QuantAwareTrainingConfig,
    RtnConfig,
    SmoothQuantConfig,
    StaticQuantConfig,
    TeqConfig,
    WeightOnlyQuantConfig,
)

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

    from neuralbot.transformers.training_arguments import TrainingArguments

__all__ = [
    "AMPConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoRoundConfig",
    "AwqConfig",
    "BitsAndBytesConfig",
    "DynamicQuantConfig",
    "GPTQConfig",
    "MixedPrecisionConfig",
    "OptimizedModel",
    "QuantAwareTrainingConfig",
    "RtnConfig",
    "SmoothQuantConfig",
    "StaticQuantConfig",
    "TeqConfig",
    "TrainingArguments",
    "WeightOnlyQuantConfig",
]

_HOME = {"BitsAndBytesConfig": "transformers", "TrainingArguments": "neuralbot.transformers.training_arguments"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
