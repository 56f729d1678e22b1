"""The names of `intel_extension_for_transformers.neural_chat` under our prefix: swap the import, keep the script.

Imported lazily, so that a configuration can be written without loading torch. What becomes of each name and field:
docs/neural_chat.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuralbot.neural_chat.config import (
    CodeGenerationFinetuningConfig,
    GenerationConfig,
    LoadingModelConfig,
    PipelineConfig,
    SummarizationFinetuningConfig,
    TextGenerationFinetuningConfig,
    TTSFinetuningConfig,
)
from neuralbot.neural_chat.plugins import plugins
from neuralbot.neural_chat.server.neuralchat_server import NeuralChatServerExecutor
from neuralbot.transformers import MixedPrecisionConfig
from neuralbot.transformers.refused import Refused

if TYPE_CHECKING:
    from neuralbot.neural_chat.chatbot import build_chatbot, finetune_model, optimize_model

__all__ = [
    "CodeGenerationFinetuningConfig",
    "FinetuningClientExecutor",
    "GenerationConfig",
    "LoadingModelConfig",
    "MixedPrecisionConfig",
    "NeuralChatServerExecutor",
    "PipelineConfig",
    "SummarizationFinetuningConfig",
    "TTSFinetuningConfig",
    "TextChatClientExecutor",
    "TextGenerationFinetuningConfig",
    "VoiceChatClientExecutor",
    "build_chatbot",
    "finetune_model",
    "optimize_model",
    "plugins",
]


class TextChatClientExecutor(Refused):
    reason = "ask `neuralbot serve RUN` by any client of OpenAI, or chat with `neuralbot chat RUN`"


class VoiceChatClientExecutor(Refused):
    reason = "speech is not offered; chat with `neuralbot chat RUN`"


class FinetuningClientExecutor(Refused):
    reason = "the server finetunes nothing; call finetune_model(config)"


def __getattr__(name: str) -> Any:
    if name not in ("build_chatbot", "finetune_model", "optimize_model"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("neuralbot.neural_chat.chatbot"), name)
