"""The names of `intel_extension_for_transformers.neural_chat` under our prefix: swap the import, keep the script.

Imported lazily, so that a configuration can be written without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuralbot.neural_chat.config import GenerationConfig, LoadingModelConfig, PipelineConfig
from neuralbot.transformers import MixedPrecisionConfig

if TYPE_CHECKING:
    from neuralbot.chatbot import build_chatbot

__all__ = ["GenerationConfig", "LoadingModelConfig", "MixedPrecisionConfig", "PipelineConfig", "build_chatbot"]


def __getattr__(name: str) -> Any:
    if name == "build_chatbot":
        from neuralbot.chatbot import build_chatbot

        return build_chatbot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
