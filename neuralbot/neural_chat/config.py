"""The chatbot's configuration classes: every field and default of neural_chat 1.4.2, and what becomes of each.

A field that cannot be honoured stands in a REFUSED table (a value other than the default raises, with the reason)
or in a NO_EFFECT table (one warning). All other fields work. Plain data: nothing is loaded or checked on creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from neuralbot.arguments import DataArguments, FinetuningArguments, ModelArguments
from neuralbot.errors import NeuralbotError

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = [
    "AudioLanguageOptions",
    "BackendOptions",
    "BaseFinetuningConfig",
    "CodeGenerationFinetuningConfig",
    "DataArguments",
    "DeviceOptions",
    "FinetuningArguments",
    "FrameworkConfig",
    "GenerationConfig",
    "LoadingModelConfig",
    "ModelArguments",
    "OpenAIConfig",
    "PipelineConfig",
    "RetrievalTypeOptions",
    "ServingConfig",
    "SummarizationFinetuningConfig",
    "TTSDatasetArguments",
    "TTSFinetuningConfig",
    "TTSModelArguments",
    "TextGenerationFinetuningConfig",
    "VllmEngineParams",
]

DEFAULT_MODEL = "Intel/neural-chat-7b-v3-1"


DeviceOptions = Enum("DeviceOptions", "AUTO CPU GPU XPU HPU CUDA")
BackendOptions = Enum("BackendOptions", "AUTO TORCH IPEX ITREX")
AudioLanguageOptions = Enum("AudioLanguageOptions", "ENGLISH CHINESE")
RetrievalTypeOptions = Enum("RetrievalTypeOptions", "SPARSE DENSE")


@dataclass
class LoadingModelConfig:
    """How the model is loaded."""

    cpu_jit: bool | None = None
    peft_path: str | None = None  # folder of an adapter for the model
    use_hpu_graphs: bool = False
    use_cache: bool = True
    use_deepspeed: bool = False
    use_tpp: bool = False
    world_size: int = 1
    ipex_int8: bool = False
    use_neural_speed: bool = False
    gguf_model_path: str | None = None


@dataclass
class PipelineConfig:
    """Which model a chatbot runs, where and in which precision."""

    model_name_or_path: str = DEFAULT_MODEL  # a run folder, a model folder, "seedling" or a hub name
    tokenizer_name_or_path: str | None = None
    hf_endpoint_url: str | None = None
    hf_access_token: str | None = field(default=None, repr=False)
    device: str = "auto"
    task: str = ""
    plugins: Mapping[str, Any] | None = None  # None: those of neural_chat.plugins
    loading_config: LoadingModelConfig | None = None  # None: LoadingModelConfig()
    optimization_config: Any = None  # see neuralbot.precision; None: bfloat16 on a processor, float16 on cuda
    assistant_model: str | None = None
    serving_config: ServingConfig | None = None
    openai_config: OpenAIConfig | None = None
    engine: str = "auto"  # openvino where it is installed and runs, else torch; or one of these two
    prompt_lookup: bool | None = (
        None  # openvino: guesses tokens that the prompt holds; None: where the task is summaries
    )


@dataclass
class OpenAIConfig:
    """The account at OpenAI; None: OPENAI_API_KEY and OPENAI_ORG of the environment, read when the chatbot is built."""

    api_key: str | None = field(default=None, repr=False)
    organization: str | None = None


@dataclass
class FrameworkConfig:
    """Base of the settings of a serving framework."""


@dataclass
class VllmEngineParams(FrameworkConfig):
    """Settings of vLLM."""

    use_async_engine: bool = True
    tensor_parallel_size: int = 1
    quantization: str | None = None
    gpu_memory_utilization: float = 0.9
    swap_space: int = 4
    enforce_eager: bool = False
    max_context_len_to_capture: int = 8192


@dataclass
class ServingConfig:
    """Which serving framework answers in place of the model here."""

    framework: str = "vllm"
    framework_config: FrameworkConfig | None = None


@dataclass
class GenerationConfig:
    """How one answer is generated. Given to predict it counts as a whole, in place of the run's own settings."""

    device: str = "cpu"
    temperature: float = 0.1
    top_k: int = 40
    top_p: float = 0.75
    repetition_penalty: float = 1.1
    num_beams: int = 1
    max_new_tokens: int = 256
    do_sample: bool = True
    num_return_sequences: int = 1
    bad_words_ids: list[Any] | None = None  # token ids, or lists of them for words of several tokens
    force_words_ids: list[Any] | None = None
    use_hpu_graphs: bool = False
    use_cache: bool = True
    audio_output_path: str | None = None
    cpu_jit: bool = False
    num_gpus: int = 0
    max_gpu_memory: int | None = None
    use_fp16: bool = False
    ipex_int8: bool = False
    return_stats: bool = False
    format_version: str = "v2"
    task: str = ""
    sql_metadata: str = ""


@dataclass
class BaseFinetuningConfig:
    """What `finetune_model` is given; `finetune_args.task` says what is trained."""

    model_args: ModelArguments
    data_args: DataArguments
    training_args: TrainingArguments
    finetune_args: FinetuningArguments


TextGenerationFinetuningConfig = BaseFinetuningConfig
SummarizationFinetuningConfig = BaseFinetuningConfig
CodeGenerationFinetuningConfig = BaseFinetuningConfig


@dataclass
class TTSDatasetArguments:
    """Recordings and their texts."""

    audio_folder_path: str | None = None
    text_folder_path: str | None = None


@dataclass
class TTSModelArguments:
    """How a voice is trained."""

    step: int = 0
    warmup_step: int = 0
    learning_rate: float = 1e-5


@dataclass
class TTSFinetuningConfig:
    """Finetuning of a voice, which finetune_model refuses."""

    dataset_args: TTSDatasetArguments
    model_args: TTSModelArguments


_NO_GAUDI = "Gaudi devices are not supported; remove it"
_NO_IPEX = "intel-extension-for-pytorch is archived; use MixedPrecisionConfig()"
_ONE_PROCESS = "a chatbot runs in one process; remove it"

LOADING_REFUSED = {
    "use_hpu_graphs": _NO_GAUDI,
    "use_deepspeed": _ONE_PROCESS,
    "use_tpp": _ONE_PROCESS,
    "world_size": _ONE_PROCESS,
    "ipex_int8": _NO_IPEX,
    "gguf_model_path": "GGUF files are not read; give a folder with safetensors",
}
LOADING_NO_EFFECT = {
    "cpu_jit": "models are not traced",
    "use_cache": "the key/value cache is always used; answers are the same",
    "use_neural_speed": "weight-only models run on neuralbot's own layers (optimization_config=RtnConfig(...))",
}
PIPELINE_REFUSED = {
    "serving_config": "vLLM is not offered; remove it",
}
REMOTE_NO_EFFECT = dict.fromkeys(
    (
        "tokenizer_name_or_path",
        "device",
        "task",
        "loading_config",
        "optimization_config",
        "assistant_model",
        "prompt_lookup",
    ),
    "the model runs on a server",
)
GENERATION_REFUSED = {
    "force_words_ids": "constrained beam search needs code from the hub, which is never run; remove it",
    "use_hpu_graphs": _NO_GAUDI,
    "audio_output_path": "speech is not offered; remove it",
    "ipex_int8": _NO_IPEX,
    "sql_metadata": "there is no prompt style for SQL; put the schema into the query",
}
GENERATION_NO_EFFECT = {
    "device": "the device is chosen once, by PipelineConfig(device=...)",
    "use_cache": "the key/value cache is always used; answers are the same",
    "cpu_jit": "models are not traced",
    "num_gpus": "the device is chosen once, by PipelineConfig(device=...)",
    "max_gpu_memory": "the device is chosen once, by PipelineConfig(device=...)",
    "use_fp16": "the precision is chosen once, by PipelineConfig(optimization_config=MixedPrecisionConfig('float16'))",
    "task": "the prompt style is chosen once, by PipelineConfig(task=...)",
}


def refuse(config: Any, refused: Mapping[str, str], error: type[NeuralbotError]) -> None:
    """Raises `error` for the first field of `refused` that is not at its default."""
    for name in _changed(config):
        if name in refused:
            raise error(f"{_shown(config, name)} cannot be honoured: {refused[name]}")


def without_effect(config: Any, no_effect: Mapping[str, str]) -> list[str]:
    """One sentence for each field that is set but changes nothing."""
    names = [name for name in _changed(config) if name in no_effect]
    return [f"{_shown(config, name)} has no effect: {no_effect[name]}" for name in names]


def _changed(config: Any) -> list[str]:
    return [entry.name for entry in fields(config) if getattr(config, entry.name) != _default(entry)]


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default is not MISSING else None


def _shown(config: Any, name: str) -> str:
    return f"{type(config).__name__}({name}={getattr(config, name)!r})"
