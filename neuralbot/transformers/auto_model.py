"""`AutoModelForCausalLM.from_pretrained` of ITREX: a transformers model in the precision or bits that are asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError
from neuralbot.transformers.configs import RtnConfig
from neuralbot.transformers.refused import Refused

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_PLACE = ("revision", "token", "cache_dir")
# What changes nothing at these values.
_IDLE = {"trust_remote_code": False, "use_neural_speed": False, "device_map": "cpu", "low_cpu_mem_usage": True}


class AutoModelForCausalLM:
    """Loads language models."""

    @staticmethod
    def from_pretrained(
        name: str,
        *,
        quantization_config: Any = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        torch_dtype: torch.dtype | str | None = None,
        **kwargs: Any,
    ) -> PreTrainedModel:
        """The model of a folder, or of the hub, with `revision`, `token` and `cache_dir` as in transformers.

        quantization_config: what PipelineConfig's optimization_config may be. 4 bits are nf4, 8 bits int8. Raises
        ModelError for what cannot be loaded or honoured.
        """
        from neuralbot import modeling, precision, quantized_base

        place = {key: kwargs.pop(key) for key in _PLACE if key in kwargs}
        for key, value in kwargs.items():
            if key not in _IDLE or value != _IDLE[key]:
                raise _refused(f"{key}={value!r}", f"expected quantization_config, torch_dtype, {', '.join(_PLACE)}")
        if load_in_4bit or load_in_8bit:
            quantization_config = RtnConfig(8) if load_in_8bit else RtnConfig(4, weight_dtype="nf4")
        if quantization_config is None:
            return modeling.load_base(name, _dtype(torch_dtype), **place)
        chosen = precision.of(quantization_config, "cpu")
        for notice in chosen.notices:
            logger.warning("%s", notice)
        dtype = chosen.dtype if torch_dtype is None else _dtype(torch_dtype)
        if chosen.quantize is None:
            return modeling.load_base(name, dtype, **place)
        return quantized_base.load_quantized(name, dtype, chosen.quantize, **place)


def _dtype(given: torch.dtype | str | None) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, given) if isinstance(given, str) else given or torch.float32
    return found


def _refused(what: str, expected: str) -> ModelError:
    return ModelError(
        f"AutoModelForCausalLM.from_pretrained: {what} cannot be honoured: {expected}",
        code=ErrorCodes.ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL,
    )


class AutoModel(Refused):
    reason = "only language models are loaded; use AutoModelForCausalLM"


class AutoModelForSeq2SeqLM(Refused):
    reason = "only models that continue a text are trained and served; use AutoModelForCausalLM"


class OptimizedModel(Refused):
    reason = "its int8 checkpoints need IPEX, which is archived; use AutoModelForCausalLM"
