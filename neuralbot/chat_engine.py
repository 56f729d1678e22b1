"""PipelineConfig -> the engine that answers: a model in this process, by its config.json, or one on a server.

A folder is never judged by letters in its path. Refuses what cannot be honoured, and tells what has no effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot import fast_engine, precision
from neuralbot.arguments import ServingArguments
from neuralbot.conversation import ensure_chat_template
from neuralbot.engines.remote import RemoteEngine, endpoint_engine, openai_engine
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError, ResourceError
from neuralbot.modeling import load_base, load_for_chat, resolve_model
from neuralbot.neural_chat import config as settings
from neuralbot.neural_chat.config import LoadingModelConfig, PipelineConfig
from neuralbot.precision import Device, Precision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from neuralbot.engines.protocol import Engine
    from neuralbot.modeling import LoadedModel

# The names that neural_chat sent to OpenAI; any other name goes there with an openai_config.
_OPENAI_NAMES = re.compile(r"gpt-(4|3\.5-turbo)[\w.:-]*")


@dataclass
class LoadedEngine:
    """An engine with the settings stored beside its model; notices: what was adapted or has no effect."""

    engine: Engine | RemoteEngine
    serving: ServingArguments = field(default_factory=ServingArguments)
    notices: list[str] = field(default_factory=list)


def load(config: PipelineConfig) -> LoadedEngine:
    """Raises ModelError for a model or setting that cannot be used, ResourceError for a device that is not there."""
    loading = config.loading_config or LoadingModelConfig()
    settings.refuse(config, settings.PIPELINE_REFUSED, ModelError)
    settings.refuse(loading, settings.LOADING_REFUSED, ModelError)
    remote = _remote(config)
    if remote is not None:
        return LoadedEngine(
            remote, notices=[*remote.notices, *settings.without_effect(config, settings.REMOTE_NO_EFFECT)]
        )
    notices = settings.without_effect(loading, settings.LOADING_NO_EFFECT)
    if config.openai_config is not None:
        notices.append(f"openai_config has no effect: {config.model_name_or_path} is a model in this process")
    return _local(config, loading, notices)


def _remote(config: PipelineConfig) -> RemoteEngine | None:
    name = config.model_name_or_path
    if config.hf_endpoint_url:
        model = "tgi" if name == settings.DEFAULT_MODEL else name
        return endpoint_engine(config.hf_endpoint_url, model, config.hf_access_token)
    if Path(name).expanduser().is_dir():
        return None
    if config.openai_config is not None or _OPENAI_NAMES.fullmatch(name):
        return openai_engine(name, config.openai_config)
    return None


def _local(config: PipelineConfig, loading: LoadingModelConfig, notices: list[str]) -> LoadedEngine:
    if config.prompt_lookup and config.assistant_model:
        raise ModelError("prompt_lookup and assistant_model both guess tokens ahead: give one of them")
    resolve_model(config.model_name_or_path)  # a misspelt name is found before torch loads
    device = _device(config.device)
    engine: Engine
    if (fast := _fast(config, loading, device, notices)) is not None:
        engine, serving, said = fast
    else:
        engine, serving, said = _torch_engine(config, loading, device)
        if config.prompt_lookup:
            notices.append("PipelineConfig(prompt_lookup=True) has no effect: it is for the OpenVINO engine")
    notices += said
    try:
        return LoadedEngine(engine, ServingArguments(**serving), notices)
    except TypeError as error:
        raise ModelError(f"the serving.json of {config.model_name_or_path} cannot be used: {error}") from error


def _fast(
    config: PipelineConfig, loading: LoadingModelConfig, device: Device, notices: list[str]
) -> tuple[Engine, dict[str, Any], list[str]] | None:
    """The OpenVINO engine; None where the torch engine is to answer, with a notice if that is no choice of the user."""
    return fast_engine.where_it_runs(
        config.engine,
        device,
        lambda: fast_engine.load(config, loading.peft_path, lambda: _torch_engine(config, loading, device)[0]),
        notices,
    )


def _torch_engine(
    config: PipelineConfig, loading: LoadingModelConfig, device: Device
) -> tuple[Engine, dict[str, Any], list[str]]:
    """The engine, the settings stored with the run, and what was adapted."""
    chosen = precision.of(config.optimization_config, device)
    loaded = _load_model(config, loading, chosen)
    notices = list(chosen.notices)
    style = ensure_chat_template(loaded.tokenizer, config.task or "chat")
    if config.task and style == "tokenizer":
        notices.append(f"PipelineConfig(task={config.task!r}) has no effect: the model brings its own chat template")
    assistant = _load_assistant(config, loaded, chosen.dtype) if config.assistant_model else None

    from neuralbot.engines.torch_engine import TorchEngine

    engine = TorchEngine(loaded.model.to(device), loaded.tokenizer, None if assistant is None else assistant.to(device))
    return engine, loaded.serving, notices


def _load_model(config: PipelineConfig, loading: LoadingModelConfig, chosen: Precision) -> LoadedModel:
    quantize = chosen.quantize
    if quantize is None:
        read = load_base
    else:
        from neuralbot import quantized_base

        read = partial(quantized_base.load_quantized, quantize=quantize)
    loaded = load_for_chat(
        config.model_name_or_path,
        chosen.dtype,
        peft_path=loading.peft_path,
        tokenizer_source=config.tokenizer_name_or_path,
        token=config.hf_access_token,
        load_plain=read,
    )
    if quantize is not None:
        # An adapter was merged into the weights as they are stored; only the sum of both is rounded.
        quantized_base.quantize_layers(loaded.model, quantize)
        kept, plain = quantized_base.count_layers(loaded.model)
        if not kept:
            raise ModelError(
                f"{config.model_name_or_path} ({loaded.model.config.model_type}) has no linear layer that can be kept "
                f"in {chosen.kind}; use MixedPrecisionConfig()",
                code=ErrorCodes.ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL,
            )
        if plain:
            chosen.notices.append(f"{plain} of {kept + plain} linear layers do not divide into blocks and stay plain")
    return loaded


def _load_assistant(config: PipelineConfig, main: LoadedModel, dtype: torch.dtype) -> PreTrainedModel:
    name = str(config.assistant_model)
    loaded = load_for_chat(name, dtype, token=config.hf_access_token)
    if loaded.tokenizer.get_vocab() != main.tokenizer.get_vocab():
        raise ModelError(
            f"assistant_model={name} has another vocabulary than {config.model_name_or_path}: give a smaller model of "
            "the same family"
        )
    if loaded.model._is_stateful or main.model._is_stateful:
        raise ModelError(f"assistant_model={name}: recurrent models cannot take back what they have read; remove it")
    return loaded.model


def _device(name: str) -> Device:
    if name == "cpu" or (name == "auto" and "+cpu" in version("torch")):  # importing torch takes a second
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda":
        raise ResourceError(
            f"device={name!r} is not supported: expected auto, cpu or cuda", code=ErrorCodes.ERROR_DEVICE_NOT_SUPPORTED
        )
    if not torch.cuda.is_available():
        raise ResourceError(
            "device='cuda' was asked for, but torch sees no CUDA device; use device='auto' or 'cpu'",
            code=ErrorCodes.ERROR_DEVICE_NOT_FOUND,
        )
    return "cuda"
