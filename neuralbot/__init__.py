"""neuralbot: finetune and serve a language model on a CPU server. One recipe in, a chatbot out.

The public names are imported when first used, so that `import neuralbot` costs milliseconds and loads neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuralbot import text_only

if TYPE_CHECKING:
    from neuralbot.chatbot import build_chatbot
    from neuralbot.neural_chat.config import GenerationConfig, LoadingModelConfig, PipelineConfig
    from neuralbot.transformers import MixedPrecisionConfig

text_only.hide_torchvision()

__version__ = "0.1.0"

__all__ = [
    "GenerationConfig",
    "LoadingModelConfig",
    "MixedPrecisionConfig",
    "PipelineConfig",
    "__version__",
    "build_chatbot",
]

_HOME = {
    "GenerationConfig": "neuralbot.neural_chat.config",
    "LoadingModelConfig": "neuralbot.neural_chat.config",
    "MixedPrecisionConfig": "neuralbot.transformers",
    "PipelineConfig": "neuralbot.neural_chat.config",
    "build_chatbot": "neuralbot.chatbot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'neuralbot' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
